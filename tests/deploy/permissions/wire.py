"""A recorder at the one seam by which the program's own requests leave the process, and what each is called.

    with recording(wire := Wire()):
        …                                      # the program at work
    assert Request("s3", "HeadObject", "source") in wire.requests("http://127.0.0.1:1", "http://127.0.0.1:2")

Every request of the lean path goes through `HttpClient.request`, every call of Pub/Sub through `PubsubCalls._call`.
Beside the request the recorder keeps the adapters' functions that it came from: see `sites`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from consumer.adapters.http import Exchange, HttpClient
from consumer.adapters.pubsub_calls import PubsubCalls

# Each of these headers of S3 asks for a permission besides that of the write (Service Authorization Reference, S3).
_FURTHER_RIGHTS: Final = (
    "x-amz-acl",
    "x-amz-grant-",
    "x-amz-tagging",
    "x-amz-object-lock-",
    "x-amz-copy-source",
)
# What decides which operation of S3 a request is; a new one has to be thought of here.
_S3_QUERIES: Final[Mapping[tuple[str, bool, frozenset[str]], str]] = {
    ("GET", True, frozenset()): "GetObject",
    ("HEAD", True, frozenset()): "HeadObject",
    ("HEAD", True, frozenset({"partNumber"})): "HeadObject",
    ("PUT", True, frozenset()): "PutObject",
    ("DELETE", True, frozenset()): "DeleteObject",
    ("POST", True, frozenset({"uploads"})): "CreateMultipartUpload",
    ("PUT", True, frozenset({"uploadId", "partNumber"})): "UploadPart",
    ("POST", True, frozenset({"uploadId"})): "CompleteMultipartUpload",
    ("DELETE", True, frozenset({"uploadId"})): "AbortMultipartUpload",
    ("GET", False, frozenset({"list-type"})): "ListObjectsV2",
    ("GET", False, frozenset({"uploads"})): "ListMultipartUploads",
}
# What only narrows a listing.
_S3_NARROWING: Final = {
    "prefix",
    "start-after",
    "continuation-token",
    "max-keys",
    "encoding-type",
    "key-marker",
    "upload-id-marker",
}
_AWS_JSON: Final = {"AmazonSQS": "sqs", "DynamoDB_20120810": "dynamodb"}


@dataclass(frozen=True, slots=True, order=True)
class Request:
    """One operation, in its service's own name, and the bucket, queue URL, table, subscription or topic it is about."""

    service: str
    operation: str
    resource: str


@dataclass(slots=True)
class Wire:
    """What was sent, in the words of HTTP."""

    sent: list[tuple[str, str, Mapping[str, str], Any]] = field(default_factory=list)
    sites: set[str] = field(default_factory=set)
    """The functions of `consumer.adapters` that were under way when something was sent: `module:Class.function`."""

    def requests(self, s3: str, gcs: str) -> set[Request]:
        """Every operation that was called. `s3` and `gcs` are the origins of the two stores."""
        return {operation(*sent, s3=s3, gcs=gcs) for sent in self.sent}


@contextmanager
def recording(wire: Wire) -> Iterator[None]:
    """Records what this process sends."""
    send, call = HttpClient.request, PubsubCalls._call

    def watched(
        self: HttpClient,
        method: str,
        url: str,
        operation: str,
        headers: Any = None,
        body: Any = None,
        **more: Any,
    ) -> Exchange:
        wire.sent.append((method, url, headers or {}, body))
        wire.sites |= _adapters_under_way()
        return send(self, method, url, operation, headers, body, **more)

    async def watched_call(self: PubsubCalls, *asked: Any) -> Any:
        wire.sites |= _adapters_under_way()
        return await call(self, *asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HttpClient, "request", watched)
        patch.setattr(PubsubCalls, "_call", watched_call)
        yield


def _adapters_under_way() -> set[str]:
    found = set()
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("consumer.adapters."):
            found.add(f"{module.removeprefix('consumer.adapters.')}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return found


def operation(method: str, url: str, headers: Mapping[str, str], body: Any, *, s3: str, gcs: str) -> Request:
    """The operation that a request is. Raises AssertionError for one that nobody has thought of."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    origin = f"{parts.scheme}://{parts.netloc}"
    target = headers.get("x-amz-target", "")
    if target:
        service, _, action = target.partition(".")
        document = json.loads(body)
        return Request(
            _AWS_JSON[service], action, document.get("QueueUrl") or document.get("TableName") or ""
        )
    if origin == s3:
        bucket, _, key = unquote(parts.path)[1:].partition("/")
        further = [name for name in headers if name.lower().startswith(_FURTHER_RIGHTS)]
        assert not further, f"{further} need permissions of their own"
        chosen = (method, bool(key), frozenset(query.keys() - _S3_NARROWING))
        assert chosen in _S3_QUERIES, f"an unknown request to S3: {method} {url}"
        return Request("s3", _S3_QUERIES[chosen], bucket)
    assert origin == gcs, f"a request to somebody unknown: {method} {url}"
    return _of_gcs(method, [unquote(part) for part in parts.path.split("/")[1:]], query)


def _of_gcs(method: str, path: list[str], query: Mapping[str, str]) -> Request:
    """By the names of the JSON API's methods. What may take an object's place is told apart: it needs more."""
    uploads = path[0] == "upload"
    _, _, _, bucket, *rest = path[1:] if uploads else path
    overwrites = query.get("ifGenerationMatch", "0") != "0"
    match method, rest:
        case "POST", ["o"] if uploads and query["uploadType"] in ("multipart", "resumable", "media"):
            name = "objects.insert"
        case "PUT" | "DELETE", ["o"] if uploads and "upload_id" in query:
            # The session's own, under the condition that it was begun with.
            return Request("storage", "objects.insert", bucket)
        case "POST", ["o", _, "compose"]:
            name = "objects.compose"
        case "GET", ["o", _]:
            return Request("storage", "objects.get", bucket)
        case "GET", ["o"]:
            return Request("storage", "objects.list", bucket)
        case "DELETE", ["o", _]:
            return Request("storage", "objects.delete", bucket)
        case "GET", []:
            return Request("storage", "buckets.get", bucket)
        case "GET", ["iam", "testPermissions"]:
            return Request("storage", "buckets.testIamPermissions", bucket)
        case _:
            raise AssertionError(f"an unknown request to Cloud Storage: {method} {'/'.join(path)}")
    return Request("storage", f"{name} (overwriting)" if overwrites else name, bucket)
