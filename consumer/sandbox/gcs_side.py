"""GCS as the sandbox uses it, by plain HTTP."""

from __future__ import annotations

import http.client
import json
from typing import Final
from urllib.parse import quote, urlsplit

from consumer.sandbox.gcs_notifications import UNSENT_PATH
from consumer.sandbox.samples import Sample

_CALL_SECONDS: Final = 60.0
_JSON: Final = {"Content-Type": "application/json"}
_FIELDS: Final = {
    "ContentType": "contentType",
    "ContentEncoding": "contentEncoding",
    "CacheControl": "cacheControl",
    "Metadata": "metadata",
}
"""What boto3 names so, in the words of GCS; it makes its checksums itself."""


class GcsSide:
    """One bucket at `url`. Blocking; from any thread."""

    def __init__(self, url: str, bucket: str) -> None:
        self.url = url
        self._bucket = bucket

    def create_bucket(self) -> None:
        status, answer = self.call("POST", "/storage/v1/b?project=sandbox", {"name": self._bucket})
        if status != 200:
            raise OSError(f"the GCS emulator made no bucket, it answered {status}: {answer[:200]!r}")

    def notify(self, topic: str) -> None:
        """Has the topic told of every change of an object: `//HOST:PORT/projects/P/topics/T`."""
        path = f"/storage/v1/b/{self._bucket}/notificationConfigs"
        status, answer = self.call("POST", path, {"topic": topic, "payload_format": "JSON_API_V1"})
        if status != 200:
            raise OSError(f"the GCS emulator will not notify, it answered {status}: {answer[:200]!r}")

    def put(self, sample: Sample) -> None:
        """Puts the object into the bucket, in the way that takes any size and all metadata."""
        resource = {_FIELDS[name]: value for name, value in sample.fields.items() if name in _FIELDS}
        where = (
            f"/upload/storage/v1/b/{self._bucket}/o?uploadType=resumable&name={quote(sample.key, safe='')}"
        )
        answer, _ = self._exchange("POST", where, json.dumps(resource).encode(), _JSON)
        session = urlsplit(answer.headers.get("Location", ""))
        answer, body = self._exchange("PUT", f"{session.path}?{session.query}", sample.content(), {})
        if answer.status != 200:
            raise OSError(f"the GCS emulator did not take {sample.key!r}: {answer.status}, {body[:200]!r}")

    def get(self, name: str) -> bytes | None:
        """The bytes of the object; None when there is none."""
        status, body = self.call("GET", urlsplit(self.url_of(name)).path + "?alt=media")
        if status == 404:
            return None
        if status != 200:
            raise OSError(f"the GCS emulator answered {status} when {name!r} was read")
        return body

    def unsent(self) -> int:
        """How many notifications are still to be sent."""
        return int(self.call("GET", UNSENT_PATH)[1])

    def url_of(self, name: str) -> str:
        """Where the object is described; with `?alt=media`, its bytes."""
        return f"{self.url}/storage/v1/b/{self._bucket}/o/{quote(name, safe='')}"

    def call(self, method: str, path: str, resource: dict[str, str] | None = None) -> tuple[int, bytes]:
        content = json.dumps(resource).encode() if resource else None
        answer, body = self._exchange(method, path, content, _JSON if resource else {})
        return answer.status, body

    def _exchange(
        self, method: str, path: str, content: bytes | None, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=_CALL_SECONDS)
        # The stored bytes are wanted, not what a server would make of a gzip-encoded object.
        connection.request(method, path, content, {"Accept-Encoding": "gzip", **headers})
        try:
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()
