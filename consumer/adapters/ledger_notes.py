"""What a claim leaves behind, as bytes that say whether they are whole and whose they are: the same in every store."""

from __future__ import annotations

import hashlib
from typing import Final

from consumer.model import ClaimAnswer

CLAIM: Final = "ledger claim"
RENEW: Final = "ledger renew"
RELEASE: Final = "ledger release"

KIND: Final = "claim:"
"""Between the prefix and the key of an object, for what is kept of its claim."""
LONGEST_SECONDS: Final = 3600.0
"""For how long a claim is taken at most. One that lasts longer is not ours, and is written over: it might never end."""

_KEEP_SECONDS: Final = 6 * 24 * 3600
"""A session of GCS lives for a week (Cloud Storage, "Resumable uploads")."""
_HEAD: Final = b"1:"
_DIGEST_BYTES: Final = 16


def seconds_kept(ttl_seconds: int) -> int:
    """How long the store keeps a claim after its last change."""
    return min(ttl_seconds, _KEEP_SECONDS)


def seconds_claimed(seconds: float) -> float:
    return max(0.0, min(seconds, LONGEST_SECONDS))


def sealed(key: str, notes: str) -> bytes:
    """The notes, with a checksum over them and the key they are left under."""
    text = notes.encode("utf-8", "surrogatepass")
    return _HEAD + _digest(key, text) + text


def opened(key: str, seal: bytes) -> str:
    """The notes that were sealed under this key; "" for anything else. Never raises."""
    start = len(_HEAD) + _DIGEST_BYTES
    text = seal[start:]
    if seal[:start] != _HEAD + _digest(key, text):
        return ""
    try:
        return text.decode("utf-8", "surrogatepass")
    except ValueError:
        return ""


def granted(key: str, seal: bytes) -> ClaimAnswer:
    return ClaimAnswer(True, notes=opened(key, seal))


def refused(seconds: float) -> ClaimAnswer:
    return ClaimAnswer(False, seconds_claimed(seconds))


def _digest(key: str, text: bytes) -> bytes:
    # No key holds its own digest: where it ends and the text begins is not in doubt.
    under = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return hashlib.sha256(under + text).digest()[:_DIGEST_BYTES]
