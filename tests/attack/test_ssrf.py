"""Names from outside lead nowhere but to their own object: what the adapters really send, whatever the names are.

Every name that they resolve leads to one server on loopback, which notes where each request wanted to go (the host that
was looked up, the TLS server name, the port) and what was in it. Nothing that is not looked up is ever connected to.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
import stamina
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from consumer.adapters.aws import AwsCredentials, Endpoints, new_aws_session
from consumer.adapters.gcs import FIELDS, WRITTEN_FIELDS, GcsDestination
from consumer.adapters.http import HttpClient
from consumer.adapters.http_connect import AddressInfo, Connector
from consumer.adapters.s3 import S3Source
from consumer.errors import ReplicatorError
from consumer.model import CarriedMetadata, NewObject, ObjectRef
from consumer.names import destination_name, is_bucket_name
from consumer.parse import parse_message
from tests.doubles.recorder import Recorder
from tests.doubles.workbench import record
from tests.unit.scripted_service import MANY, ONE, Scripted, client

HOME = "eu-central-1"
REPLICA = "replica-bucket"


@dataclass(frozen=True)
class Sent:
    """One request: `looked_up` and `port` are where the client meant to connect, `tls_name` whom it asked for there."""

    looked_up: str
    port: int
    tls_name: str | None
    method: str
    target: str
    headers: dict[str, str]


@dataclass
class Everywhere:
    """The only server there is. `answer` is what it says to everything."""

    ports: dict[str, int] = field(default_factory=dict)
    asked_for: list[tuple[str, int]] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    answer: bytes = b""
    _names: dict[int, str | None] = field(default_factory=dict)

    @asynccontextmanager
    async def listening(self, certificate: ssl.SSLContext) -> AsyncIterator[None]:
        certificate.sni_callback = self._note_name
        plain = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        secure = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=certificate)
        self.ports = {
            "http": plain.sockets[0].getsockname()[1],
            "https": secure.sockets[0].getsockname()[1],
        }
        async with plain, secure:
            yield

    def _note_name(self, wrapped: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        self._names[id(wrapped)] = name

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            start = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            request, *lines = start.rstrip("\r\n").split("\r\n")
            method, target, _ = request.split(" ")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await reader.readexactly(int(headers.get("content-length", "0")))
            wrapped = writer.get_extra_info("ssl_object")
            name = self._names.get(id(wrapped)) if wrapped else None
            self.sent.append(Sent(*self.asked_for[-1], name, method, target, headers))
            head, _, body = self.answer.partition(b"\r\n\r\n")
            writer.write(head + b"\r\nConnection: close\r\n\r\n" + (b"" if method == "HEAD" else body))
            await writer.drain()
        writer.close()

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """Every name leads here."""
        self.asked_for.append((host, port))
        actual = self.ports["https" if port == 443 else "http"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", actual))]


class Bearer:
    async def headers(self) -> dict[str, str]:
        return {"Authorization": "Bearer google-token"}

    def forget(self) -> None:
        return


@dataclass
class World:
    """Both adapters as the program builds them, on an event loop of their own."""

    runner: asyncio.Runner
    everywhere: Everywhere
    aws: S3Source
    compatible: S3Source
    google: GcsDestination

    def ask(self, work: Any, answer: bytes) -> list[Sent]:
        """What was sent while the work was tried; its own failure is not the point."""
        self.everywhere.sent.clear()
        self.everywhere.asked_for.clear()
        self.everywhere.answer = answer

        async def trying() -> None:
            with suppress(ReplicatorError):
                async with asyncio.timeout(30):
                    await work

        self.runner.run(trying())
        return list(self.everywhere.sent)


def certificate(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "everywhere")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    both = folder / "certificate.pem"
    both.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    everywhere = Everywhere()
    context = certificate(tmp_path_factory.mktemp("tls"))
    with asyncio.Runner() as runner:

        async def enter() -> tuple[Any, HttpClient]:
            listening = everywhere.listening(context)
            await listening.__aenter__()
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            http = HttpClient(Connector(everywhere.resolve, trusting))
            return listening, http

        listening, http = runner.run(enter())
        session = new_aws_session(HOME, "KEYID", "secret-key", "session-token")

        def source(url: str | None) -> S3Source:
            return S3Source(
                http,
                AwsCredentials(session),
                Endpoints(session, url),
                Recorder(),
                region=HOME,
                custom_endpoint=url is not None,
            )

        stamina.set_testing(True, attempts=1)  # a refusal need not be tried again and again here
        yield World(
            runner,
            everywhere,
            source(None),
            source("http://minio.internal:9000"),
            GcsDestination(
                http, Bearer(), Recorder(), bucket=REPLICA, endpoint="https://storage.googleapis.com"
            ),
        )
        stamina.set_testing(False)
        runner.run(http.close())
        runner.run(listening.__aexit__(None, None, None))


def http_answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


NO_SUCH_KEY = http_answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
NOT_FOUND = http_answer(404, b'{"error":{"errors":[{"reason":"notFound"}],"message":"No such object"}}')

BOUNDED = settings(
    max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
NAMES = st.one_of(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{1,40}[A-Za-z0-9]", fullmatch=True),
    st.sampled_from(
        [
            "169.254.169.254",
            "127.0.0.1",
            "1.2.3.4",
            "metadata.google.internal",
            "bucket.evil.example",
            "localhost",
            "UPPER_case",
            "a" * 255,
            "a-s3alias",
            "evil--use1-az4--x-s3",
            "x--op-s3",
            "0x7f000001",
            "s3.amazonaws.com",
            "xn--evil",
        ]
    ),
).filter(is_bucket_name)
KEYS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    st.lists(
        st.sampled_from(
            [
                *(
                    "..",
                    ".",
                    "/",
                    "\\",
                    "//",
                    "?versionId=x",
                    "#",
                    "&",
                    ";",
                    "+",
                    " ",
                    "@evil.example",
                    ":80",
                ),
                *("%2e%2e", "%2F", "\r\n", " HTTP/1.1\r\nHost: evil\r\n\r\n", "http://evil.example/"),
                *("\x00", "é", "\u2024", "a"),
            ]
        ),
        min_size=1,
        max_size=6,
    ).map("".join),
)
REGIONS = st.one_of(
    st.none(),
    st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True),
    st.sampled_from(
        [HOME, "us-east-1", "cn-north-1", "us-iso-east-1", "aws-global", "evil", "fips-us-east-1", "-"]
    ),
)


def check_s3(sent: list[Sent], bucket: str, key: str, hosts: re.Pattern[str], port: int) -> None:
    """Each request is for that object, at a host of S3's own, and has nothing of the names anywhere else."""
    for one in sent:
        assert one.method in ("GET", "HEAD")
        assert one.port == port
        assert one.headers["host"] == (one.looked_up if port == 443 else f"{one.looked_up}:{port}")
        assert one.tls_name == (one.looked_up if port == 443 else None)
        assert hosts.fullmatch(one.looked_up), one.looked_up
        path, question, _ = one.target.partition("?")
        assert question == ""
        assert re.fullmatch(r"/[A-Za-z0-9._~%/-]*", path), "all else is encoded"
        root = "/" if one.looked_up.startswith(f"{bucket}.") else f"/{bucket}/"
        assert path == root + quote(key, safe="/~-._")
        assert unquote(path) == root + key


AMAZON = re.compile(r"(?:[a-z0-9-]+\.)?s3(?:-fips)?(?:\.[a-z0-9-]+)?\.amazonaws\.com")
OWN = re.compile(r"minio\.internal")


@BOUNDED
@given(bucket=NAMES, key=KEYS, region=REGIONS)
@example(bucket="abc", key="../../other-bucket/key", region=None)
@example(bucket="abc", key="/", region=None)
@example(bucket="abc", key="..", region="us-east-1")
@example(bucket="169.254.169.254", key="latest/meta-data/", region=None)
def test_s3_of_aws_is_asked_for_that_object_alone(
    world: World, bucket: str, key: str, region: str | None
) -> None:
    sent = world.ask(world.aws.head(ObjectRef(bucket, key), region), NO_SUCH_KEY)
    check_s3(sent, bucket, key, AMAZON, 443)
    assert len(sent) <= 2
    assert sent or region not in (None, HOME, "us-east-1") or bucket.endswith("--x-s3") or len(bucket) > 63


@BOUNDED
@given(bucket=NAMES, key=KEYS, region=REGIONS)
@example(bucket="abc", key="../../other-bucket/key", region=None)
@example(bucket="evil--use1-az4--x-s3", key="k", region=None)
def test_a_custom_endpoint_is_asked_for_that_object_alone(
    world: World, bucket: str, key: str, region: str | None
) -> None:
    sent = world.ask(world.compatible.head(ObjectRef(bucket, key), region), NO_SUCH_KEY)
    check_s3(sent, bucket, key, OWN, 9000)
    assert sent or bucket.endswith("--x-s3") or len(bucket) > 63


@BOUNDED
@given(key=KEYS, prefix=st.sampled_from(["", "from/aws/", "../", "?x="]))
@example(key="../../../b/other-bucket/o/x", prefix="")
@example(key="a?ifGenerationMatch=0&alt=media#x", prefix="")
@example(key="x/compose", prefix="")
def test_google_is_asked_for_that_object_alone(world: World, key: str, prefix: str) -> None:
    try:
        name = destination_name(prefix, key)
    except ReplicatorError:
        return
    new = NewObject(
        name, 4, 0, CarriedMetadata(content_type="text/plain\r\nX: y"), {"replicator-source": name}
    )
    one = f"/storage/v1/b/{REPLICA}/o/{quote(name, safe='')}"
    many = f"/upload/storage/v1/b/{REPLICA}/o"
    fields, written = FIELDS, WRITTEN_FIELDS
    for work, method, path, query in (
        (world.google.stat(name), "GET", one, {"fields": [fields]}),
        (world.google.delete(name, 7), "DELETE", one, {"ifGenerationMatch": ["7"]}),
        (
            world.google.create(new, [b"body"], 1),
            "POST",
            many,
            {"uploadType": ["multipart"], "ifGenerationMatch": ["0"], "fields": [written]},
        ),
        (
            world.google.start_session(new),
            "POST",
            many,
            {"uploadType": ["resumable"], "ifGenerationMatch": ["0"], "fields": [written]},
        ),
    ):
        (sent,) = world.ask(work, NOT_FOUND)
        assert (sent.looked_up, sent.port) == ("storage.googleapis.com", 443)
        assert (sent.tls_name, sent.headers["host"]) == ("storage.googleapis.com", "storage.googleapis.com")
        assert "x" not in sent.headers, "no header of the object's own"
        target = urlsplit(sent.target)
        assert (sent.method, target.path, target.fragment) == (method, path, "")
        assert parse_qs(target.query) == query


# --- what the other side answers ------------------------------------------------------------------------------------

HOSTILE_REGIONS = [
    "evil.example/",
    "x.attacker.net#",
    "evil.example",
    "../x",
    "a" * 33,
    "EU",
    "",
    "\u2024",
    "a@b",
]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 400])
@pytest.mark.parametrize("region", HOSTILE_REGIONS)
def test_a_redirect_is_never_followed_and_a_hostile_region_never_taken(
    world: World, status: int, region: str
) -> None:
    latin = region.encode("utf-8").decode("latin-1")
    body = (
        f"<Error><Code>AuthorizationHeaderMalformed</Code><Endpoint>evil.example</Endpoint>"
        f"<Region>{region}</Region></Error>"
    ).encode()
    where = ["Location: https://evil.example/steal", f"x-amz-bucket-region: {latin}"]
    for source, hosts, port in ((world.aws, AMAZON, 443), (world.compatible, OWN, 9000)):
        sent = world.ask(source.head(ObjectRef("abc", "key"), None), http_answer(status, body, *where))
        assert sent
        check_s3(sent, "abc", "key", hosts, port)
        assert {looked_up for looked_up, _ in world.everywhere.asked_for} == {sent[0].looked_up}


def test_a_region_that_s3_names_is_asked_within_the_partition_only(world: World) -> None:
    told = http_answer(301, b"", "x-amz-bucket-region: eu-west-3")
    sent = world.ask(world.aws.head(ObjectRef("moved", "key"), None), told)
    assert {one.looked_up for one in sent} == {
        f"moved.s3.{HOME}.amazonaws.com",
        "moved.s3.eu-west-3.amazonaws.com",
    }
    told = http_answer(301, b"", "x-amz-bucket-region: us-iso-east-1")
    sent = world.ask(world.aws.head(ObjectRef("away", "key"), None), told)
    assert {one.looked_up for one in sent} == {f"away.s3.{HOME}.amazonaws.com"}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_google_s_redirects_are_not_followed_with_our_token(world: World, status: int) -> None:
    answer = http_answer(status, b"", "Location: https://evil.example/steal")
    for work in (world.google.stat("name"), world.google.delete("name", 1), world.google.probe()):
        sent = world.ask(work, answer)
        assert {one.looked_up for one in sent} == {"storage.googleapis.com"}
        assert all(one.headers["authorization"] == "Bearer google-token" for one in sent)


# --- names that are refused before anything is asked ------------------------------------------------------------------

HOSTILE_BUCKETS = [
    "a/../b",
    "..",
    ".",
    "",
    "ab",
    "bucket.evil.example:80#",
    "user@evil.example",
    "user:pass@evil",
    "evil.example/",
    "a?b",
    "a#b",
    "a%2fb",
    "a\\b",
    "a b",
    "a\r\nHost: evil",
    "abc\n",
    "abc\x00",
    "a..b",
    ".abc",
    "abc.",
    "-abc",
    "a" * 256,
    "b\u2024c",
    "b\uff0ec",
    "b\u3002c",
    "bücket",
    "\U0001d41bucket",
    "[::1]",
    "127.0.0.1:80",
    "http://169.254.169.254",
    "arn:aws:s3:us-east-1:123456789012:accesspoint/evil",
    "arn:aws:s3-object-lambda:us-east-1:123456789012:accesspoint/evil",
    "arn:aws:s3-outposts:us-east-1:123456789012:outpost/op/accesspoint/evil",
]


@pytest.mark.anyio
@pytest.mark.parametrize("bucket", HOSTILE_BUCKETS)
async def test_no_hostile_bucket_name_comes_in_by_http(bucket: str) -> None:
    service = Scripted()
    async with client(service) as http:
        one = await http.post(ONE, json={"s3_bucket": bucket, "s3_key": "key"})
        many = await http.post(MANY, json={"s3_bucket": bucket, "s3_keys": ["key"]})
    assert (one.status_code, many.status_code, service.asked) == (422, 422, [])


@pytest.mark.parametrize("bucket", HOSTILE_BUCKETS)
def test_no_hostile_bucket_name_comes_in_by_an_event(bucket: str) -> None:
    event = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": bucket}, "object": {"key": "key"}},
    }
    for body in ({"Records": [record("key", bucket=bucket)]}, event):
        with pytest.raises(ReplicatorError, match="not a bucket name"):
            parse_message(json.dumps(body))


@pytest.mark.parametrize(
    "region", [*HOSTILE_REGIONS, 5, None, ["eu-west-1"], "eu-west-1\n", "169.254.169.254"]
)
def test_no_hostile_region_comes_in_by_an_event(region: object) -> None:
    plain = {**record("key"), "awsRegion": region}
    event = {
        "source": "aws.s3",
        "region": region,
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": "bucket"}, "object": {"key": "key"}},
    }
    for body in ({"Records": [plain]}, event):
        (parsed,) = parse_message(json.dumps(body))
        assert parsed.region is None
