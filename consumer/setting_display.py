"""How settings are shown: their values, and what is wrong with them in one line each, never a secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

_SECRETS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "API_TOKEN")
# Their rules quote what may be shown of the value: a path may turn out to be a pasted key, a list be long, and a
# URL of the ledger hold a password where none is looked for.
_QUOTED_BY_RULE: Final = (
    *("GOOGLE_APPLICATION_CREDENTIALS", "SOURCE_BUCKETS", "ROUTES", "ROUTES_FILE"),
    "LEDGER_URL",
)
_RULES: Final = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false (1 or 0, yes or no, on or off)",
}


def public_value(name: str, value: object) -> object:
    """A field's value fit for a log or JSON: a secret as `set` or `not set`, a URL without user."""
    if name in _SECRETS:
        return "set" if value else "not set"
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, str) and _is_url(name):
        return without_userinfo(value)
    if isinstance(value, tuple):
        return [str(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def required_line(name: str, description: str) -> str:
    return f"{name}: required but not set: {description}"


def problem_line(name: str, detail: ErrorDetails, given: Mapping[str, str], description: str) -> str:
    """One of pydantic's errors in words: what would be right, and what it is unless that is secret."""
    if detail["type"] == "missing":
        return required_line(name, description)
    rule = _RULES.get(detail["type"], detail["msg"].replace("Input should", "must"))
    if detail["type"] == "value_error":
        rule = str(detail["ctx"]["error"])
    if name in _SECRETS or name in _QUOTED_BY_RULE:
        return f"{name}: {rule}"
    value = given.get(name, str(detail["input"]))
    return f"{name}: {rule}; it is {quoted(without_userinfo(value) if _is_url(name) else value)}"


def quoted(value: str) -> str:
    """The value for a problem's one line: in quotes, escaped, and not longer than anybody reads."""
    return ascii(value if len(value) <= 100 else f"{value[:100]}...")


def without_userinfo(url: str) -> str:
    """The URL as it may be shown: without user information, query and fragment."""
    # For what is no valid URL as well: everything up to the last @ goes, and the query, where tokens travel.
    scheme = "".join(re.findall(r"^[a-z]{1,10}://", url, re.IGNORECASE))
    return scheme + re.split(r"[?#]", url.removeprefix(scheme).rpartition("@")[2])[0]


def _is_url(name: str) -> bool:
    return name.endswith(("_URL", "_HOST"))
