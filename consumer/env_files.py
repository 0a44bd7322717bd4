"""The layers of the configuration: the process environment, over `.env.local`, over `.env`.

Which names mean something is the caller's knowledge; what a value must look like is not looked at here.
"""

from __future__ import annotations

import difflib
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dotenv.parser import parse_stream
from dotenv.variables import Variable, parse_variables

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

_OF_LIBRARIES: Final = re.compile(
    r"AWS_(PROFILE|DEFAULT_\w+|ENDPOINT_URL\w*|CA_BUNDLE|ROLE_\w+|WEB_IDENTITY_TOKEN_FILE|CONTAINER_\w+|"
    r"CONFIG_FILE|SHARED_CREDENTIALS_FILE|STS_\w+|EC2_\w+|METADATA_\w+|USE_\w+|RETRY_MODE|MAX_ATTEMPTS|"
    r"IGNORE_\w+|SDK_\w+)|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|REQUESTS_CA_BUNDLE|SSL_CERT_(FILE|DIR)|"
    r"GOOGLE_(CLOUD|API|AUTH)_\w+|GCLOUD_\w+|CLOUDSDK_\w+|GCE_\w+|BOTO_CONFIG"
)


@dataclass(frozen=True, slots=True)
class Layers:
    """What the layers say together, by variable name, and where each value comes from; never an empty one."""

    values: dict[str, str]
    origins: dict[str, str]
    problems: list[str]
    warnings: list[str]


def read_layers(environment: Mapping[str, str], directory: Path, known: Collection[str]) -> Layers:
    """The values of the `known` names: each from the topmost layer that has one that is not empty.

    Other names are a warning in a file, and nobody's business in the environment. Problems and warnings are of
    one line each and repeat no value.
    """
    problems: list[str] = []
    warnings: list[str] = []
    layers = [("the process environment", environment)]
    for file in (".env.local", ".env"):
        layers.append((file, _read_env_file(directory / file, environment, known, problems, warnings)))
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for name in known:
        for origin, layer in layers:
            if name not in values and (value := _clean(name, layer.get(name, ""))):
                values[name], origins[name] = value, origin
    return Layers(values, origins, problems, warnings)


def _read_env_file(
    path: Path,
    environment: Mapping[str, str],
    known: Collection[str],
    problems: list[str],
    warnings: list[str],
) -> dict[str, str]:
    """The values of one file, the last of duplicates; what is wrong with it is added to the two lists."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        problems.append(f"{path.name}: cannot be read: {why}")
        return {}
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for name, value, original, unreadable in parse_stream(io.StringIO(text)):
        # The parser counts the blank lines before a statement as its beginning.
        blank = original.string[: len(original.string) - len(original.string.lstrip())]
        line = original.line + blank.count("\n")
        where = f"{path.name} line {line}"
        if unreadable or (name is not None and value is None):
            problems.append(f"{where}: must be NAME=value, with quotes closed")
        elif name is not None and value is not None:
            if name not in known:
                warnings.append(f"{where}: {_unknown(name, known)}")
            elif name in lines:
                warnings.append(
                    f"{where}: {name} is set again; this line counts, line {lines[name]} does not"
                )
            atoms = list(parse_variables(value))
            context = {**values, **environment}
            for atom in atoms:
                if isinstance(atom, Variable) and atom.default is None and atom.name not in context:
                    warnings.append(
                        f"{where}: {name} refers to a ${{}} variable that is not set, taken as empty"
                    )
            values[name] = "".join(atom.resolve(context) for atom in atoms)
            lines[name] = line
    return values


def _unknown(name: str, known: Collection[str]) -> str:
    # What was not meant as a variable may be anything, a secret too, and is not repeated.
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", name):
        return "what stands before the = cannot name a variable, so the line is without effect"
    if _OF_LIBRARIES.fullmatch(name):
        return f"{name} is unknown here: the library for it reads the process environment only; set it there"
    close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.7)
    return f"{name} is unknown and without effect" + (f"; did you mean {close[0]}?" if close else "")


def _clean(name: str, value: str) -> str:
    # A line break at the end is the commonest flaw of a mounted secret. The prefix may end in blanks.
    return value if name == "GCS_KEY_PREFIX" else value.strip()
