"""`python -m bench`: runs the scenarios, prints tables, and writes a JSON file into `bench-results/`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from bench import report, scenarios
from tests.emulators.provision import provisioned_folder

NEEDED = ("minio", "elasticmq", "fake-gcs-server")


def main() -> int:
    """0, or 1 with a message when an emulator is not provisioned or a replica differs."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--objects", type=int, default=1000, help="how many small objects (1000)")
    parser.add_argument("--object-bytes", type=int, default=4096, help="size of each (4096)")
    parser.add_argument("--large-mib", type=int, default=1024, help="size of the large object in MiB (1024)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each scenario (3)")
    parser.add_argument("--only", choices=("small", "large"), help="one of the two scenarios")
    parser.add_argument("--output", type=Path, default=Path("bench-results"), help="folder of the JSON file")
    options = parser.parse_args()
    console = Console(highlight=False)
    try:
        for name in NEEDED:
            provisioned_folder(name)
    except RuntimeError as problem:
        print(
            f"{problem}\nThe bench needs {', '.join(NEEDED)}: run python -m tests.emulators.provision",
            file=sys.stderr,
        )
        return 1

    def say(text: str) -> None:
        console.print(f"  {text}", style="dim")

    results = []
    try:
        if options.only != "large":
            results.append(scenarios.small_objects(options.objects, options.object_bytes, options.runs, say))
            report.print_result(console, results[-1])
        if options.only != "small":
            size = options.large_mib * scenarios.MIB
            results.append(scenarios.large_object(size, options.runs, say))
            report.print_result(console, results[-1])
    except RuntimeError as problem:
        print(problem, file=sys.stderr)
        return 1
    console.print(report.HOW, soft_wrap=True)
    console.print(f"Written to {report.write_json(options.output, results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
