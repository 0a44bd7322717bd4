"""The program's own calls to an SQS server, counted."""

from __future__ import annotations

from collections import Counter

from consumer.adapters.aws import AwsCredentials, new_aws_session
from consumer.adapters.http import HttpClient
from consumer.adapters.sqs_calls import Answer, Request, SqsCalls
from consumer.adapters.sqs_endpoint import SqsEndpoint
from tests.doubles.recorder import Recorder


class SqsClient:
    """`sqs.Calls` to the server at `url`; `made` counts them by action. To be closed by whoever made it."""

    def __init__(self, url: str, region: str) -> None:
        self.made: Counter[str] = Counter()
        self.recorder = Recorder()
        self._http = HttpClient()
        credentials = AwsCredentials(new_aws_session(region, "test", "test"))
        self._calls = SqsCalls(self._http, credentials, SqsEndpoint.at(url, region), self.recorder)

    async def call(self, action: str, request: Request) -> Answer:
        self.made[action] += 1
        return await self._calls.call(action, request)

    async def poll(self, request: Request) -> Answer:
        self.made["ReceiveMessage"] += 1
        return await self._calls.poll(request)

    async def close(self) -> None:
        await self._http.close()
