"""The bytes of both sides read again, and their CRC32C compared: what no listing and no metadata can tell."""

from __future__ import annotations

from collections.abc import Callable

from consumer.admission import MemoryBudget
from consumer.compare import EQUAL_HASHED, Finding, Kind
from consumer.errors import SourceChanged, SourceGone
from consumer.look import Look
from consumer.model import ObjectRef, Store
from consumer.persist import Sleep, persistently
from consumer.ports import SourceStore
from consumer.proof import choose_proof
from consumer.sides import Pair
from consumer.transfer import STREAM_RESERVATION, crc32c_of


class Rereading:
    """Reads through the sources of both stores. Its memory is that of the copies."""

    def __init__(
        self, store: Callable[[Store], SourceStore], budget: MemoryBudget, look: Look, sleep: Sleep
    ) -> None:
        self._store = store
        self._budget = budget
        self._look = look
        self._sleep = sleep

    async def compare(self, pair: Pair) -> tuple[Finding, int]:
        """What it found, and how many bytes were read. Raises ReplicatorError."""
        assert pair.target is not None
        try:
            here, size = await self._read(pair.ref)
            there, its_size = await self._read(pair.target)
        except (SourceGone, SourceChanged):
            return await self._look.both(pair), 0
        if (here, size) == (there, its_size):
            return EQUAL_HASHED, size + its_size
        now = await self._look.both(pair)
        if now.kind is not Kind.EQUAL:
            return now, size + its_size  # one of them was written meanwhile
        why = f"the bytes differ: {size} with CRC32C {here:08x}, and {its_size} with {there:08x} at the destination"
        return Finding(Kind.DIFFERENT, why), size + its_size

    async def _read(self, ref: ObjectRef) -> tuple[int, int]:
        """CRC32C and size."""

        async def call() -> tuple[int, int]:
            async with (
                self._budget.reserve(STREAM_RESERVATION),
                self._store(ref.store).open(ref, None) as stream,
            ):
                return await crc32c_of(stream, choose_proof(stream.source, None)), stream.source.size

        return await persistently(call, self._sleep)
