"""Message attributes on the wire: JSON has no bytes, so SQS's JSON protocol writes them in Base64."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

Attributes = Mapping[str, Mapping[str, Any]]


def from_wire(attributes: object) -> dict[str, dict[str, Any]]:
    """The attributes with their bytes; what is no attribute, and bytes that cannot be read, are left out."""
    if not isinstance(attributes, dict):
        return {}
    return {
        str(name): _with_bytes(attribute)
        for name, attribute in attributes.items()
        if isinstance(attribute, dict)
    }


def to_wire(attributes: Attributes) -> dict[str, dict[str, Any]]:
    """The attributes as JSON can say them."""
    return {
        name: {
            key: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for key, value in attribute.items()
        }
        for name, attribute in attributes.items()
    }


def _with_bytes(attribute: dict[str, Any]) -> dict[str, Any]:
    if "BinaryValue" not in attribute:
        return attribute
    kept = dict(attribute)
    try:
        kept["BinaryValue"] = base64.b64decode(kept["BinaryValue"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        del kept["BinaryValue"]
    return kept
