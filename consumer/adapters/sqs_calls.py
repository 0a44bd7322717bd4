"""SQS's JSON protocol: each call is one signed POST over the program's own HTTP client."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from consumer.adapters.aws import AwsCredentials
from consumer.adapters.http import HttpClient, with_retries
from consumer.adapters.sigv4 import AwsKeys, Signer
from consumer.adapters.sqs_endpoint import SqsEndpoint
from consumer.adapters.sqs_errors import error_code, read_answer, refusal, refuses_keys, unanswered
from consumer.errors import ReplicatorError
from consumer.ports import Observer

Answer = Mapping[str, Any]
Request = Mapping[str, Any]

_CALL_SECONDS: Final = 10.0
"""How long SQS may be silent, beyond the time that it is asked to wait for messages."""
_JSON: Final = "application/x-amz-json-1.0"


class SqsCalls:
    """What is asked of SQS, by the names of its actions (`DeleteMessageBatch`). Raises ReplicatorError alone."""

    def __init__(
        self,
        http: HttpClient,
        credentials: AwsCredentials,
        endpoint: SqsEndpoint,
        observer: Observer,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._http = http
        self._credentials = credentials
        self._endpoint = endpoint
        self._observer = observer
        self._now = now
        self._signer = Signer("sqs")

    async def call(self, action: str, request: Request) -> Answer:
        """One call, made again a few times within seconds while it fails in passing: nobody else repeats it whole."""
        operation = f"sqs:{action.removesuffix('Batch')}"  # what IAM calls it
        body = json.dumps(request).encode()
        return await with_retries(
            operation, lambda: self._ask(action, operation, body, _CALL_SECONDS), self._observer
        )

    async def poll(self, request: Request) -> Answer:
        """One ReceiveMessage, never made again: that is for whoever polls."""
        body = json.dumps(request).encode()
        patience = request["WaitTimeSeconds"] + _CALL_SECONDS
        return await self._ask("ReceiveMessage", "sqs:ReceiveMessage", body, patience)

    async def _ask(self, action: str, operation: str, body: bytes, patience: float) -> Answer:
        try:
            keys = await self._credentials.keys()
            status, headers, answer = await self._post(action, operation, body, patience, keys)
            refused = status >= 400 and refuses_keys(error_code(headers, answer)[0])
            if refused and await self._credentials.has_others_than(keys):
                newer = await self._credentials.keys()
                status, headers, answer = await self._post(action, operation, body, patience, newer)
        except ReplicatorError as error:
            raise unanswered(error, operation) from error
        if status >= 300:
            raise refusal(status, *error_code(headers, answer), operation)
        return read_answer(answer, operation)

    async def _post(
        self, action: str, operation: str, body: bytes, patience: float, keys: AwsKeys
    ) -> tuple[int, Mapping[str, str], bytes]:
        endpoint = self._endpoint
        headers = self._signer.headers(
            "POST",
            endpoint.host,
            endpoint.path,
            keys,
            endpoint.region,
            self._now(),
            headers={"content-type": _JSON, "x-amz-target": f"AmazonSQS.{action}"},
            body=body,
        )
        async with self._http.request(
            "POST", endpoint.url, operation, headers=headers, body=body, read_seconds=patience
        ) as response:
            return response.status, response.headers, await response.read()
