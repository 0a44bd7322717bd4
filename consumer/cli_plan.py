"""`consumer plan`: what so many objects take, and the settings that go with it. Nothing is read and nobody is asked."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from consumer import process, units
from consumer.plan import DATED, RETENTION_DAYS, Plan, Prices, Workload, make_plan
from consumer.process import Exit

if TYPE_CHECKING:
    from rich.table import Table

_UNITS: Final[dict[str, int]] = {"": 1, "B": 1} | {
    f"{letter}{binary}B": (1024 if binary else 1000) ** power
    for power, letter in enumerate("KMGT", 1)
    for binary in ("i", "")
}
_DEFAULT: Final = Prices()


def _count(text: str) -> int:
    """1000000, 1_000_000, 1e6."""
    try:
        number = float(text)
    except ValueError:
        number = 0.5
    if not number.is_integer():
        raise typer.BadParameter(f"{text!a} is not a whole number: 1000000, 1_000_000 or 1e6")
    return int(number)


def _size(text: str) -> int:
    """4096, 64KiB, 1.5MiB, 1GB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text, re.ASCII)
    units = {unit.lower(): size for unit, size in _UNITS.items()}
    if not found or found[2].lower() not in units:
        raise typer.BadParameter(
            f"{text!a} is not a size: bytes, or a number with KiB, MiB, GiB, TiB (or KB, MB, GB, TB)"
        )
    return round(float(found[1]) * units[found[2].lower()])


def plan(
    objects: Annotated[
        int, typer.Option("--objects", parser=_count, metavar="N", help="How many; 1e9 will do.")
    ],
    mean_size: Annotated[
        int, typer.Option("--mean-size", parser=_size, metavar="SIZE", help="Of one: 64KiB, 1.5MiB, 4096.")
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate", metavar="R", help="Events per second that arrive; else all are queued already."
        ),
    ] = None,
    pods_max: Annotated[
        int, typer.Option("--pods-max", metavar="N", help="Most pods that there may be.")
    ] = 100,
    pods_min: Annotated[int, typer.Option("--pods-min", metavar="N", help="Pods that always run.")] = 1,
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", help="CONCURRENCY of a pod; else the one recommended."),
    ] = None,
    rtt_ms: Annotated[
        float, typer.Option("--rtt-ms", metavar="MS", help="Round trip of a request to SQS, S3 and GCS.")
    ] = 30.0,
    cpu_ms: Annotated[
        float | None,
        typer.Option("--cpu-ms", metavar="MS", help="CPU of one object; else as measured, with TLS."),
    ] = None,
    network_gbit: Annotated[
        float | None,
        typer.Option(
            "--network-gbit", metavar="GBIT", help="Network of a pod, Gbit/s each way; else never full."
        ),
    ] = None,
    prefixes: Annotated[
        int,
        typer.Option("--prefixes", metavar="N", help="Prefixes of S3 over which the keys are spread evenly."),
    ] = 1,
    gcs_buckets: Annotated[
        int, typer.Option("--gcs-buckets", metavar="N", help="Buckets of GCS that they go to.")
    ] = 1,
    lag: Annotated[
        float, typer.Option("--lag", metavar="SECONDS", help="How long an event may wait; makes queueLength.")
    ] = 60.0,
    price_s3_gets: Annotated[
        float, typer.Option("--price-s3-gets", metavar="USD", help="A million GETs of S3.")
    ] = _DEFAULT.million_s3_gets,
    price_gcs_writes: Annotated[
        float, typer.Option("--price-gcs-writes", metavar="USD", help="A million Class A operations of GCS.")
    ] = _DEFAULT.million_gcs_writes,
    price_sqs_calls: Annotated[
        float, typer.Option("--price-sqs-calls", metavar="USD", help="A million calls of SQS.")
    ] = _DEFAULT.million_sqs_calls,
    price_egress: Annotated[
        float, typer.Option("--price-egress", metavar="USD", help="A GiB that leaves AWS.")
    ] = _DEFAULT.gib_egress,
    price_pod_hour: Annotated[
        float, typer.Option("--price-pod-hour", metavar="USD", help="A pod of one core for an hour.")
    ] = _DEFAULT.pod_hour,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """How many pods, how long, what binds, what it costs, and which settings go with it.

    Calculated from what was measured (docs/performance.md), the stores' published limits and list prices of 2026-11;
    no configuration is read and nobody is asked.

    Exits 1 when events arrive faster than they can be done, or wait for longer than SQS keeps them.
    """
    try:
        prices = Prices(
            million_s3_gets=price_s3_gets,
            million_gcs_writes=price_gcs_writes,
            million_sqs_calls=price_sqs_calls,
            gib_egress=price_egress,
            pod_hour=price_pod_hour,
        )
        workload = Workload(
            objects=objects,
            mean_size=mean_size,
            rate=rate,
            pods_max=pods_max,
            pods_min=pods_min,
            concurrency=concurrency,
            rtt_ms=rtt_ms,
            cpu_ms=cpu_ms,
            network_gbit=network_gbit,
            prefixes=prefixes,
            gcs_buckets=gcs_buckets,
            lag_seconds=lag,
            prices=prices,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    found = make_plan(workload)
    if as_json:
        typer.echo(json.dumps(_plain(found), indent=2))
    else:
        _print(found)
    process.leave(Exit.OK if found.keeps_up and not found.expires else Exit.FAILED)


# --- In JSON ---


def _plain(found: Plan) -> dict[str, Any]:
    return {
        "workload": asdict(found.workload),
        "dated": DATED,
        "pods": found.pods,
        "seconds": found.seconds,
        "keeps_up": found.keeps_up,
        "expires": found.expires,
        "binds": found.binds,
        "phases": [asdict(phase) for phase in found.phases],
        "objects_per_second": {"one_pod": found.pod_rate}
        | {name.name.lower(): r for name, r in found.limits.items()},
        "pod_hours": found.pod_hours,
        "cost_usd": asdict(found.cost) | {"total": found.cost.total, "per_million": found.cost_per_million},
        "recommended": asdict(found.recommended),
    }


# --- As a table ---


def _print(found: Plan) -> None:
    from rich.console import Console

    console = Console(soft_wrap=False)
    console.print(_answer(found))
    console.print(_recommended(found))
    if not found.keeps_up:
        console.print(
            f"[bold red]It falls behind:[/] {found.workload.rate:,.0f} events a second arrive, "
            f"{min(found.limits.values()):,.0f} can be done. What binds: {_least(found)}."
        )
    if found.expires:
        console.print(
            f"[bold red]Events get lost:[/] the last ones wait {found.waits_days:,.0f} days, and SQS keeps a message "
            f"for {RETENTION_DAYS[1]} at most. Queue the objects in parts, or allow more pods."
        )


def _least(found: Plan) -> str:
    return str(min(found.limits, key=found.limits.__getitem__))


def _answer(found: Plan) -> Table:
    table = _table(f"{found.workload.objects:,} objects of {units.size(found.workload.mean_size)}", "", "")
    table.add_row("pods", f"{found.pods:,}, each {found.pod_rate:,.3g} objects a second")
    table.add_row(
        "time",
        f"{units.seconds(found.seconds)}, {found.workload.objects / found.seconds:,.0f} a second on average",
    )
    held = [f"{phase}: {units.seconds(seconds)}" for phase, seconds in _by_limit(found).items()]
    table.add_row("what binds", "\n".join(held))
    limits = sorted(found.limits.items(), key=lambda pair: pair[1])
    table.add_row("allowed, objects a second", "\n".join(f"{rate:,.0f} by {name}" for name, rate in limits))
    cost = found.cost
    parts = {"S3": cost.s3, "GCS": cost.gcs, "SQS": cost.sqs, "egress": cost.egress, "pods": cost.pods}
    split = ", ".join(f"{name} {value:,.2f}" for name, value in parts.items())
    table.add_row("cost", f"${cost.total:,.2f}: {split} ({found.pod_hours:,.1f} pod hours)")
    table.add_row("cost per million", f"${found.cost_per_million:,.2f}")
    return table


def _by_limit(found: Plan) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for phase in found.phases:
        seconds[phase.binds] = seconds.get(phase.binds, 0.0) + phase.seconds
    return seconds


def _recommended(found: Plan) -> Table:
    advice = found.recommended
    table = _table("Settings", "", "")
    table.add_row("CONCURRENCY", str(advice.concurrency))
    table.add_row("MEMORY_BUDGET_MIB", str(advice.memory_budget_mib))
    table.add_row("memory of a pod", f"{advice.pod_memory_mib} MiB, one core")
    default, most = RETENTION_DAYS
    kept = most if found.waits_days > default / 2 else default
    table.add_row(
        "retention of the queue", f"{kept} days" + (", the default" if kept == default else ", the most")
    )
    table.add_row("KEDA queueLength", f'"{advice.queue_length}", with scaleOnInFlight "true"')
    table.add_row("KEDA minReplicaCount", str(advice.min_replica_count))
    table.add_row("KEDA maxReplicaCount", str(advice.max_replica_count))
    return table


def _table(title: str, *names: str) -> Table:
    from rich.table import Column, Table

    columns = [Column(name, overflow="fold") for name in names]
    return Table(*columns, title=title, title_justify="left", show_header=False, show_lines=True)
