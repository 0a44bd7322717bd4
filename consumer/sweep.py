"""Removes what a killed process left at the destination: temporary objects, and uploads that were never finished.

By age alone, told by the store that made them: an object older than the longest copy in parts belongs to no copy that
still lives, in whatever pod. Clocks that differ by more than minutes stop a pod from reading S3 at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeVar

from consumer.errors import Kind, ReplicatorError
from consumer.model import Failure, ListedObject, TemporariesLeft, TemporariesSwept, UnfinishedUpload
from consumer.names import PARTS_PREFIX
from consumer.parallel import LONGEST_COPY_SECONDS
from consumer.ports import Composer, Observer, Uploads

SWEPT_AFTER_SECONDS: Final = LONGEST_COPY_SECONDS + 3600
UPLOADS_SWEPT_AFTER_SECONDS: Final = 7 * 24 * 3600
"""A copy over one stream has no limit of its own: this is 5 TiB at 9 MB/s. The store's own rule may be sooner."""
_FIRST_AFTER_SECONDS: Final = 600.0
_EVERY_SECONDS: Final = 6 * 3600.0

Clock = Callable[[], float]
Left = TypeVar("Left", ListedObject, UnfinishedUpload)


async def keep_swept(
    composers: Sequence[Composer], uploads: Sequence[Uploads], observer: Observer, wall_clock: Clock
) -> None:
    """Sweeps what is left behind at each destination now and then, for ever.

    Not right at the start: a program that starts over and over would only sweep.
    """
    await asyncio.sleep(_FIRST_AFTER_SECONDS)
    while True:
        for composer in composers:
            await sweep(composer, observer, wall_clock)
        for store in uploads:
            await sweep_uploads(store, observer, wall_clock)
        await asyncio.sleep(_EVERY_SECONDS)


async def sweep(composer: Composer, observer: Observer, wall_clock: Clock) -> None:
    """Removes the temporary objects that are old enough. Failures are told and left for the next time."""

    def is_old(found: ListedObject) -> bool:
        return wall_clock() - found.created >= SWEPT_AFTER_SECONDS

    async def remove(found: ListedObject) -> None:
        await composer.discard(found.name, found.revision)

    await _sweep(composer.listing(PARTS_PREFIX), is_old, remove, observer)


async def sweep_uploads(uploads: Uploads, observer: Observer, wall_clock: Clock) -> None:
    """Aborts the unfinished uploads that are old enough. Failures are told and left for the next time."""

    def is_old(found: UnfinishedUpload) -> bool:
        return wall_clock() - found.begun >= UPLOADS_SWEPT_AFTER_SECONDS

    await _sweep(uploads.abandoned(), is_old, uploads.abort, observer)


async def _sweep(
    pages: AsyncIterator[Sequence[Left]],
    is_old: Callable[[Left], bool],
    remove: Callable[[Left], Awaitable[None]],
    observer: Observer,
) -> None:
    swept = 0
    left: list[Failure] = []
    try:
        async for page in pages:
            for found in page:
                if not is_old(found):
                    continue
                try:
                    await remove(found)
                    swept += 1
                except ReplicatorError as error:
                    left.append(Failure.of(error))
    except ReplicatorError as error:
        # Without the right to list nothing is copied in parts; the start-up check has said so. What S3 keeps of uploads
        # is removed by its own rules then.
        if error.kind is not Kind.PERMISSION:
            left.append(Failure.of(error))
    if swept:
        observer.emit(TemporariesSwept(swept))
    if left:
        observer.emit(TemporariesLeft(len(left), left[0]))
