"""`python -m tests.deploy.permissions`: records the calls, and writes deploy/permissions and docs/permissions.md."""

from __future__ import annotations

import asyncio

from consumer.event_loop import loop_factory
from tests.deploy.permissions.files import write
from tests.deploy.permissions.record import record
from tests.deploy.permissions.stage import clouds

if __name__ == "__main__":
    with clouds() as made, asyncio.Runner(loop_factory=loop_factory()) as runner:
        write(runner.run(record(made)).calls)
