"""Keeps the source busy: new objects and overwrites without an end, their notifications doubled, late and shuffled."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.crash.states import Past, State

HOT_KEYS = 20
"""So many keys take a good part of all overwrites, so that copies of one key overtake each other."""
_BATCH = 10
_LATE_AT_MOST = 300


@dataclass
class Produced:
    """What was done so far."""

    objects: int = 0
    overwrites: int = 0
    sent: int = 0
    doubled: int = 0
    late: int = 0


class Producer:
    """Puts and notifies in a thread of its own until it is told to finish.

    `put` writes a state, `send` sends the notifications of some keys, `backlog` tells how many messages wait: the
    producer rests while they are more than `most_waiting`, so that the end is near whenever it comes. Each put is
    notified at least once, and after it.
    """

    def __init__(
        self,
        put: Callable[[State], None],
        send: Callable[[list[str]], None],
        backlog: Callable[[], int],
        past: Past,
        *,
        seed: str,
        most_keys: int,
        most_waiting: int,
    ) -> None:
        self._put = put
        self._send = send
        self._backlog = backlog
        self._past = past
        self._random = random.Random(seed)
        self._most_keys = most_keys
        self._most_waiting = most_waiting
        self._keys: list[str] = []
        self._late: list[str] = []
        self._finishing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self.done = Produced()

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises what stopped the producer before its time."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Returns when the last put is done and every notification is sent."""
        self._finishing.set()
        self._thread.join()
        self.check()

    def _run(self) -> None:
        try:
            while not self._finishing.is_set():
                self._one_batch()
            while self._late:
                self._notify(self._some_late(_BATCH))
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self._error = error

    def _one_batch(self) -> None:
        now: list[str] = []
        for _ in range(_BATCH):
            key = self._next_key()
            self._put(self._past.begin(key))
            fate = self._random.random()
            if fate < 0.2:
                self._late.append(key)
                self.done.late += 1
            else:
                now.append(key)
            if fate > 0.9:
                self._late.append(key)
                self.done.doubled += 1
        self._random.shuffle(now)
        self._notify(now)
        if len(self._late) > _LATE_AT_MOST:
            self._notify(self._some_late(_BATCH))
        while self._backlog() > self._most_waiting and not self._finishing.is_set():
            time.sleep(0.2)

    def _next_key(self) -> str:
        if len(self._keys) < self._most_keys and (not self._keys or self._random.random() < 0.5):
            # Most names need quoting, on the way to S3 as on the way to GCS.
            key = f"folder {len(self._keys) % 10}/öbject+{len(self._keys):05}"
            self._keys.append(key)
            self.done.objects += 1
            return key
        self.done.overwrites += 1
        hot = self._random.random() < 0.3
        return self._random.choice(self._keys[:HOT_KEYS] if hot else self._keys)

    def _some_late(self, count: int) -> list[str]:
        self._random.shuffle(self._late)
        some, self._late = self._late[:count], self._late[count:]
        return some

    def _notify(self, keys: list[str]) -> None:
        if keys:
            self._send(keys)
            self.done.sent += len(keys)
