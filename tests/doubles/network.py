"""What stands before a service in a company's network: a forward proxy, TLS, and an authority of one's own.

authority = Authority(folder)
async with TlsFront(service_url, authority.context("s3.internal.example")) as tls:
    async with ForwardProxy({"s3.internal.example:443": tls.address}) as proxy:
        …  # HTTPS_PROXY=proxy.url, AWS_CA_BUNDLE=authority.bundle
        assert proxy.seen == [("CONNECT", "s3.internal.example:443")]
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Address = tuple[str, int]

_MOST_HEAD: Final = 64 * 1024


class Authority:
    """A certificate authority that nobody knows. `bundle` is its own certificate's file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An authority of our own")])
        builder = self._builder(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.bundle = folder / "authority.pem"
        signed = builder.sign(self._key, hashes.SHA256())
        self.bundle.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def context(self, *hosts: str) -> ssl.SSLContext:
        """A server's context with a certificate for these names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, hosts[0])])
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        signed = self._builder(name, key.public_key()).add_extension(names, critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        both = self._folder / f"{hosts[0]}.pem"
        public = signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        both.write_bytes(private + public)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class _Server:
    """A loopback server whose connections end with it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.address: Address = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


class TlsFront(_Server):
    """Takes TLS off and hands the bytes on to a plain service. `clients` counts handshakes that went well."""

    def __init__(self, service_url: str, context: ssl.SSLContext) -> None:
        super().__init__(context)
        parts = urlsplit(service_url)
        assert parts.hostname
        assert parts.port
        self._service = (parts.hostname, parts.port)
        self.clients = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients += 1
        await _join(reader, writer, self._service)


class ForwardProxy(_Server):
    """An HTTP proxy: tunnels by CONNECT, and requests with a whole URL. It alone knows where `routes` lead.

    `seen` are the method and target of each request; without the `credentials` (`user:password`) it answers 407.
    """

    def __init__(self, routes: Mapping[str, Address], credentials: str = "") -> None:
        super().__init__()
        self._routes = routes
        self._wanted = f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else ""
        self.seen: list[tuple[str, str]] = []
        self.refused = 0

    @property
    def netloc(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n"))[:_MOST_HEAD].decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        if self._wanted and headers.get("proxy-authorization") != self._wanted:
            self.refused += 1
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            await writer.drain()
            return
        self.seen.append((method, target))
        tunnel = method == "CONNECT"
        route = self._routes.get(target if tunnel else urlsplit(target).netloc)
        if route is None:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            return
        if tunnel:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _join(reader, writer, route)
            return
        parts = urlsplit(target)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
        # One request for each connection: its end is the answer's end.
        await _join(
            reader,
            writer,
            route,
            "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]),
        )


async def _join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, route: Address, first: str = ""
) -> None:
    """Hands bytes to and fro until one side ends."""
    upstream_reader, upstream_writer = await asyncio.open_connection(*route)
    upstream_writer.write(first.encode("latin-1"))
    there = asyncio.create_task(_pump(reader, upstream_writer))
    back = asyncio.create_task(_pump(upstream_reader, writer))
    try:
        await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        there.cancel()
        back.cancel()
        upstream_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(64 * 1024):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
