"""AWS Signature Version 4 for requests whose body, if any, is at hand, with the signing key cached for its day.

Held against botocore's own signer by a property test. Written out because signing is most of the CPU that a small
object costs beside the kernel's; the credentials themselves, their sources and their refresh, stay botocore's.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import quote

EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
UNSIGNED_PAYLOAD: Final = "UNSIGNED-PAYLOAD"
"""In place of the body's hash: S3 takes it, and the body is left to TLS and to its own checksum."""


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """One set of AWS credentials."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def quote_key(key: str) -> str:
    """A key as S3 wants it in a path and in the canonical request: encoded once, slashes kept, nothing normalised."""
    return quote(key, safe="/~-._")


class Signer:
    """Signs for one service; cheap to keep, safe to share within one event loop."""

    def __init__(self, service: str = "s3") -> None:
        self._service = service
        self._signing_keys: dict[tuple[str, str, str], bytes] = {}

    def headers(
        self,
        method: str,
        host: str,
        path: str,
        keys: AwsKeys,
        region: str,
        now: datetime,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        payload: str | None = None,
    ) -> dict[str, str]:
        """The headers to send: those given, and the signature over them and the body.

        `payload` is the body's SHA-256 in hexadecimal digits, or UNSIGNED_PAYLOAD, when `body` is not given.
        `path` and `query` are already encoded (and the query sorted); header names are lower-case.
        """
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        day = stamp[:8]
        if payload is None:
            payload = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        signed = {"host": host, "x-amz-date": stamp}
        if self._service == "s3":  # it alone wants to be told
            signed["x-amz-content-sha256"] = payload
        if headers:
            signed.update(headers)
        if keys.token:
            signed["x-amz-security-token"] = keys.token
        names = sorted(signed)
        joined = ";".join(names)
        lines = "".join(f"{name}:{' '.join(signed[name].split())}\n" for name in names)
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{joined}\n{payload}"
        scope = f"{day}/{region}/{self._service}/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(
            self._signing_key(keys.secret_key, day, region),
            f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(),
            "sha256",
        ).hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={joined}, Signature={signature}"
        )
        return signed

    def _signing_key(self, secret: str, day: str, region: str) -> bytes:
        cached = self._signing_keys.get((secret, day, region))
        if cached is None:
            cached = f"AWS4{secret}".encode()
            for part in (day, region, self._service, "aws4_request"):
                cached = hmac.digest(cached, part.encode(), "sha256")
            if len(self._signing_keys) >= 16:
                self._signing_keys.clear()
            self._signing_keys[secret, day, region] = cached
        return cached
