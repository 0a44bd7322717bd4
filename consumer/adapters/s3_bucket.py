"""Requests to the bucket of a destination in S3, and its refusals in our words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from consumer.adapters.http import Exchange, retry_after, with_retries
from consumer.adapters.s3_errors import DESTINATION, translate_s3_destination_error
from consumer.adapters.s3_requests import S3Requests, error_body
from consumer.errors import ReplicatorError
from consumer.ports import Observer

PUT: Final = DESTINATION + "s3:PutObject"
HEAD: Final = DESTINATION + "s3:HeadObject"
GET: Final = DESTINATION + "s3:GetObject"
DELETE: Final = DESTINATION + "s3:DeleteObject"
START: Final = DESTINATION + "s3:CreateMultipartUpload"
PART: Final = DESTINATION + "s3:UploadPart"
COMPLETE: Final = DESTINATION + "s3:CompleteMultipartUpload"
ABORT: Final = DESTINATION + "s3:AbortMultipartUpload"
LIST: Final = DESTINATION + "s3:ListBucketMultipartUploads"

T = TypeVar("T")


class S3Bucket:
    """One bucket as a destination. Every error names the operation, and with it the side that it is about."""

    def __init__(self, requests: S3Requests, observer: Observer, name: str) -> None:
        self._requests = requests
        self._observer = observer
        self.name = name

    def uri(self, name: str) -> str:
        return f"s3://{self.name}/{name}"

    async def send(
        self,
        method: str,
        name: str,
        operation: str,
        *,
        query: str = "",
        signed: Mapping[str, str] | None = None,
        unsigned: Mapping[str, str] | None = None,
        body: Sequence[bytes] = (),
        checked: bool = False,
        read_seconds: float | None = None,
    ) -> Exchange:
        return await self._requests.send(
            method,
            self.name,
            name,
            operation,
            query=query,
            signed=signed,
            unsigned=unsigned,
            body=body,
            checked=checked,
            read_seconds=read_seconds,
        )

    async def once(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Calls; and again only when the credentials had expired."""
        try:
            return await self._requests.with_valid_keys(call)
        except ReplicatorError as error:
            error.operation = error.operation or operation  # what the credentials were wanted for
            raise

    async def calls(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Calls, a few times within seconds while the failure is passing. Only for what may be repeated."""
        return await with_retries(operation, lambda: self.once(operation, call), self._observer)

    async def refusal(self, response: Exchange, name: str, operation: str) -> ReplicatorError:
        return self.told(response, name, operation, response.status, await error_body(response))

    def told(
        self, response: Exchange, name: str, operation: str, status: int, body: bytes
    ) -> ReplicatorError:
        """What an error document says, whatever status it came with."""
        return translate_s3_destination_error(
            self.name, name, status, body, operation, retry_after(response.headers)
        )
