"""How far a job over a bucket is, in a file that the next run goes on from.

It is replaced as a whole, so that whatever ends the process leaves the old one or the new one. It names the job that it
is of: another one is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from consumer.bulk import Shard
from consumer.errors import ConfigurationError
from consumer.watermark import Watermark

_VERSION: Final = 1
_OPTION: Final = "--checkpoint"


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file says. `began` is what the first run settled for all: the moment that --newer-than stands for."""

    shards: Sequence[Shard]
    began: Mapping[str, Any]


class CheckpointFile:
    """One file for one job. `job` is whatever makes it another job when it differs; JSON values."""

    def __init__(self, path: Path, job: Mapping[str, Any]) -> None:
        self._path = path
        self._job = dict(job)

    def load(self) -> Saved | None:
        """What is there; None when nothing is. Raises ConfigurationError for what cannot be gone on from."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            self._check_writable()
            return None
        except (OSError, ValueError) as error:
            raise self._problem(f"cannot be read: {error}") from error
        try:
            document = json.loads(text)
            version, job = document["version"], document["job"]
            shards = [_shard(one) for one in document["shards"]]
            began = dict(document["began"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._problem("is no checkpoint of this program; name another file") from error
        if version != _VERSION:
            raise self._problem(
                f"is of version {version}, and {_VERSION} is understood; begin with another file"
            )
        if job != self._job:
            names = sorted(
                name for name in job.keys() | self._job.keys() if job.get(name) != self._job.get(name)
            )
            told = "; ".join(f"{name} was {job.get(name)!r} and is {self._job.get(name)!r}" for name in names)
            raise self._problem(
                f"is of another job ({told}); name another file, or give that job's options again"
            )
        return Saved(shards, began)

    def save(self, shards: Sequence[Shard], began: Mapping[str, Any]) -> None:
        """Raises OSError when it cannot be written; what was there is whole then."""
        document = {
            "version": _VERSION,
            "job": self._job,
            "began": dict(began),
            "shards": [
                {
                    "after": shard.after,
                    "until": shard.until,
                    "position": shard.mark.position,
                    "done": shard.done,
                    "tally": dict(shard.mark.tally),
                }
                for shard in shards
            ],
        }
        new = self._path.with_name(f"{self._path.name}.new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)

    def _check_writable(self) -> None:
        """Now rather than after hours."""
        if not self._path.parent.is_dir() or not os.access(self._path.parent, os.W_OK):
            raise self._problem(f"cannot be written: {self._path.parent} is no folder that may be written to")

    def _problem(self, what: str) -> ConfigurationError:
        return ConfigurationError([f"{_OPTION}: {self._path} {what}"])


def _shard(told: Mapping[str, Any]) -> Shard:
    tally = {str(name): int(count) for name, count in told["tally"].items()}
    return Shard(
        told["after"], told["until"], Watermark(told["position"], tally), listed=told["done"] is True
    )
