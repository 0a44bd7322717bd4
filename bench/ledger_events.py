"""The orders in which a queue brings the events of the ledger's cases; each is a function of its seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Any, TypeVar

from bench.clouds import SOURCE
from tests.acceptance.notifications import notification, record

T = TypeVar("T")


def duplicated(events: Sequence[T], times: int, random: Random) -> list[T]:
    """Each event so often.

    From an event to each of its duplicates it is any order of magnitude equally far: some come at once (two
    configurations tell of one change), some after a visibility timeout, some much later (a redrive).
    """
    most = len(events) * times
    placed: list[tuple[float, int]] = []
    for number in range(len(events)):
        first = number * times
        placed.append((first, number))
        placed += [(first + most ** random.random(), number) for _ in range(times - 1)]
    return [events[number] for _, number in sorted(placed)]


def overtaking(events: Sequence[T], distance: float, random: Random) -> list[T]:
    """Each event late by so many places on average, a few by many times that."""
    late = [number + random.expovariate(1 / distance) for number in range(len(events))]
    return [events[number] for number in sorted(range(len(events)), key=late.__getitem__)]


def overwrites(
    keys: Sequence[str], etags: dict[str, str], size: int, times: int, random: Random
) -> list[str]:
    """The messages of so many writes of each key, in the order of the writes; the last of a key has its ETag, and the
    sequencers of a key rise."""
    writes = [key for key in keys for _ in range(times)]
    random.shuffle(writes)
    left = dict.fromkeys(keys, times)
    messages = []
    for key in writes:
        left[key] -= 1
        etag = hashlib.md5(f"{key} {left[key]}".encode(), usedforsecurity=False).hexdigest()
        told: dict[str, Any] = record(SOURCE, key, size=size, etag=etag if left[key] else etags[key])
        messages.append(notification(told))
    return messages
