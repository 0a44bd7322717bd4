"""`s3://bucket/key` and `gs://bucket/key` as they are typed by people, into values.

What follows the bucket is taken exactly as it stands: nothing is decoded, nothing normalised.
"""

from __future__ import annotations

import re
from typing import Final

from consumer.model import ObjectRef, Store
from consumer.names import is_bucket_name, is_gcs_bucket_name, is_ip_address
from consumer.routes import Place

_URI: Final = re.compile(r"(s3|gs)://([^/]*)(?:/(.*))?", re.DOTALL)
_BUCKET_RULES: Final = {
    Store.S3: "3 to 63 lower-case letters, digits, dots and dashes (older ones: up to 255, capitals and _ too)",
    Store.GCS: "3 to 63 lower-case letters, digits, dashes and underscores, or several such parts with dots",
}


def parse_object(uri: str) -> ObjectRef:
    """The object. Raises ValueError that says of what form it must be."""
    found = _URI.fullmatch(uri)
    if not found or not found[3]:
        raise ValueError(f"{uri!a} is not of the form s3://BUCKET/KEY or gs://BUCKET/KEY")
    store = Store(found[1])
    if not is_bucket_of(store, found[2]):
        raise ValueError(
            f"{uri!a} is not of the form {store}://BUCKET/KEY: a bucket's name has {_BUCKET_RULES[store]}"
        )
    return ObjectRef(found[2], found[3], store)


def parse_place(uri: str) -> Place:
    """The bucket and prefix. Raises ValueError with the words that follow the name of what was given."""
    found = _URI.fullmatch(uri)
    if not found:
        raise ValueError("must be of the form s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    store = Store(found[1])
    if found[2] == "*":
        raise ValueError("must name one bucket: for all S3 buckets that no entry names, set GCS_BUCKET_NAME")
    if not is_bucket_of(store, found[2]):
        raise ValueError(f"must name a bucket after {store}://: {_BUCKET_RULES[store]}")
    return Place(store, found[2], found[3] or "")


def is_bucket_of(store: Store, name: str) -> bool:
    """Whether the store has, or once allowed, a bucket of that name."""
    if store is Store.GCS:
        return is_gcs_bucket_name(name)
    return is_bucket_name(name) and not is_ip_address(name)
