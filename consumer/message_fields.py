"""What the readers of messages share: what must be right or the message is poison, what is a hint, and the errors.

Errors are ReplicatorErrors of kind poison; they name the place that is wrong and never repeat the message.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

from consumer.errors import Reason, ReplicatorError
from consumer.names import is_bucket_name

_T = TypeVar("_T", dict[str, Any], list[Any], str)
_JSON_TYPES: Final[dict[type, str]] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}

_MAX_SIZE: Final = 2**63 - 1
_MAX_NAME: Final = 128

EXPECTED: Final = (
    "expected an S3 event notification, plain or in an SNS or EventBridge envelope, or one of Cloud Storage with its "
    "attributes"
)


def load(text: str, where: str) -> dict[str, Any]:
    """The JSON object that a text is; `where` is the place of the text, with a dot behind it, empty for the body."""
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise not_json(where, f"{error.msg} (character {error.pos})") from error
    except RecursionError as error:
        raise not_json(where, "nested too deeply") from error
    except ValueError as error:
        # NaN and its like, and integers beyond the interpreter's limit of digits.
        raise not_json(where, "a number that cannot be read") from error
    if isinstance(document, dict):
        return document
    raise bad_shape(where[:-1] or "body", f"expected an object, not {type_name(document)}", hint=EXPECTED)


def checked_bucket(name: str, path: str) -> str:
    if not is_bucket_name(name):
        raise bad_shape(path, "not a bucket name")
    return name


def member(parent: dict[str, Any], name: str, expected: type[_T], where: str) -> _T:
    """The member of that name and type, without which the message cannot be understood."""
    value = parent.get(name)
    if isinstance(value, expected):
        return value
    if name not in parent:
        raise bad_shape(where + name, "missing")
    raise bad_shape(where + name, f"expected {_JSON_TYPES[expected]}, not {type_name(value)}")


def checked_key(key: str, path: str) -> str:
    if not key:
        raise bad_shape(path, "empty")
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            raise bad_shape(path, "a lone surrogate, which is no character") from None
    return key


# --- Hints --------------------------------------------------------------------------------------------------


def hint_like(value: object, pattern: re.Pattern[str]) -> str | None:
    """The value when it looks like what it should be, else None."""
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def size_hint(value: object) -> int | None:
    # Not isinstance: True is an int.
    return value if type(value) is int and 0 <= value <= _MAX_SIZE else None


def time_hint(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is UTC:
            return moment
        # Without an offset it could be anybody's clock.
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def printable(name: str) -> str:
    """The name of an event as it may be shown: short, ASCII, without control characters."""
    name = name[:_MAX_NAME]
    return name if name.isascii() and name.isprintable() else ascii(name)[1:-1]


# --- Errors -------------------------------------------------------------------------------------------------


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


# By default Python takes NaN and Infinity, which are not JSON. Built once: json.loads with options builds a
# decoder per call. The C scanner needs about 6 µs for a message, too little to be worth a dependency.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def not_json(where: str, problem: str) -> ReplicatorError:
    return ReplicatorError(Reason.NOT_JSON, f"{where[:-1] or 'body'}: not JSON: {problem}", hint=EXPECTED)


def bad_shape(path: str, problem: str, *, hint: str = "") -> ReplicatorError:
    return ReplicatorError(Reason.UNKNOWN_SHAPE, f"{path}: {problem}", hint=hint)


def shown(value: str) -> str:
    """The beginning of a wrong value: all that an error may tell of it."""
    return ascii(value[:40])


def type_name(value: object) -> str:
    return _JSON_TYPES.get(type(value), "something else")
