"""The installed `consumer` command as a child process: started, watched, talked to, and surely ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.stack import API_TOKEN, LIMIT_SECONDS, SECRETS, eventually
from tests.emulators.servers import _BECOME_SERVER

CONSUMER = Path(sys.executable).with_name("consumer")


class Command:
    """One run of the command. Its working directory is a new folder with these files, and its home as well."""

    program: Sequence[str] = (str(CONSUMER),)

    def __init__(
        self, *arguments: str, env: Mapping[str, str], folder: Path, files: Mapping[str, str] | None = None
    ) -> None:
        self._out, self._err = folder / "stdout", folder / "stderr"
        work = folder / "work"
        work.mkdir()
        for name, text in (files or {}).items():
            (work / name).write_text(text, encoding="utf-8")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            # By way of the emulators' starter, so that the kernel ends it when the tests die before they can.
            starter = [sys.executable, "-I", "-S", "-c", _BECOME_SERVER, str(os.getpid())]
            self.process = subprocess.Popen(
                [*starter, *self.program, *arguments],
                env={"HOME": str(work), **env},
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # a Ctrl-C at the tests is not one at the command
            )

    # --- what it says

    @property
    def stdout(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def lines(self, event: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """The log lines, those of an event only, whose fields are as given."""
        # A line without its end is still being written.
        whole = [line for line in self.stderr.split("\n")[:-1] if line.startswith("{")]
        return [
            line
            for line in map(json.loads, whole)
            if (event is None or line["event"] == event)
            and all(line.get(name) == value for name, value in fields.items())
        ]

    def wait_for(self, event: str, **fields: object) -> dict[str, Any]:
        """The first such log line. Fails at once when the process ends without it."""

        def found() -> dict[str, Any] | None:
            ended = self.process.poll() is not None
            lines = self.lines(event, **fields)
            assert lines or not ended, f"ended with {self.process.returncode}:\n{self.stdout}{self.stderr}"
            return lines[0] if lines else None

        line: dict[str, Any] = eventually(found, f"a log line {event!r} {fields}")
        return line

    # --- its end

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, limit: float = LIMIT_SECONDS) -> int:
        """The exit code. Raises TimeoutExpired after `limit` seconds."""
        return self.process.wait(limit)

    def end(self) -> None:
        """Ends it, however it is."""
        self.process.kill()
        self.process.wait(LIMIT_SECONDS)

    # --- its sidecar

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.wait_for('api listening')['port']}"

    def get(self, path: str) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=30) as client:
            return client.get(self.url + path)

    def post(self, path: str, body: object, *, token: str | None = API_TOKEN) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(trust_env=False, timeout=LIMIT_SECONDS) as client:
            return client.post(self.url + path, json=body, headers=headers)

    def is_ready(self) -> bool:
        return self.get("/readyz").status_code == 200

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name with these labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


class Launcher:
    """Starts commands; in the end all of them are ended, and none may have told a secret."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Command] = []

    def __call__(
        self, *arguments: str, env: Mapping[str, str], files: Mapping[str, str] | None = None
    ) -> Command:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        command = Command(*arguments, env=env, folder=folder, files=files)
        self._started.append(command)
        return command

    @property
    def started(self) -> Sequence[Command]:
        """All commands so far, in their order."""
        return self._started

    def daemon(self, env: Mapping[str, str]) -> Command:
        """`consumer run`, returned once it is started."""
        command = self("run", env=env)
        command.wait_for("started")
        return command

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for command in self._started:
            command.end()
        if error is None:
            for command in self._started:
                said = command.stdout + command.stderr
                assert not [secret for secret in SECRETS if secret in said], "a secret was told"
                assert "Traceback" not in said, said
