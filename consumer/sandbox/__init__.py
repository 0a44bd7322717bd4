"""`consumer sandbox`: the whole program on emulators of its own, on one machine and without an account.

This file is all that runs before the environment is cleared of what could lead to somebody's real cloud, so it
imports nothing of the program.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import MutableMapping
from types import FrameType
from typing import Final

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 2
EXIT_UNREACHABLE: Final = 3

DEFAULT_API_PORT: Final = 8000
FAKE_GCS_SERVER: Final = "fake-gcs-server"

_REQUIREMENT: Final = "cross-cloud-replicator[sandbox]"
# moto[server] is moto with flask.
_MODULES: Final = ("moto", "flask", "flask_cors", "localstack_client")
_GCS_MODULE: Final = "gcp_storage_emulator"

# What boto3, localstack-client, google's libraries, gRPC, moto, aiohttp and urllib would take from the shell.
_FOREIGN: Final = re.compile(
    r"(AWS|S3|SQS|BOTO|MOTO|LOCALSTACK|GOOGLE|GCLOUD|GCE|CLOUDSDK|GCS|STORAGE|PUBSUB|GRPC)_.*|(HTTPS?|ALL|NO)_PROXY|"
    r"USE_SSL|USE_LEGACY_PORTS|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|SSL_CERT_(FILE|DIR)",
    re.IGNORECASE,
)
_OURS: Final = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    # Beside the environment, macOS and Windows have proxies in their system settings.
    "NO_PROXY": "*",
    "no_proxy": "*",
}


def run_sandbox(*, objects: int | None, leave: bool, both_ways: bool = False) -> int:
    """Starts the emulators and the daemon on them, drops objects in, shows them arrive; the exit code.

    `objects` is how many to generate (the samples when None). With `leave`, every object is compared byte for
    byte and the sandbox ends: 0 when all are equal, else 1. Without, it goes on until it is told to stop.
    With `both_ways` objects are dropped on both sides, and 0 says also that none was written once too often.
    Nothing that it starts outlives it. Of the environment it takes API_PORT alone.
    """
    missing = missing_modules(both_ways=both_ways)
    if missing:
        return _refuse(
            f"The sandbox needs {', '.join(missing)}. Install what it embeds:\n\n"
            f"    pip install '{_REQUIREMENT}'"
        )
    port = api_port(os.environ)
    if port is None:
        return _refuse(f"API_PORT: must be a port from 0 to 65535; it is {os.environ['API_PORT']!r}")
    proxied = _is_proxied()
    isolate(os.environ)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # All as Ctrl-C: leave through the clean-up. Once the daemon runs, it has handlers of its own.
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    try:
        from consumer.sandbox.stage import present

        return present(objects=objects, leave=leave, both_ways=both_ways, api_port=port, proxied=proxied)
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped.\n")
        return EXIT_FAILED if leave else EXIT_OK


_interrupted = threading.Event()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    signal.default_int_handler(number, frame)


def was_interrupted() -> bool:
    """Whether there was an interrupt, whatever became of it: some imports make another error of it."""
    return _interrupted.is_set()


def obey_interrupts() -> None:
    """Raises KeyboardInterrupt when there was one that somebody else's code kept to itself, as some imports do."""
    if was_interrupted():
        raise KeyboardInterrupt


def missing_modules(*, both_ways: bool = False) -> list[str]:
    """What the extra `sandbox` would have brought and is not there."""
    # fake-gcs-server has no notifications to Pub/Sub that could be pulled here.
    other = not both_ways and shutil.which(FAKE_GCS_SERVER)
    needed = _MODULES if other else (*_MODULES, _GCS_MODULE)
    return [name for name in needed if importlib.util.find_spec(name) is None]


def api_port(environment: MutableMapping[str, str]) -> int | None:
    """The port that the sidecar is to have, 8000 unless API_PORT says otherwise; None when that is no port."""
    text = environment.get("API_PORT", "").strip()
    if not text:
        return DEFAULT_API_PORT
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= 65535 else None


def isolate(environment: MutableMapping[str, str]) -> None:
    """Removes everything that could misdirect a client: endpoints, credentials, profiles, proxies, authorities."""
    for name in [name for name in environment if _FOREIGN.fullmatch(name)]:
        del environment[name]
    environment.update(_OURS)


def _is_proxied() -> bool:
    """Whether curl and its like, in the same shell, would ask a proxy for 127.0.0.1."""
    import urllib.request

    return "http" in urllib.request.getproxies() and not urllib.request.proxy_bypass("127.0.0.1")


def _refuse(message: str) -> int:
    sys.stderr.write(message + "\n")
    return EXIT_CONFIGURATION
