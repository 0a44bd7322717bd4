"""What is signed of a body, over TLS and without it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from consumer.adapters.aws import AwsCredentials, Endpoints, new_aws_session
from consumer.adapters.s3_requests import S3Requests

pytestmark = pytest.mark.anyio


class Answer:
    status = 200
    headers: Mapping[str, str] = {}

    async def open(self) -> Answer:
        return self


class Elsewhere:
    """A bucket of eu-west-1. Whoever asks another region for it hears so when `both` have asked."""

    def __init__(self, both: asyncio.Barrier, headers: Mapping[str, str]) -> None:
        self.headers: Mapping[str, str] = {}
        self.status = 200 if "/eu-west-1/" in headers["authorization"] else 400
        self._both = both

    async def open(self) -> Elsewhere:
        if self.status != 200:
            await self._both.wait()
        return self

    async def read(self) -> bytes:
        return b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"

    def close(self) -> None: ...


class Http:
    """Takes a request and keeps its headers."""

    def __init__(self) -> None:
        self.headers: Mapping[str, str] = {}

    def request(self, method: str, url: str, operation: str, headers: Any, body: Any, **_: Any) -> Answer:
        self.headers = headers
        return Answer()


@pytest.mark.parametrize(
    ("scheme", "checked", "signed"),
    [("http", True, True), ("http", False, True), ("https", False, True), ("https", True, False)],
)
@pytest.mark.parametrize("body", [(b"a", b"b"), (b"x" * 300_000,)], ids=["small", "large"])
async def test_only_over_tls_is_a_body_with_a_checksum_left_out(
    scheme: str, checked: bool, signed: bool, body: Sequence[bytes]
) -> None:
    http: Any = Http()
    session = new_aws_session("us-east-1", "key", "secret")
    requests = S3Requests(
        http,
        AwsCredentials(session),
        Endpoints(session, f"{scheme}://127.0.0.1:9"),
        region="us-east-1",
        custom_endpoint=True,
    )
    await requests.send("PUT", "bucket", "key", "destination s3:PutObject", body=body, checked=checked)
    expected = hashlib.sha256(b"".join(body)).hexdigest() if signed else "UNSIGNED-PAYLOAD"
    assert http.headers["x-amz-content-sha256"] == expected


async def test_requests_at_once_are_all_sent_on_to_the_region_of_the_bucket() -> None:
    both = asyncio.Barrier(2)

    class Elsewheres:
        def request(self, method: str, url: str, operation: str, headers: Any, body: Any, **_: Any) -> Any:
            return Elsewhere(both, headers)

    http: Any = Elsewheres()
    session = new_aws_session("us-east-1", "key", "secret")
    requests = S3Requests(
        http,
        AwsCredentials(session),
        Endpoints(session, "http://127.0.0.1:9"),
        region="us-east-1",
        custom_endpoint=True,
    )
    async with asyncio.timeout(60):
        answers = await asyncio.gather(
            *(requests.send("PUT", "bucket", key, "destination s3:PutObject", body=[b"a"]) for key in "ab")
        )
    assert [answer.status for answer in answers] == [200, 200]
