"""What each worker process is told: the settings as the parent read them, with its share of what is set for the pod.

The files that they came from are not read again: every worker works by the same settings, for as long as the parent
lives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from consumer.settings import Settings


def share(total: int, workers: int, number: int) -> int:
    """The part of worker `number`, counted from 1. All parts add up to the total and differ by one at most."""
    return total // workers + (number <= total % workers)


def settings_of(settings: Settings, number: int) -> Settings:
    """The settings of worker `number`: its share of the slots and of the memory, for one process."""
    return settings.model_copy(
        update={
            "workers": 1,
            "concurrency": share(settings.concurrency, settings.workers, number),
            "memory_budget_mib": share(settings.memory_budget_mib, settings.workers, number),
        }
    )


def to_plain(settings: Settings) -> dict[str, Any]:
    """The settings in values that JSON knows. Secrets are in plain text: for a worker's ears only."""
    # The entries of routes are known by the names that they are written with (`from`), the settings by their fields.
    return {name.lower(): _plain(value) for name, value in settings.model_dump(by_alias=True).items()}


def from_plain(plain: dict[str, Any]) -> Settings:
    """Raises pydantic's ValidationError, as for a credentials file that is gone since."""
    return Settings.model_validate(plain)


def _plain(value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value
