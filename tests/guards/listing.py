"""The lists of guards: one TOML file per topic beside this one."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parent.parent


@dataclass(frozen=True, slots=True)
class Guard:
    """`old` occurs once in `file`; with `new` in its place, pytest with the arguments `red` must fail."""

    topic: str
    promise: str
    file: str
    old: str
    new: str
    red: tuple[str, ...]

    def broken(self, text: str) -> str:
        """The file's text without the guard. Raises ValueError unless `old` is there exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.topic}: {self.file} holds this {text.count(self.old)} times:\n{self.old}"
            )
        return text.replace(self.old, self.new)


def topics() -> list[str]:
    """The names of all lists."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def guards(chosen: Collection[str] = ()) -> list[Guard]:
    """All guards, or those of the chosen topics."""
    return [
        Guard(topic, entry["promise"], entry["file"], entry["old"], entry["new"], tuple(entry["red"]))
        for topic in topics()
        if not chosen or topic in chosen
        for entry in tomllib.loads((FOLDER / f"{topic}.toml").read_text())["guard"]
    ]
