"""What the ledger spares, and what it costs where it spares nothing: the same events with none, Redis and DynamoDB."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Final

from bench import tools
from bench.counting import counted
from bench.ledger_events import duplicated, overtaking, overwrites
from bench.ledger_stores import BenchLedger, dynamodb_ledger, redis_ledger
from bench.measure import Daemon
from bench.results import DAEMON, Comparison, Run
from bench.tools import Ends, Stage

if TYPE_CHECKING:
    from bench.scenarios import Bench

TIMES: Final = 10
"""Nine of ten events are duplicates."""
KEYS: Final = 20
LATE: Final = float(KEYS)
"""By how many places an event comes too late, on average: about one write of its key."""
_SIZE: Final = 4096
_SERVERS: Final = "MinIO → ElasticMQ → sink; Redis 6.2, a table that speaks DynamoDB"


def duplicate_heavy(bench: Bench) -> None:
    """Nine of ten events are duplicates, with and without a ledger."""
    stage = bench.put_many("ledger", max(10, bench.plan.objects * 2 // 3), _SIZE)
    events = duplicated(stage.messages(), TIMES, Random(1))
    _compare(bench, "ledger-duplicates", "events of 4 KiB objects, 90 % duplicates", stage, events)


def overwrite_heavy(bench: Bench) -> None:
    """The events of a burst that wrote a few keys again and again, with and without a ledger."""
    stage = bench.put_many("ledger", KEYS, _SIZE)
    times = max(5, bench.plan.objects // 3)
    random = Random(2)
    written = overwrites(list(stage.expected), dict(stage.etags), _SIZE, times, random)
    title = f"events of {KEYS} keys of 4 KiB, overwritten {times} times each before the first was read"
    _compare(bench, "ledger-overwrites", title, stage, overtaking(written, LATE, random))


def _compare(bench: Bench, name: str, title: str, stage: Stage, events: Sequence[str]) -> None:
    stage = replace(stage, events=events)
    found = Comparison(name, title, len(events), _SIZE, _SERVERS, unit="event")
    with ExitStack() as stack:
        ledgers: dict[str, BenchLedger | None] = {DAEMON: None}
        for opened in (redis_ledger(), dynamodb_ledger()):
            store = stack.enter_context(opened)
            ledgers[store.name] = store
        for number in range(bench.plan.runs):
            one: dict[str, Run] = {}
            # Whoever comes first in a round meets other caches: each round begins with another one.
            order = list(ledgers)
            for tool in order[number % len(order) :] + order[: number % len(order)]:
                one[tool] = _run(bench, stage, ledgers[tool], None)
                bench.plan.say(f"{name}, round {number + 1}, {tool}: CPU {one[tool].cpu:.2f} s")
            found.rounds.append({tool: one[tool] for tool in ledgers})
        for tool, ledger in ledgers.items():
            # In one more run, not timed, because of the proxies.
            with counted(stage.s3_url, bench.elasticmq.url) as (s3, sqs):
                run = _run(bench, stage, ledger, Ends(s3.url, sqs.url))
                calls = {"s3": dict(s3.counts), "sqs": dict(sqs.counts), "gcs": run.requests}
                found.requests[tool] = {**calls, "ledger": dict(ledger.calls()) if ledger is not None else {}}
    bench.results.comparisons[name] = found


def _run(bench: Bench, stage: Stage, ledger: BenchLedger | None, ends: Ends | None) -> Run:
    """One run of the daemon with an empty ledger; how fast objects get visible says nothing here."""
    settings = {}
    if ledger is not None:
        ledger.reset()
        settings = dict(ledger.settings())

    def look(running: Daemon) -> None:
        if ledger is not None and (lost := running.events("ledger lost")):
            note = (
                f"{ledger.name}: lost {len(lost)} times in a run; what was asked meanwhile went to the stores"
            )
            bench.results.notes.append(note)

    return replace(tools.run_daemon(stage, ends, settings, look=look), rate=0.0)
