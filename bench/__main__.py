"""`python -m bench`: runs scenarios, prints tables, and writes them into `bench-results/` as JSON and as a picture."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench import flame, plot, report
from bench.scenarios import ON_DEMAND, SCENARIOS, Bench, Plan
from bench.tools import rclone
from tests.emulators.provision import provisioned_folder

NEEDED = ("minio", "elasticmq", "redis")


def main() -> int:
    """0, or 1 with a message when an emulator is not provisioned or a replica differs."""
    options = _options()
    # A pipe or a file has no width, and the tables need one.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 170)
    try:
        for name in NEEDED:
            provisioned_folder(name)
    except RuntimeError as problem:
        print(f"{problem}\nThe bench needs {', '.join(NEEDED)}.", file=sys.stderr)
        return 1
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    stem = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    plan = Plan(
        runs=options.runs,
        objects=options.objects,
        large_mib=options.large_mib,
        samples=options.samples,
        giant_gib=options.giant_gib,
        say=lambda text: console.print(f"  {text}", style="dim", soft_wrap=True),
    )
    started = report.machine()
    try:
        with Bench(plan) as bench:
            if options.flame:
                flame.record(bench.put_many("flame", plan.objects, 4096), stem.with_suffix(".svg"))
                console.print(f"Written to {stem.with_suffix('.svg')}")
                return 0
            if rclone() is None:
                note = "rclone: not installed; python -m tests.emulators.provision rclone builds it"
                bench.results.notes.append(note)
            if (loaded := report.load_note()) is not None:
                bench.results.notes.append(loaded)
            for name in _chosen(options):
                console.print(f"{name}: {SCENARIOS[name].__doc__}")
                SCENARIOS[name](bench)
                # After each: a bench that is interrupted keeps what it has.
                report.write_json(stem.with_suffix(".json"), bench.results, started)
            plot.draw(stem.with_suffix(".png"), bench.results, f"{started['processor']}, {plan.runs} rounds")
            report.print_all(console, bench.results)
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return 1
    console.print(report.HOW, soft_wrap=True)
    console.print(f"Written to {stem}.json and .png")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=list(SCENARIOS), help="this scenario; again for more"
    )
    parser.add_argument("--full", action="store_true", help=f"{', '.join(ON_DEMAND)} too, which take minutes")
    parser.add_argument("--giant", action="store_true", help="the same as --only giant")
    parser.add_argument("--flame", action="store_true", help="only draw a flame graph of the 4 KiB scenario")
    parser.add_argument("--runs", type=int, default=3, help="rounds of each scenario (3)")
    parser.add_argument(
        "--objects", type=int, default=1500, help="how many 4 KiB objects; others follow it (1500)"
    )
    parser.add_argument("--large-mib", type=int, default=512, help="size of a large object in MiB (512)")
    parser.add_argument("--giant-gib", type=int, default=20, help="size of the giant one in GiB (20)")
    parser.add_argument("--samples", type=int, default=25, help="idle events in each round (25)")
    parser.add_argument(
        "--output", type=Path, default=Path("bench-results"), help="folder of what is written"
    )
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[str]:
    if options.only or options.giant:
        return [*(options.only or ()), *(["giant"] if options.giant else ())]
    return [name for name in SCENARIOS if options.full or name not in ON_DEMAND]


if __name__ == "__main__":
    sys.exit(main())
