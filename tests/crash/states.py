"""Source objects whose bytes tell which state of which key they are: anything partial, mixed or foreign shows."""

from __future__ import annotations

import hashlib
import random
import threading
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class State:
    """The `number`-th thing that a key ever held; the first is 1."""

    key: str
    number: int


def body_of(state: State, longest: int) -> bytes:
    """The bytes of a state: a head that names it, and up to `longest` bytes that follow from it."""
    chance = random.Random(f"{state.key}#{state.number}")
    payload = chance.randbytes(chance.randrange(longest + 1))
    head = f"{state.key}\n{state.number}\n{len(payload)}\n{hashlib.sha256(payload).hexdigest()}\n"
    return head.encode() + payload


def state_of(body: bytes) -> State:
    """The state that the bytes are. Raises ValueError unless they are one from the first byte to the last."""
    parts = body.split(b"\n", 4)
    if len(parts) != 5:
        raise ValueError(f"{len(body)} bytes without a whole head: {body[:80]!r}")
    key, number, length, digest, payload = parts
    if int(length) != len(payload):
        raise ValueError(f"{len(payload)} bytes follow the head of {key!r}, not {int(length)}")
    if hashlib.sha256(payload).hexdigest() != digest.decode():
        raise ValueError(f"what follows the head of {key!r}, state {int(number)}, is not what it names")
    return State(key.decode(), int(number))


class Past:
    """Which states each key has had at the source. One writer per key; safe to read from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[str, int] = {}

    def begin(self, key: str) -> State:
        """The key's next state. Call before it is written: a reader may see it from then on."""
        with self._lock:
            number = self._begun[key] = self._begun.get(key, 0) + 1
        return State(key, number)

    def had(self, state: State) -> bool:
        """Whether the source can have held this state by now."""
        with self._lock:
            return 1 <= state.number <= self._begun.get(state.key, 0)

    def last(self) -> dict[str, State]:
        """The newest state of each key."""
        with self._lock:
            return {key: State(key, number) for key, number in self._begun.items()}
