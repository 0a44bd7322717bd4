"""Removes the temporary objects that a killed process left at the destination.

By age alone, told by the store that made them: an object older than the longest copy in parts belongs to no copy that
still lives, in whatever pod. Clocks that differ by more than minutes stop a pod from reading S3 at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from consumer.errors import Kind, ReplicatorError
from consumer.model import Failure, TemporariesLeft, TemporariesSwept
from consumer.names import PARTS_PREFIX
from consumer.parallel import LONGEST_COPY_SECONDS
from consumer.ports import Composer, Observer

SWEPT_AFTER_SECONDS: Final = LONGEST_COPY_SECONDS + 3600
_FIRST_AFTER_SECONDS: Final = 600.0
_EVERY_SECONDS: Final = 6 * 3600.0

Clock = Callable[[], float]


async def keep_swept(composers: Sequence[Composer], observer: Observer, wall_clock: Clock) -> None:
    """Sweeps each destination now and then, for ever.

    Not right at the start: a program that starts over and over would only sweep.
    """
    await asyncio.sleep(_FIRST_AFTER_SECONDS)
    while True:
        for composer in composers:
            await sweep(composer, observer, wall_clock)
        await asyncio.sleep(_EVERY_SECONDS)


async def sweep(composer: Composer, observer: Observer, wall_clock: Clock) -> None:
    """Removes what is old enough. Failures are told and left for the next time."""
    swept = 0
    left: list[Failure] = []
    try:
        async for page in composer.listing(PARTS_PREFIX):
            for found in page:
                if wall_clock() - found.created < SWEPT_AFTER_SECONDS:
                    continue
                try:
                    await composer.discard(found.name, found.revision)
                    swept += 1
                except ReplicatorError as error:
                    left.append(Failure.of(error))
    except ReplicatorError as error:
        # Without the right to list nothing is copied in parts; the start-up check has said so.
        if error.kind is not Kind.PERMISSION:
            left.append(Failure.of(error))
    if swept:
        observer.emit(TemporariesSwept(swept))
    if left:
        observer.emit(TemporariesLeft(len(left), left[0]))
