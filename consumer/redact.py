"""What may be shown: values made plain, short, and free of secrets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, quote_plus

EventDict = MutableMapping[str, Any]

MASK: Final = "***"
MAX_TEXT: Final = 4096
"""Characters of one field; container runtimes cut lines at 16 KiB, which would break the JSON."""
MAX_TRACEBACK: Final = 8192
_MAX_DEPTH: Final = 6
_PLAIN: Final = frozenset({int, str, bool, type(None)})
_SHORTEST_SECRET: Final = 4

_QUOTE: Final = r"""\\?["']"""
_TO_LINE_END: Final = r"""[^"'\r\n]*"""
_WORD: Final = r"""[^&\s"'<>,;)\]}\\]+"""


def _token(names: str) -> str:
    return rf"((?:{names})(?:{_QUOTE})?\s*[=:]\s*(?:b?{_QUOTE})?){_WORD}"


# What must occur in the lower-cased text for the pattern to be tried at all: that keeps clean lines cheap.
_PATTERNS: Final = tuple(
    (marker, re.compile(pattern, re.IGNORECASE | re.DOTALL), rf"\1{MASK}")
    for marker, pattern in (
        (
            "authorization",
            rf"(authorization(?:(?:{_QUOTE})\s*[,:=]|\s*[:=])\s*(?:b?{_QUOTE})?){_TO_LINE_END}",
        ),
        ("aws4-hmac-sha256", rf"(AWS4-HMAC-SHA256\s+){_TO_LINE_END}"),
        ("bearer", r"(\bbearer\s+)[^\s\"'\\,;]+"),
        ("upload_id", _token(r"\bupload_id")),
        ("uploadid", _token(r"\buploadid")),
        ("x-amz-", _token(r"x-amz-(?:signature|security-token|credential|server-side-encryption\S*?-key)")),
        ("x-goog-", _token(r"x-goog-(?:signature|credential|api-key|encryption-key)")),
        ("token", _token(r"\b\w*token")),
        ("secret", _token(r"\b\w*secret(?:_?access)?(?:_?key)?")),
        ("password", _token(r"\b\w*password")),
        ("signature=", r"(\bsignature=)[^&\s\"'<>,;]+"),
        ("ya29.", r"(\bya29\.)[\w.-]+"),
        ("eyj", r"(\beyJ)[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?"),
        ("private key-", r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?=-----END|\Z)"),
        ("@", r"(://)[^/\s\"']*(?=@)"),
    )
)
_MARKERS: Final = tuple(marker for marker, _, _ in _PATTERNS)
_SECRET_FIELDS: Final = re.compile(
    r"(authorization|password|token|secret(_?access)?(_?key)?|signature|^cookie|^upload_?id)$", re.IGNORECASE
)


@lru_cache(maxsize=1024)
def _is_secret_field(name: str) -> bool:
    return bool(_SECRET_FIELDS.search(name))


class Redactor:
    """Makes every value plain (text, number, list, dict), free of secrets, and no longer than anybody reads.

    Masks each occurrence of the given values (4 characters or more; also URL-encoded, JSON-escaped, and line
    by line when they have several) and what looks like a credential: authorization headers, bearer tokens,
    upload ids, signatures, user names and passwords in URLs. A processor for structlog.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in secrets:
            for part in (secret, *(line.strip() for line in secret.splitlines() if len(line) >= 16)):
                forms |= {part, quote(part, safe="", errors="replace"), quote_plus(part, errors="replace")}
                forms |= {json.dumps(part)[1:-1], repr(part)[1:-1]}
        # The longest first: a secret that begins with another must not leave its rest behind.
        self._secrets = tuple(sorted((f for f in forms if len(f) >= _SHORTEST_SECRET), key=len, reverse=True))

    def __call__(self, _logger: object, _method: str, event_dict: EventDict) -> EventDict:
        # Nearly every line is clean, and finding that out has to cost next to nothing.
        texts = []
        for value in event_dict.values():
            if type(value) is str:
                texts.append(value)
            elif not _is_plain(value):
                break
        else:
            text = "\n".join(texts)
            named = any(map(_is_secret_field, event_dict))
            if len(text) <= MAX_TEXT and not named and not self._is_suspicious(text):
                return event_dict
        return {str(name): self._clean(str(name), value, 0) for name, value in event_dict.items()}

    def text(self, text: str) -> str:
        """The text with every secret masked."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        lowered = text.lower()
        for marker, pattern, mask in _PATTERNS:
            if marker in lowered:
                text = pattern.sub(mask, text)
        return text

    def _is_suspicious(self, text: str) -> bool:
        for secret in self._secrets:
            if secret in text:
                return True
        lowered = text.lower()
        return any(marker in lowered for marker in _MARKERS)

    def _clean(self, name: str, value: object, depth: int) -> object:
        if _is_secret_field(name) and isinstance(value, str | bytes) and value:
            return MASK
        if _is_plain(value) and not isinstance(value, str):
            return value
        if depth < _MAX_DEPTH and isinstance(value, Mapping):
            return {self.text(str(k)): self._clean(str(k), v, depth + 1) for k, v in value.items()}
        if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
            return [self._clean(name, item, depth + 1) for item in value]
        return _shortened(self.text(_as_text(value)), MAX_TRACEBACK if name == "exception" else MAX_TEXT)


_ANY: Final = Redactor()


def masked(text: str) -> str:
    """The text without what looks like a credential, whoever wrote it and wherever it goes."""
    return _ANY.text(text)


def _is_plain(value: object) -> bool:
    return type(value) in _PLAIN or (type(value) is float and math.isfinite(value))


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        return str(value) if isinstance(value, BaseException) else repr(value)
    except Exception:  # noqa: BLE001 - a foreign repr may do anything
        return f"<{type(value).__name__}>"


def _shortened(text: str, limit: int) -> str:
    """The beginning and the end: a key's folder and name, a traceback's entry and its error."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}… {len(text) - limit} more characters …{text[-(limit // 2) :]}"
