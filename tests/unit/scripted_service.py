"""The service behind the sidecar, as a test scripts it, and a client that needs no socket."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from consumer.api import ApiConfig, build_api
from consumer.errors import Reason, kind_of
from consumer.model import Event, EventKind, Failure, ObjectEvent, ObjectRef, Outcome, Result, failed

REAL = ApiConfig(s3_target="REAL AWS", gcs_target="REAL GCS", host_is_loopback=True, version="1.2.3")
TOKEN = replace(REAL, token="s3cret")
ONE = "/v1/replicate"
MANY = "/v1/replicate/batch"
WANTED = {"s3_bucket": "incoming", "s3_key": "a/b c.txt"}


def copied(ref: ObjectRef) -> Outcome:
    event = ObjectEvent(EventKind.MANUAL, ref)
    return Outcome(
        event, Result.COPIED, Reason.CREATED, f"gs://replica/{ref.key}", 11, 7, "yZRlqg==", "checksum"
    )


def failing(reason: Reason, **more: Any) -> Callable[[ObjectRef], Outcome]:
    failure = Failure(kind_of(reason), reason, "it broke", "mend it", "s3:GetObject")
    return lambda ref: failed(ObjectEvent(EventKind.MANUAL, ref), replace(failure, **more))


@dataclass
class Scripted:
    """A service whose answers are set by the test; it notes what it was asked."""

    act: Callable[[ObjectRef], Outcome] = copied
    asked: list[ObjectRef] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    reason: str | None = None
    alive: bool = True
    accepts: bool = True

    async def replicate(self, ref: ObjectRef, wait_seconds: float) -> Outcome:
        self.asked.append(ref)
        self.waits.append(wait_seconds)
        return self.act(ref)

    async def replicate_many(self, refs: Sequence[ObjectRef], wait_seconds: float) -> list[Outcome]:
        return [await self.replicate(ref, wait_seconds) for ref in refs]

    def bucket_allowed(self, bucket: str) -> bool:
        return bucket == "incoming"

    def not_ready_reason(self) -> str | None:
        return self.reason

    def is_alive(self) -> bool:
        return self.alive

    def accepting(self) -> bool:
        return self.accepts

    def metrics(self) -> tuple[bytes, str]:
        return b"replicator_x 1\n", "text/plain; version=1.0.0; charset=utf-8"


@dataclass
class Heard:
    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event, /) -> None:
        self.events.append(event)


def client(
    service: Scripted, config: ApiConfig = REAL, *, heard: Heard | None = None, **headers: str
) -> httpx.AsyncClient:
    api = build_api(service, config=config, observer=heard)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(api), base_url="http://localhost:8000", headers=named
    )
