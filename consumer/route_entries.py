"""The entries of ROUTES and ROUTES_FILE: how they are read, and what one alone must look like."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from consumer.model import Store
from consumer.routes import Place
from consumer.setting_display import quoted
from consumer.setting_types import StorageClass, key_prefix
from consumer.uris import parse_place

if TYPE_CHECKING:
    from pydantic import ValidationInfo
    from pydantic_core import ErrorDetails

STORAGE_CLASSES: Final = {
    # https://cloud.google.com/storage/docs/storage-classes; the two legacy ones can no longer be chosen for a bucket.
    Store.GCS: ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE"),
    # https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html, without those of other kinds of buckets.
    Store.S3: (
        *("STANDARD", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING"),
        *("GLACIER_IR", "GLACIER", "DEEP_ARCHIVE", "REDUCED_REDUNDANCY"),
    ),
}


def _place(value: str) -> str:
    place = parse_place(value)
    if "*" in place.prefix:
        raise ValueError("must end in a prefix, which is taken literally: put patterns with * into include")
    key_prefix(place.prefix)
    return value


def _globs(value: tuple[str, ...] | None) -> tuple[str, ...]:
    if value and "" in value:
        raise ValueError("must hold no empty glob")
    return value or ()


PlaceUri = Annotated[str, AfterValidator(_place)]
Globs = Annotated[tuple[str, ...] | None, AfterValidator(_globs)]


class RouteEntry(BaseModel):
    """One route as it is configured; what is None is as the setting for all says."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    source: PlaceUri = Field(alias="from")
    destination: PlaceUri = Field(alias="to")
    include: Globs = ()
    exclude: Globs = ()
    storage_class: StorageClass | None = None
    replicate_deletes: bool | None = None
    on_foreign_object: Literal["refuse", "overwrite"] | None = None
    on_missing_object: Literal["ack", "retry", "dlq"] | None = None

    @field_validator("storage_class")
    @classmethod
    def _known_there(cls, value: str | None, info: ValidationInfo) -> str | None:
        destination = info.data.get("destination")
        if value is None or destination is None:
            return value
        store = parse_place(destination).store
        if value not in STORAGE_CLASSES[store]:
            known = ", ".join(STORAGE_CLASSES[store])
            raise ValueError(f"must be one that {store}:// has: {known}")
        return value

    @property
    def places(self) -> tuple[Place, Place]:
        """The source and the destination."""
        return parse_place(self.source), parse_place(self.destination)

    def __str__(self) -> str:
        said = [
            f"{name} {' '.join(globs)}"
            for name, globs in (("include", self.include), ("exclude", self.exclude))
            if globs
        ]
        chosen = (self.storage_class, self.on_foreign_object, self.on_missing_object)
        said += [value for value in chosen if value]
        if self.replicate_deletes is not None:
            said.append("with deletes" if self.replicate_deletes else "without deletes")
        return f"{self.source} → {self.destination}" + (f" ({'; '.join(said)})" if said else "")


_EXAMPLE: Final = '{"from": "s3://BUCKET/PREFIX", "to": "gs://BUCKET/PREFIX"}'
_NAMES: Final = [field.alias or name for name, field in RouteEntry.model_fields.items()]
_WANTED: Final = {
    "tuple_type": 'must be a list, such as ["*.parquet"]',
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "model_type": f"must be an object, such as {_EXAMPLE}",
}


def entry_problem(detail: ErrorDetails, *where: int | str) -> str:
    """One of pydantic's errors in one entry, in words; `where` is the way to it, beginning with the entry's index."""
    number, *names = where
    place = f"entry {int(number) + 1}" + "".join(f": {name}" for name in names[:1])
    given = detail["input"]
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(names[0]), _NAMES, n=1, cutoff=0.6)
        return f"entry {int(number) + 1}: {quoted(str(names[0]))} is unknown" + (
            f"; did you mean {close[0]}?" if close else f"; known are {', '.join(_NAMES)}"
        )
    if detail["type"] == "missing":
        return f"{place}: required but not set: a bucket and prefix, such as s3://BUCKET/PREFIX"
    rule = _WANTED.get(detail["type"], detail["msg"].replace("Input should", "must"))
    if detail["type"] == "value_error":
        rule = str(detail["ctx"]["error"])
    return f"{place}: {rule}; it is {quoted(given if isinstance(given, str) else json.dumps(given, default=str))}"


# --- Reading ---


class RoutesFile(BaseModel):
    """A file of routes as it was read, once."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    path: str
    entries: tuple[RouteEntry, ...]

    def __str__(self) -> str:
        return self.path


def from_json(value: object) -> object:
    """What a text of JSON says; anything else as it is. Raises ValueError."""
    return _entries(_json(value)) if isinstance(value, str) else value


def from_file(value: object) -> object:
    """What is in the file whose path is given; anything else as it is. Raises ValueError."""
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    readers = {".json": _json, ".toml": _toml, ".yaml": _yaml, ".yml": _yaml}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ValueError(
            f"must be the path of a .yaml, .yml, .toml or .json file, which {quoted(str(value))} is not"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"the file {quoted(str(value))} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the file {quoted(str(value))} is not text in UTF-8") from None
    return {"path": str(value), "entries": _entries(read(text))}


def _entries(read: object) -> object:
    """The list of routes, by itself or under `routes`."""
    if isinstance(read, dict) and set(read) == {"routes"}:
        read = read["routes"]
    if not isinstance(read, list):
        problem = f'must hold a list of routes, by itself or under "routes" alone, each such as {_EXAMPLE}'
        raise ValueError(problem)  # noqa: TRY004 - pydantic collects no TypeError
    if not read:
        raise ValueError("must hold one route or more; unset it when there are none")
    return read


def _json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"must be JSON, and a path belongs in ROUTES_FILE: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise ValueError("must be JSON of a list of routes: it is nested too deeply") from None


def _toml(text: str) -> object:
    import tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"must be TOML: {_one_line(error)}") from None


def _yaml(text: str) -> object:
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            _without_duplicates(
                (key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)
            )
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - it is a safe loader that knows one error more
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"must be YAML: {error.problem or error.context}{where}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"must be YAML: {_one_line(error)}") from None


def _without_duplicates(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"must not name {quoted(str(name))} twice in one place")
        found[name] = value
    return found


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip() or "it is nested too deeply"
