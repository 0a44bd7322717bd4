"""Looks at the destination again and again, as any reader could, while daemons write to it and are killed.

What holds at every look:
* each object is one whole state that the source has had by then: bytes, size, hashes and metadata name the same one;
* an object that was seen once is never gone again (nobody deletes here);
* a later look at a key shows either the same generation with the same state, or a later generation with a *newer*
  state. It can never be an older one, nor the same one written twice: a daemon reads the destination's generation
  before the source, so what it writes is no older than what it replaces; the store takes it only while that
  generation still stands; and nobody writes what the replica's metadata says is there already.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import google_crc32c
import httpx

from tests.crash.states import Past, State, body_of, state_of

STATE = "state"
"""The user metadata of each source object that carries its state's number."""
_PAUSE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Seen:
    generation: int
    number: int


class Watcher:
    """Looks in a thread of its own until it is told to finish; what it finds wrong is raised by `check`."""

    def __init__(self, url: str, bucket: str, source: str, past: Past, longest: int) -> None:
        self._objects = f"{url}/storage/v1/b/{bucket}/o"
        self._source = source
        self._past = past
        self._longest = longest
        self._client = httpx.Client(trust_env=False, timeout=60)
        self._seen: dict[str, Seen] = {}
        self._finishing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self.looks = 0
        self.downloads = 0
        self.states = 0
        """Different states seen, over all keys."""

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raises what a look found wrong."""
        if self._error is not None:
            raise self._error

    def finish(self) -> dict[str, State]:
        """A last look, at every byte; the state of each key then."""
        self._finishing.set()
        self._thread.join()
        self.check()
        self._look(everything=True)
        self._client.close()
        return {key: State(key, seen.number) for key, seen in self._seen.items()}

    def _run(self) -> None:
        try:
            while not self._finishing.wait(_PAUSE_SECONDS):
                self._look()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self._error = error

    def _look(self, *, everything: bool = False) -> None:
        items = self._client.get(self._objects).raise_for_status().json().get("items", [])
        listed = {item["name"]: item for item in items}
        gone = self._seen.keys() - listed.keys()
        assert not gone, f"seen before, and gone: {sorted(gone)[:10]}"
        before = dict(self._seen)
        for key, item in listed.items():
            seen = before.get(key)
            if everything or seen is None or seen.generation != int(item["generation"]):
                self._check_listed(key, item)
                self._download(key)
        self.looks += 1

    def _check_listed(self, key: str, item: Mapping[str, Any]) -> None:
        metadata = item["metadata"]
        state = State(key, int(metadata[STATE]))
        body = body_of(state, self._longest)
        self._note(state, int(item["generation"]))
        found = (int(item["size"]), item["crc32c"], metadata["replicator-etag"])
        assert found == (len(body), _crc32c(body), hashlib.md5(body).hexdigest()), (state, item)
        assert metadata["replicator-source"] == f"{self._source}/{key}", (state, item)
        assert metadata["replicator-verification"] in {"checksum", "md5"}, (state, item)

    def _download(self, key: str) -> None:
        answer = self._client.get(f"{self._objects}/{quote(key, safe='')}?alt=media").raise_for_status()
        self.downloads += 1
        state = state_of(answer.content)
        assert state == State(key, int(answer.headers[f"x-goog-meta-{STATE}"])), (key, answer.headers)
        assert answer.content == body_of(state, self._longest), (state, answer.headers)
        self._note(state, int(answer.headers["x-goog-generation"]))

    def _note(self, state: State, generation: int) -> None:
        assert self._past.had(state), f"{state} was never at the source"
        before, now = self._seen.get(state.key), Seen(generation, state.number)
        if before == now:
            return
        newer = before is None or (generation > before.generation and state.number > before.number)
        assert newer, f"{state.key}: after {before} came {now}"
        self._seen[state.key] = now
        self.states += 1


def _crc32c(body: bytes) -> str:
    return base64.b64encode(google_crc32c.value(body).to_bytes(4, "big")).decode()
