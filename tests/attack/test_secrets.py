"""Nothing that the program prints, answers or sends on holds a secret: all of a whole life is searched for them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from consumer.api_models import answer_to
from consumer.errors import Reason, ReplicatorError
from consumer.model import EventKind, Failure, ObjectEvent, ObjectRef, failed
from tests.acceptance.command import Command
from tests.acceptance.notifications import created
from tests.acceptance.stack import API_TOKEN, SECRETS, Aws, Site, eventually, moto_server, site_of
from tests.doubles.strict_gcs import Fault
from tests.emulators.servers import free_port

MIB = 1024 * 1024
UPLOAD_ID = "secret-upload-id-77aa01"
SIGNED = "secret-signature-5e5e5e"
TOLD = (
    f"see https://storage.googleapis.com/upload?upload_id={UPLOAD_ID}&X-Amz-Signature={SIGNED} with Authorization: "
    f"Bearer {API_TOKEN} or AWS4-HMAC-SHA256 Credential=x/y, SignedHeaders=host, Signature={SIGNED}"
)
"""What a chatty other side could say in its errors."""
PATTERNS = [
    r"signature=(?!\*\*\*)",
    r"bearer (?!\*\*\*|<API_TOKEN>|token\b)\S",
    r"upload_id=(?!\*\*\*)",
    r"x-amz-security-token\W{1,3}(?!\*\*\*)\w",
    r"eyJ[\w-]{8,}\.[\w-]+",
    r"private key-----\W*(?!\*\*\*)\w",
]
BREAKS = f"""
import consumer.daemon, consumer.replicate

names = consumer.replicate.destination_name

def destination_name(prefix, key, store):
    if key == "defect":
        authorization = "Bearer {API_TOKEN}"
        raise RuntimeError({TOLD!r})
    return names(prefix, key, store)

def bucket_allowed(self, bucket):
    if bucket == "defect-bucket":
        raise RuntimeError({TOLD!r})
    return True

consumer.replicate.destination_name = destination_name
consumer.daemon.Daemon.bucket_allowed = bucket_allowed
"""
"""Loaded by the interpreter before the program: two defects whose errors are full of secrets."""


@dataclass
class Everything:
    """All that was ever printed, answered or sent on, each with where it was found."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def add(self, where: str, text: str) -> None:
        self.found.append((where, text))

    def answer(self, answer: httpx.Response, *, echo: bool = False) -> None:
        """An answer's status line, headers and body; the body not when it repeats what this very client sent."""
        headers = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
        self.add(f"headers of {answer.request.url.path}", headers)
        if not echo:
            self.add(f"body of {answer.request.url.path}", answer.text)

    def ended(self, name: str, command: Command) -> None:
        self.add(f"{name}: stdout", command.stdout)
        self.add(f"{name}: stderr", command.stderr)

    def leaks(self, *secrets: str) -> list[str]:
        rules = [re.escape(secret) for secret in (*SECRETS, UPLOAD_ID, SIGNED, *secrets)] + PATTERNS
        return [
            f"{rule} in {where}: …{text[max(0, match.start() - 80) : match.end() + 80]}…"
            for where, text in self.found
            for rule in rules
            for match in re.finditer(rule, text, re.IGNORECASE)
        ]


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with moto_server() as server:
        yield server


@pytest.fixture
def site(aws: Aws) -> Iterator[Site]:
    with site_of(aws) as one:
        yield one


class Running(Command):
    """A command whose port is known, because its log need not be JSON."""

    port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serves(self) -> bool:
        assert self.process.poll() is None, self.stderr
        with suppress(httpx.TransportError):
            return self.is_ready()
        return False


@contextmanager
def command(*arguments: str, env: dict[str, str], folder: Path, breaks: str = "") -> Iterator[Running]:
    folder.mkdir()
    if breaks:
        (folder / "sitecustomize.py").write_text(breaks, encoding="utf-8")
        env = {**env, "PYTHONPATH": str(folder)}
    started = Running(*arguments, env=env, folder=folder)
    try:
        yield started
    finally:
        started.end()


def live_through_everything(site: Site, daemon: Running, everything: Everything) -> None:
    """Success, every kind of failure, bad requests, and an end."""
    fault: dict[str, Any] = {"message": TOLD, "headers": {"X-Told": TOLD}}
    site.gcs.inject(Fault("multipart", name="forbidden", status=403, reason="forbidden", times=None, **fault))
    site.gcs.inject(Fault("multipart", name="odd", status=418, reason="teapot", times=None, **fault))
    site.gcs.inject(Fault("multipart", name="server", status=500, times=2, **fault))
    site.gcs.inject(Fault("multipart", name="token", status=401, reason="authError", times=2, **fault))
    site.gcs.inject(Fault("multipart", name="cut", cut=True, times=2))
    site.gcs.inject(Fault("resumable_put", name="large/cut", cut=True, at="body", after_bytes=MIB))
    site.gcs.inject(Fault("resumable_put", name="large/gone", expire_session=410, times=2))
    site.gcs.inject(
        Fault("resumable_put", name="large/no", status=403, reason="forbidden", times=None, **fault)
    )
    site.gcs.inject(Fault("resumable_start", name="large/start", status=503, times=1, **fault))
    small = ["fine", "forbidden", "odd", "server", "token", "cut", "foreign"]
    large = ["large/cut", "large/gone", "large/no", "large/start"]
    site.gcs.put(site.destination, "foreign", b"theirs")
    for key in small:
        site.put(key, key.encode())
    for key in large:
        site.put(key, b"x" * (5 * MIB))
    site.put("cold", b"cold", StorageClass="GLACIER")
    site.send(created(site.bucket, "defect"))
    site.send(created(site.bucket, "not-there"))
    site.send(json.dumps({"Records": [{"secret": API_TOKEN}], "Authorization": f"Bearer {API_TOKEN}"}))
    site.send(f"not json {API_TOKEN}")
    ask(site, daemon, everything)
    eventually(
        lambda: {"fine", "server", "cut", "large/cut", "large/start"} <= site.replicas().keys(),
        "what can arrive arrives",
    )
    eventually(lambda: len(site.dead_letters()) >= 6, "what cannot is dead")
    for letter in site.dead_letters():
        everything.add("dead letter", json.dumps(letter.attributes))
    eventually(lambda: "RuntimeError" in daemon.stderr, "the defects are told")


def ask(site: Site, daemon: Running, everything: Everything) -> None:
    one, many = "/v1/replicate", "/v1/replicate/batch"
    right = {"Authorization": f"Bearer {API_TOKEN}"}
    wrong = [{"Authorization": f"Basic {API_TOKEN}"}, {"Authorization": API_TOKEN}, {"X-Token": API_TOKEN}]
    wrong += [{"Authorization": f"Bearer x{API_TOKEN}"}, {"Cookie": f"token={API_TOKEN}"}, {}]
    with httpx.Client(trust_env=False, timeout=60, base_url=daemon.url) as http:
        for path in (
            "/",
            "/healthz",
            "/readyz",
            "/metrics",
            "/docs",
            "/openapi.json",
            f"/{API_TOKEN}",
            "/v1",
        ):
            everything.answer(http.get(path))
            everything.answer(http.get(path, params={"token": API_TOKEN}, headers={"Host": API_TOKEN}))
        for headers in wrong:
            everything.answer(
                http.post(one, json={"s3_bucket": site.bucket, "s3_key": "fine"}, headers=headers)
            )
        for key in ("fine", "not-there", "forbidden", "odd", "foreign", "defect", "cold", "large/no"):
            everything.answer(http.post(one, json={"s3_bucket": site.bucket, "s3_key": key}, headers=right))
        everything.answer(
            http.post(
                many, json={"s3_bucket": site.bucket, "s3_keys": ["fine", "odd", "defect"]}, headers=right
            )
        )
        for bucket in ("defect-bucket", "no-such-bucket", "a/b"):
            everything.answer(http.post(one, json={"s3_bucket": bucket, "s3_key": "k"}, headers=right))
        for body in ({API_TOKEN: 1}, {"s3_bucket": API_TOKEN, "s3_key": API_TOKEN}):
            everything.answer(http.post(one, json=body, headers=right), echo=True)
        not_json = http.post(one, content=API_TOKEN, headers={**right, "Content-Type": "application/json"})
        everything.answer(not_json)
        everything.answer(http.get("/metrics"))


def test_an_error_masks_what_the_other_side_said_wherever_it_goes() -> None:
    error = ReplicatorError(Reason.REFUSED, TOLD, operation="s3:GetObject")
    outcome = failed(ObjectEvent(EventKind.MANUAL, ObjectRef("bucket", "key")), Failure.of(error))
    everything = Everything()
    for said in (str(error), repr(error), error.message, str(outcome.failure), answer_to(outcome).text):
        everything.add("said", said)
    assert "\n".join(everything.leaks()) == ""
    assert "see https://storage.googleapis.com/upload?" in error.message, "the rest is told"


@pytest.mark.parametrize("log_format", ["json", "rich"])
def test_a_whole_life_tells_no_secret(site: Site, log_format: str, tmp_path: Path) -> None:
    everything = Everything()
    env = site.env(
        LOG_LEVEL="DEBUG",
        LOG_FORMAT=log_format,
        MEMORY_BUDGET_MIB="16",
        RETRY_BASE_SECONDS="1",
        RETRY_MAX_SECONDS="1",
        MAX_RECEIVE_COUNT="2",
        RETRY_MIN_AGE_SECONDS="0",
        API_PORT=str(free_port()),
    )
    with command("run", env=env, folder=tmp_path / "run", breaks=BREAKS) as daemon:
        daemon.port = int(env["API_PORT"])
        eventually(daemon.serves, "it serves")
        live_through_everything(site, daemon, everything)
        daemon.signal()
        daemon.wait()
        everything.ended("run", daemon)
        said = daemon.stderr
    assert "Traceback" in said, "the defects were told with where they are"
    assert "***" in said, "there was something to hide"
    assert len(everything.found) > 60
    assert "\n".join(everything.leaks()) == ""


# --- the other commands, and starts that fail ------------------------------------------------------------------------


class Refusing(BaseHTTPRequestHandler):
    """A token endpoint that says no, and says back what it was sent."""

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        body = json.dumps({"error": "invalid_grant", "error_description": sent}).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def refusing_token_endpoint() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/token"
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def service_account(token_uri: str) -> tuple[str, list[str]]:
    """A credentials file as Google writes it, and the lines of its private key."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "secret-key-id-0c0c0c",
        "private_key": private.decode(),
        "client_email": "replicator@project.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
    return json.dumps(account), private.decode().splitlines()[1:-1]


def test_starts_that_fail_and_other_commands_tell_no_secret(site: Site, tmp_path: Path) -> None:
    everything = Everything()
    credentials = tmp_path / "google.json"
    site.put("key", b"body", quiet=True)
    with refusing_token_endpoint() as token_uri:
        text, key_lines = service_account(token_uri)
        credentials.write_text(text, encoding="utf-8")
        broken = tmp_path / "broken.json"
        broken.write_text(text[:-40], encoding="utf-8")
        uri = f"s3://{site.quiet_bucket}/key"
        nobody = f"http://user:{SECRETS[0]}@127.0.0.1:{free_port()}"
        google = {"STORAGE_EMULATOR_HOST": None, "GOOGLE_APPLICATION_CREDENTIALS": str(credentials)}
        runs: list[tuple[tuple[str, ...], dict[str, str | None], int]] = [
            (("--help",), {}, 0),
            (("check",), {}, 0),
            (("check",), google, 3),
            (("check",), {"GOOGLE_APPLICATION_CREDENTIALS": str(broken)}, 2),
            (("check",), {"S3_ENDPOINT_URL": nobody}, 2),
            (("check",), {"CONCURRENCY": "many", "AWS_ACCESS_KEY_ID": None}, 2),
            (("run",), {"AWS_REGION": None, "API_PORT": "no"}, 2),
            (("replicate", uri, f"s3://{site.quiet_bucket}/gone"), {}, 1),
            (("replicate", f"s3://{API_TOKEN}"), {"API_TOKEN": None}, 2),
        ]
        for number, (arguments, overrides, code) in enumerate(runs):
            env = site.env(**{"LOG_LEVEL": "DEBUG", "STARTUP_TIMEOUT_SECONDS": "1", **overrides})
            with command(*arguments, env=env, folder=tmp_path / str(number)) as started:
                assert started.wait() == code, (arguments, overrides, started.stdout, started.stderr)
                if (
                    overrides.get("API_TOKEN", "") is not None
                ):  # an argument that is refused is shown to its writer
                    everything.ended(" ".join(arguments), started)
    assert "\n".join(everything.leaks(*key_lines)) == ""
