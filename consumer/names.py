"""The rules for names: which bucket names are believed, and which destination names are possible.

Object names are never repaired: a replica has exactly the prefix plus the source's key, or none at all.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from consumer.errors import Reason, ReplicatorError
from consumer.model import Store

TEMPORARY_PREFIX: Final = ".cross-cloud-replicator/"
"""Where the program keeps its own temporary objects. Nothing below it is ever replicated."""

PROBE_NAME: Final = TEMPORARY_PREFIX + "probe"
"""What is asked for at either store to see whether its bucket answers; nothing is ever there."""

PARTS_PREFIX: Final = TEMPORARY_PREFIX + "parts/"
"""Where the parts of giant objects are until they are composed."""

_MAX_NAME_BYTES: Final = 1024
_ACME_PREFIX: Final = ".well-known/acme-challenge/"
_BUCKET: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_GCS_BUCKET: Final = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9_-])?(\.[a-z0-9_-]{1,63})*")


def is_temporary(name: str) -> bool:
    """Whether `name` lies below the program's own temporary prefix."""
    return name.startswith(TEMPORARY_PREFIX)


def is_bucket_name(name: str) -> bool:
    """Whether S3 has, or once allowed, such a bucket name.

    The rule is the legacy one of us-east-1 (3 to 255 characters, upper case and `_` too), as such buckets
    still exist; https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html has today's. Whatever
    passes is safe in a URL's path or host: no slash, no control character, no empty label.
    """
    return _BUCKET.fullmatch(name) is not None


def is_gcs_bucket_name(name: str) -> bool:
    """Whether Cloud Storage allows such a bucket name: https://cloud.google.com/storage/docs/buckets#naming."""
    fits = _GCS_BUCKET.fullmatch(name) is not None and 3 <= len(name) <= 222 and name[-1] not in "_-"
    return fits and not is_ip_address(name)


def is_ip_address(text: str) -> bool:
    """Whether it is an IPv4 or IPv6 address, which neither store allows as the name of a bucket."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def destination_name(prefix: str, key: str, store: Store = Store.GCS) -> str:
    """The name of the replica: `prefix` followed by `key`, exactly.

    Raises `name_not_allowed` (permanent) when the store forbids that name. Cloud Storage does by the rules of
    https://cloud.google.com/storage/docs/objects#naming. What Google merely advises against (control
    characters that XML 1.0 lacks, `#`, `*`, `?`, brackets) is let through. Hierarchical namespaces take at
    most 512 bytes for the folders and 512 for the rest; only the store knows the bucket's kind and can refuse.
    S3 does by those of https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html, and likewise what it
    merely advises against is let through.
    """
    name = prefix + key
    if not name:
        raise _forbidden(store, "the name is empty", "give the object a key")
    try:
        size = len(name) if name.isascii() else len(name.encode())
    except UnicodeEncodeError:
        raise _forbidden(
            store,
            "the name holds a lone surrogate, which UTF-8 cannot express",
            "copy the source object to a valid key",
        ) from None
    if size > _MAX_NAME_BYTES:
        raise _forbidden(
            store,
            f"the name has {size} bytes in UTF-8, more than {_MAX_NAME_BYTES}",
            "shorten the destination's prefix (GCS_KEY_PREFIX or a route's) or the source's key"
            if prefix
            else "shorten the source's key",
        )
    if store is Store.S3:
        _check_relative(name)
    else:
        _check_gcs(name)
    if is_temporary(name):
        raise ReplicatorError(
            Reason.NAME_NOT_ALLOWED,
            f"the name lies below {TEMPORARY_PREFIX}, where this program keeps its temporary objects",
            hint="change the destination's prefix (GCS_KEY_PREFIX or a route's) or rename the source object",
        )
    return name


def _check_relative(name: str) -> None:
    """S3 answers 400 to a key that, read as a path from left to right, would leave its bucket."""
    depth = 0
    for segment in name.split("/"):
        depth += -1 if segment == ".." else segment != "."
        if depth < 0:
            raise _forbidden(Store.S3, "its '..' segments lead above the bucket", "rename the source object")


def _check_gcs(name: str) -> None:
    if "\r" in name or "\n" in name:
        raise _forbidden(
            Store.GCS,
            "the name holds a carriage return or line feed",
            "copy the source object to a key without line breaks",
        )
    if name in {".", ".."}:
        raise _forbidden(
            Store.GCS,
            f"the name is '{name}'",
            "set a prefix for the destination (GCS_KEY_PREFIX or a route's) or rename the source object",
        )
    if name.startswith(_ACME_PREFIX):
        raise _forbidden(
            Store.GCS,
            f"the name begins with '{_ACME_PREFIX}'",
            "set a prefix for the destination (GCS_KEY_PREFIX or a route's) or rename the source object",
        )


_TITLES: Final = {Store.GCS: "Cloud Storage", Store.S3: "S3"}


def _forbidden(store: Store, what: str, remedy: str) -> ReplicatorError:
    return ReplicatorError(
        Reason.NAME_NOT_ALLOWED, f"{_TITLES[store]} forbids this object name: {what}", hint=remedy
    )
