"""The ledger of the lives in a real store, through its adapter.

Time is virtual there and sockets know nothing of it. So a call waits for its turn as all do, and is then made by the
loop of another thread while the virtual one stands still: it takes no time, and from outside it is one step. What
expires, expires in real time, which is far too long to be seen; claims stay in memory, as theirs is virtual.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Coroutine, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from consumer.adapters.ledger_entries import ordered, written
from consumer.model import LedgerEntry
from consumer.ports import Ledger
from tests.contract.ledgers import PREFIX, TABLE, TTL_SECONDS, DynamoDbStore, RedisStore
from tests.doubles.memory_ledger import MemoryLedger

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 60.0


class Elsewhere:
    """A thread with a loop in real time."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="real time", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result; whoever asks stands still until then."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE_SECONDS)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE_SECONDS)
        self._loop.close()


class Shelf:
    """A store for the ledgers of many lives, one after the other; `calls` counts what they asked of it."""

    def __init__(self, store: RedisStore | DynamoDbStore, elsewhere: Elsewhere) -> None:
        self.calls = 0
        self._store = store
        self._elsewhere = elsewhere
        self._ledger: Ledger = store.ledger()
        self._lives = itertools.count()

    def new_ledger(self) -> StoredLedger:
        """Of a life of its own: it finds nothing of those before it."""
        return StoredLedger(self, f"{next(self._lives)}:")

    def last(self, key: str) -> LedgerEntry | None:
        self.calls += 1
        return self._elsewhere.run(self._ledger.last(key))

    def note(self, key: str, entry: LedgerEntry) -> None:
        self.calls += 1
        self._elsewhere.run(self._ledger.note(key, entry))

    def spoil(self, key: str, entry: LedgerEntry) -> None:
        """Puts an entry there whatever there was, as somebody who is not this program."""
        if isinstance(self._store, RedisStore):
            self._store.plant(key, written(entry))
            return
        self._store.put(
            key,
            entry={"S": written(entry)},
            sequencer={"S": ordered(entry.sequencer)},
            expires_at={"N": str(int(time.time()) + TTL_SECONDS)},
        )

    def remove(self, key: str) -> None:
        if isinstance(self._store, RedisStore):
            self._store.client.delete(f"{PREFIX}{key}")
        else:
            self._store.client.delete_item(TableName=TABLE, Key={"id": {"S": f"{PREFIX}{key}"}})


@contextmanager
def shelf_in(address: str, *, dynamodb: bool) -> Iterator[Shelf]:
    """Over a server that runs: its URL for DynamoDB, host and port for Redis."""
    elsewhere = Elsewhere()
    store = DynamoDbStore(address, time.time()) if dynamodb else RedisStore(address)
    try:
        yield Shelf(store, elsewhere)
    finally:
        elsewhere.run(store.close())
        elsewhere.end()


class Entries(MutableMapping[str, LedgerEntry]):
    """The entries of one life as they are in the store; a key that was noted counts as one, whatever became of it."""

    def __init__(self, shelf: Shelf, life: str) -> None:
        self._shelf = shelf
        self._life = life
        self._keys: set[str] = set()

    def note(self, key: str, entry: LedgerEntry) -> None:
        self._shelf.note(f"{self._life}{key}", entry)
        self._keys.add(key)

    def __getitem__(self, key: str) -> LedgerEntry:
        found = self._shelf.last(f"{self._life}{key}")
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: str, entry: LedgerEntry) -> None:
        self._shelf.spoil(f"{self._life}{key}", entry)
        self._keys.add(key)

    def __delitem__(self, key: str) -> None:
        self._shelf.remove(f"{self._life}{key}")
        self._keys.remove(key)

    def __iter__(self) -> Iterator[str]:
        return iter(set(self._keys))

    def __len__(self) -> int:
        return len(self._keys)

    def clear(self) -> None:
        for key in self:
            del self[key]


class StoredLedger(MemoryLedger):
    """See the module. `noted` has what was written, whether the store let it stand or not."""

    def __init__(self, shelf: Shelf, life: str) -> None:
        super().__init__()
        self.entries: Entries = Entries(shelf, life)

    async def note(self, key: str, entry: LedgerEntry) -> None:
        await self.steps.reach("note", key)
        self.entries.note(key, entry)
        self.noted[key].append(entry)
