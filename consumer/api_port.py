"""What the sidecar asks of the daemon, and what it is told at start. Knows no web framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from consumer.model import MIB, ObjectRef, Outcome


class Busy(Exception):
    """No slot became free in time. `retry_after` says in seconds when it is worth asking again."""

    def __init__(self, retry_after: float = 5.0) -> None:
        super().__init__(f"no slot became free in time; try again in {retry_after:g} s")
        self.retry_after = retry_after


class Service(Protocol):
    """The work behind the routes. It raises nothing but `Busy`; what went wrong is in the outcomes."""

    async def replicate(self, ref: ObjectRef, wait_seconds: float) -> Outcome:
        """Replicates one object, with the short retries. `Busy` when no slot frees within `wait_seconds`."""
        ...

    async def replicate_many(self, refs: Sequence[ObjectRef], wait_seconds: float) -> list[Outcome]:
        """Replicates many: one outcome each, in the order asked. `Busy` when no slot at all frees in time."""
        ...

    def bucket_allowed(self, bucket: str) -> bool: ...

    def not_ready_reason(self) -> str | None:
        """`starting`, `draining`, `paused`, `stalled`; None when ready. Makes no remote call."""
        ...

    def is_alive(self) -> bool:
        """False only when the poll loop makes no progress; an outage of a cloud is not that."""
        ...

    def accepting(self) -> bool:
        """False while starting or draining: no work is taken over HTTP."""
        ...

    def metrics(self) -> tuple[bytes, str]:
        """The body of `/metrics` and its content type."""
        ...


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """How the sidecar answers.

    `s3_target` and `gcs_target` are shown by `GET /`: an endpoint URL without credentials, or `REAL AWS` and
    `REAL GCS`. `host_is_loopback` says that `API_HOST` is a loopback address; only then are `/v1/*` served
    without a token. An empty token counts as none. `max_requests` run at once, and their bodies together are at most
    `max_bodies_bytes`. Times are in seconds: `slot_wait_seconds` for a free slot, `body_seconds` for the whole
    request body to arrive, `retry_after_seconds` is what a 503 tells when nobody knows better.
    """

    s3_target: str
    gcs_target: str
    token: str | None = field(default=None, repr=False)
    host_is_loopback: bool = False
    version: str = "0"
    max_body_bytes: int = 8 * MIB
    max_bodies_bytes: int = 32 * MIB
    max_requests: int = 400
    slot_wait_seconds: float = 10.0
    body_seconds: float = 20.0
    retry_after_seconds: float = 5.0
