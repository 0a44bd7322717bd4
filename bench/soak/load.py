"""A steady mix of everything that happens to a bucket, and what the destination must hold in the end."""

from __future__ import annotations

import hashlib
import io
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
from boto3.s3.transfer import TransferConfig

from bench.clouds import SOURCE, Queue, Source
from tests.acceptance.notifications import notification, record

KIB = 1024
MIB = 1024 * KIB
LARGE = 200 * MIB

NAMES = {0: 30, 4 * KIB: 200, MIB: 60, 9 * MIB: 12, LARGE: 2}
"""How many names there are of each size: they are overwritten again and again, so what is stored stays bounded."""
_SIZES = {0: 10, 4 * KIB: 70, MIB: 17, 9 * MIB: 3}
_DEEDS = {"put": 75, "delete": 8, "duplicate": 8, "replay": 8, "poison": 1}
_THREADS = 6
_MOST_WAITING = 60


class Load:
    """Does `rate` deeds a second, chosen by `seed`, and one large object every `large_seconds`."""

    def __init__(
        self,
        source: Source,
        queue: Queue,
        api_url: str,
        *,
        seed: int,
        rate: float,
        large_seconds: float,
        rush: bool = True,
    ) -> None:
        self._source = source
        self._queue = queue
        self._chance = random.Random(seed)
        self._rate = rate
        self._large_seconds = large_seconds
        self._rushes = rush
        self._block = self._chance.randbytes(MIB)
        # A new connection each time: one that is kept may be closed just when it is used again.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(base_url=api_url, trust_env=False, timeout=120, limits=limits)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._room = threading.Semaphore(_MOST_WAITING)
        self._versions = 0
        self.expected: dict[str, tuple[int, str]] = {}
        self.poison: list[str] = []
        self.deeds: Counter[str] = Counter()
        self.replays: Counter[int] = Counter()
        self.errors: list[str] = []
        self.rushed = threading.Event()
        """Set once the events of the opening rush, if there is one, are in the queue."""

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set; returns when everything begun is done."""
        due = time.monotonic()
        next_large = due + self._large_seconds / 2
        with self._http, ThreadPoolExecutor(_THREADS, thread_name_prefix="load") as threads:
            # However short the run, the dead letters are tried, too.
            self._room.acquire()
            threads.submit(self._guarded, self._poison, "the first poison is no JSON")
            if self._rushes:
                self._room.acquire()
                self._guarded(self._rush, stop)
            self.rushed.set()
            while not stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + 1 / self._rate, time.monotonic() - 1)
                self._room.acquire()
                if time.monotonic() >= next_large:
                    next_large += self._large_seconds
                    threads.submit(self._guarded, self._put, self._name(LARGE), LARGE)
                else:
                    threads.submit(self._guarded, *self._next())

    def _rush(self, stop: threading.Event) -> None:
        """Everything at once, for the daemon to be as large as its concurrency makes it: what grows later is a leak."""
        names = [
            (f"soak/{size}/rush {number:02}.bin", size) for size in (9 * MIB, MIB) for number in range(48)
        ]
        for name, size in names:
            if stop.is_set():
                return
            self._store(name, size)
        for name, size in names:
            self._notify(name, "ObjectCreated:Put", size)

    def _next(self) -> tuple[Callable[..., None], *tuple[object, ...]]:
        deed = self._chance.choices(list(_DEEDS), list(_DEEDS.values()))[0]
        size = self._chance.choices(list(_SIZES), list(_SIZES.values()))[0]
        name = self._name(size)
        match deed:
            case "put":
                return self._put, name, size
            case "delete":
                return self._delete, name
            case "duplicate":
                return self._duplicate, name
            case "replay":
                return self._replay, name
            case _:
                return self._poison, f"poison {self._chance.getrandbits(64):x} is no JSON"

    def _name(self, size: int) -> str:
        return f"soak/{size}/Ünïcode {self._chance.randrange(NAMES[size]):03}+%.bin"

    def _guarded(self, deed: Callable[..., None], *arguments: object) -> None:
        try:
            deed(*arguments)
            self.deeds[deed.__name__.removeprefix("_")] += 1
        except Exception as error:  # noqa: BLE001 - told at the end: the load itself must be in order
            self.errors.append(f"{deed.__name__}: {error!r}"[:300])
        finally:
            self._room.release()

    # --- deeds --------------------------------------------------------------------------------------------------

    def _put(self, name: str, size: int) -> None:
        self._notify(name, "ObjectCreated:Put", self._store(name, size))

    def _store(self, name: str, size: int) -> int:
        """Returns how many bytes it became."""
        with self._locks[name]:
            self._versions += 1
            body = self._body(self._versions, size)
            if size >= LARGE:
                parts = TransferConfig(multipart_chunksize=16 * MIB, use_threads=False)
                self._source.s3.upload_fileobj(io.BytesIO(body), SOURCE, name, Config=parts)
            else:
                self._source.s3.put_object(Bucket=SOURCE, Key=name, Body=body)
            self.expected[name] = len(body), hashlib.sha256(body).hexdigest()
            return len(body)

    def _delete(self, name: str) -> None:
        with self._locks[name]:
            self._source.s3.delete_object(Bucket=SOURCE, Key=name)
            self.expected.pop(name, None)
        self._notify(name, "ObjectRemoved:Delete")

    def _duplicate(self, name: str) -> None:
        for _ in range(2):
            self._notify(name, "ObjectCreated:Put")

    def _replay(self, name: str) -> None:
        answer = self._http.post("/v1/replicate", json={"s3_bucket": SOURCE, "s3_key": name})
        self.replays[answer.status_code] += 1

    def _poison(self, text: str) -> None:
        self._queue.send(text)
        self.poison.append(text)

    def _notify(self, name: str, event: str, size: int | None = None) -> None:
        told = record(SOURCE, name, event, size=size)
        # To the millisecond, as S3 does it: the lag counts from here.
        told["eventTime"] = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._queue.send(notification(told))

    def _body(self, version: int, size: int) -> bytes:
        head = json.dumps({"version": version}).encode()
        whole = head + self._block * -(-size // MIB)
        return whole[:size]
