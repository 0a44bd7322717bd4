"""What PromQL expressions name: the program's metrics and the values of their labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tests.docs.metrics_page import documented

_SELECTED: Final = re.compile(r"\b(?P<name>(?:replicator_|process_|python_)\w+)(?:\{(?P<matchers>[^}]*)\})?")
_MATCHER: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED: Final = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
# Which a scrape adds, whatever it scrapes.
TARGET: Final = frozenset({"namespace", "job", "instance"})
# Of the client library's collector of the process.
PROCESS: Final = frozenset(
    {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}
)


@dataclass(frozen=True, slots=True)
class Selected:
    """A metric as a query has it, with the values that its matchers name, by label."""

    name: str
    labels: dict[str, list[str]]


def selected(expression: str) -> Iterator[Selected]:
    """Every metric that the expression selects."""
    for found in _SELECTED.finditer(expression):
        labels: dict[str, list[str]] = {}
        for label, value in _MATCHER.findall(found["matchers"] or ""):
            labels.setdefault(label, []).extend(value.split("|"))
        yield Selected(found["name"], labels)


def problems(expression: str) -> list[str]:
    """What the expression names that no scrape of the program has: metrics, labels, values of labels."""
    found: list[str] = []
    known = {"le", *TARGET}
    for one in selected(expression):
        if one.name in PROCESS:
            continue
        metric = documented().get(one.name) or documented().get(re.sub(r"_(bucket|sum|count)$", "", one.name))
        if metric is None or (metric.name != one.name and metric.kind != "histogram"):
            found.append(f"no metric {one.name}")
            continue
        known |= set(metric.labels)
        for label, values in one.labels.items():
            if label in TARGET or (label == "le" and metric.kind == "histogram"):
                continue
            if label not in metric.labels:
                found.append(f"{one.name} has no label {label}")
                continue
            there = metric.labels[label]
            found += [
                f"{one.name}: no {label} is {value}" for value in values if there and value not in there
            ]
    grouped = {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")}
    return found + [f"nothing has the label {label}" for label in sorted(grouped - known - {""})]
