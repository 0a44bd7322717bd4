"""The image without a container engine: the Dockerfile's own steps, each in a root folder made for it.

The base image is played by this machine and the interpreter of the tests. A stage is a layer over
it (overlayfs), its commands run in it by `chroot` in a mount and process namespace of their own: so what the steps
write lands in the layer alone. The finished image runs as its numbered user, as process 1, on a read-only root,
without a capability, and without a shell: there is none that could be started.

Like the engine that it stands for, it has to be root, on Linux. Anything else is an error, never a skip.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final

from tests.acceptance.command import Command
from tests.acceptance.stack import eventually
from tests.deploy.test_image import BUILD, ROOT, RUN, Step, _only
from tests.emulators.provision import provisioned_folder

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHELLS: Final = ("sh", "bash", "dash", "busybox", "zsh", "ksh")
_REACH: Final = re.compile("(?i)^pip_|^uv_.*(index|cert|tls)|_proxy$|^ssl_cert|ca_bundle$")
_NEW_ROOT: Final = ("/usr/bin/env", "unshare", "--mount", "--pid", "--fork", "--kill-child")
# Layer and work folder, where to mount, `ro` or `rw`; then what becomes of this shell: process 1 of its namespace.
_ENTER: Final = """
set -e
layer=$1 work=$2 root=$3 mode=$4
shift 4
mount -t overlay overlay -o "lowerdir=/,upperdir=$layer,workdir=$work" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
if [ "$mode" = ro ]; then
    mount -o remount,ro "$root"
    for shell in $SHELLS; do mount --bind /dev/null "$root$shell"; done
fi
exec chroot "$root" "$@"
"""


class StepFailed(RuntimeError):
    """A step of the Dockerfile went wrong; the text says which, and what it printed."""


@dataclass
class Layer:
    """A root folder, as far as it differs from this machine."""

    folder: Path
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    workdir: str = "/"

    def __post_init__(self) -> None:
        for name in ("layer", "work", "root"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def path(self, inside: str) -> Path:
        """Where a path of this root lies, when one of its steps wrote it."""
        return self.folder / "layer" / inside.lstrip("/")

    def command(self, mode: str, *command: str) -> list[str]:
        """What runs `command` in it. Its environment has to come with it."""
        places = [str(self.folder / name) for name in ("layer", "work", "root")]
        shells = {os.path.realpath(found) for name in SHELLS if (found := shutil.which(name, path=PATH))}
        enter = f"SHELLS='{' '.join(sorted(shells))}'\n{_ENTER}"
        return [*_NEW_ROOT, "/bin/sh", "-c", enter, "sh", *places, mode, *command]

    def run(self, command: str, more: Mapping[str, str]) -> None:
        """One RUN. What this machine needs to reach the package index is handed on, as Docker hands on its proxies."""
        ours = {name: value for name, value in os.environ.items() if _REACH.search(name)}
        done = subprocess.run(
            self.command("rw", "/bin/sh", "-c", f'cd "$0" && {{ {command}\n}}', self.workdir),
            env={"HOME": "/root", "PIP_BREAK_SYSTEM_PACKAGES": "1", **ours, **more, **self.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StepFailed(f"RUN {command}: {done.returncode}\n{done.stdout}")


@dataclass(frozen=True)
class Image:
    """The result of the last stage."""

    layer: Layer

    def command(self) -> tuple[str, ...]:
        """The entry point as the image's user, on a read-only root, with no right to anything; arguments follow."""
        return (*self._as_its_user(), *json.loads(_only(RUN, "ENTRYPOINT")))

    def health_check(self, env: Mapping[str, str]) -> int:
        """The exit code of HEALTHCHECK."""
        command = json.loads(_only(RUN, "HEALTHCHECK").partition("CMD ")[2])
        return self.call(*command, env=env).returncode

    def call(self, *command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs any program of the image to its end, as it runs the entry point."""
        return subprocess.run(
            [*self._as_its_user(), *command],
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The image's own, and what is given on top of it."""
        return {"HOME": "/", **self.layer.variables, **{k: v for k, v in given.items() if k != "PATH"}}

    def _as_its_user(self) -> list[str]:
        user, group = _only(RUN, "USER").split(":")
        ids = [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        none = ["--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
        # Who becomes another user is no longer told of its parent's end (`--kill-child`), unless it asks again.
        return self.layer.command("ro", "setpriv", *ids, *none, "--pdeathsig=KILL")


class Contained(Command):
    """A run of the image's entry point as process 1."""

    def __init__(self, image: Image, *arguments: str, env: Mapping[str, str], folder: Path) -> None:
        self.program = image.command()
        super().__init__(*arguments, env=image.environment(env), folder=folder)

    @property
    def first(self) -> int:
        """The number that process 1 has outside."""
        found: list[int] = eventually(lambda: children(self.process.pid), "process 1 is there")
        return found[0]

    def signal(self, number: int = 15) -> None:
        os.kill(self.first, number)


def children(pid: int) -> list[int]:
    """The processes that this one started, or inherited."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def build(folder: Path) -> Image:
    """Carries out all steps of the Dockerfile. Raises StepFailed, or RuntimeError where this cannot be done."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise RuntimeError("the image's steps need root folders of their own: be root on Linux, as Docker is")
    base = _base(folder / "base")
    built = _stage(BUILD, folder / "build", base, {})
    return Image(_stage(RUN, folder / "run", base, {"build": built}))


def context() -> list[str]:
    """The files that a build gets to see, by the library that Docker itself reads .dockerignore with."""
    reader = provisioned_folder("docker-files") / "docker-files"
    shown = subprocess.run([reader, "context", str(ROOT)], capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()


def _base(folder: Path) -> Layer:
    """A `python` and a `pip` that may install for all, as Python's official images have them."""
    layer = Layer(folder)
    interpreter = Path(sys.base_prefix, "bin", "python3")
    reach = " ".join(f"'{parent}'" for parent in interpreter.parents)
    layer.variables["PATH"] = f"{interpreter.parent}:{PATH}"
    layer.run(f"chmod a+rx {reach} && command -v python pip", {})
    return layer


def _stage(steps: Sequence[Step], folder: Path, base: Layer, others: Mapping[str, Layer]) -> Layer:
    layer = Layer(folder, dict(base.variables))
    subprocess.run(["cp", "--archive", f"{base.path('/')}/.", str(layer.path("/"))], check=True)
    arguments: dict[str, str] = {}
    for step in steps:
        match step.word:
            case "RUN":
                layer.run(step.rest, arguments)
            case "ENV":
                for name, value in re.findall(r"(\w+)=(\S+)", step.rest):
                    layer.variables[name] = Template(value).substitute(layer.variables)
            case "ARG":
                name, _, value = step.rest.partition("=")
                arguments[name] = value.strip('"')
            case "WORKDIR":
                layer.workdir = step.rest
                layer.path(step.rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                _copy(step.rest, layer, others)
            case "FROM" | "USER" | "LABEL" | "EXPOSE" | "STOPSIGNAL" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                pass
            case unknown:
                raise StepFailed(f"nobody has said here what {unknown} does")
    return layer


def _copy(rest: str, layer: Layer, others: Mapping[str, Layer]) -> None:
    *sources, target = rest.split()
    if sources[0].startswith("--from="):
        (source,) = sources[1:]
        other = others[sources[0].removeprefix("--from=")]
        layer.path(target).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", str(other.path(source)), str(layer.path(target))], check=True)
        return
    destination = layer.path(str(Path(layer.workdir) / target))
    allowed = context()
    for source in sources:
        names = allowed if source == "." else [source]
        assert set(names) <= set(allowed), f"{source} is not let into the build"
        for name in names:
            to = destination / (name if source == "." else Path(name).name)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to)
            os.chown(to, 0, 0)
