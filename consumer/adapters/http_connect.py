"""Opening connections: names and addresses, TLS with our trust, and the proxies of the environment."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

import aiohappyeyeballs

from consumer.adapters.http_connection import Connection
from consumer.errors import Reason, ReplicatorError

CONNECT_SECONDS: Final = 10.0
_NEXT_ADDRESS_SECONDS: Final = 0.25
"""How long one address has before the next is tried beside it (RFC 8305)."""
_PORTS: Final = {"http": 80, "https": 443}
_CERTIFICATE_HINT: Final = (
    "check the endpoint's certificate, or name the issuing authority in AWS_CA_BUNDLE or SSL_CERT_FILE"
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy of the environment; `authorization` is the value of Proxy-Authorization."""

    scheme: str
    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests of one kind go: scheme, host, port, and through which proxy."""

    scheme: str
    host: str
    port: int
    host_header: str
    proxy: Proxy | None = None

    @property
    def through_tunnel(self) -> bool:
        return self.proxy is not None and self.scheme == "https"

    @property
    def target_prefix(self) -> str:
        """What stands before the path in a request line: a proxy without a tunnel is told the whole URL."""
        return f"http://{self.host_header}" if self.proxy and self.scheme == "http" else ""


def origin_of(url: str) -> Origin:
    """The origin of a URL, with the proxy that the environment names for it now."""
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ReplicatorError(
            Reason.ENDPOINT_UNREACHABLE,
            "the endpoint's URL is not one of http:// or https://",
            hint="check the endpoint's URL",
        )
    host_header = parts.netloc.rpartition("@")[2]
    return Origin(parts.scheme, parts.hostname, _port(parts), host_header, _proxy_for(parts))


def _port(parts: SplitResult) -> int:
    try:
        return parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError) as error:
        raise ReplicatorError(
            Reason.ENDPOINT_UNREACHABLE,
            "the endpoint's port is not a number",
            hint="check the endpoint's URL",
        ) from error


def _proxy_for(target: SplitResult) -> Proxy | None:
    if urllib.request.proxy_bypass(target.hostname or ""):
        return None
    found = urllib.request.getproxies().get(target.scheme)
    if not found:
        return None
    parts = urlsplit(found if "://" in found else f"http://{found}")
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ReplicatorError(
            Reason.ENDPOINT_UNREACHABLE,
            f"the proxy of the environment for {target.scheme} is not a URL of http:// or https://",
            hint=f"correct {target.scheme.upper()}_PROXY",
        )
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(parts.scheme, parts.hostname, _port(parts), authorization)


AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
Resolve = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]


async def _resolve(host: str, port: int) -> Sequence[AddressInfo]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


class Connector:
    """Opens connections. One TLS context for all, made when first needed: reading the authorities takes a while."""

    def __init__(self, resolve: Resolve = _resolve, tls: ssl.SSLContext | None = None) -> None:
        self._resolve = resolve
        self._tls = tls

    async def connect(self, origin: Origin, operation: str) -> Connection:
        """A new connection, through the proxy where there is one; `endpoint_unreachable` or `timeout`."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await self._connect(origin, operation)
        except TimeoutError as error:
            raise ReplicatorError(
                Reason.TIMEOUT, "the other side stopped answering", operation=operation
            ) from error

    async def _connect(self, origin: Origin, operation: str) -> Connection:
        proxy = origin.proxy
        if proxy is None:
            return await self._open(origin.scheme, origin.host, origin.port, operation)
        connection = await self._open(proxy.scheme, proxy.host, proxy.port, operation)
        if not origin.through_tunnel:
            return connection
        try:
            await self._tunnel(connection, origin, proxy, operation)
            return await self._start_tls(connection, origin, operation)
        except BaseException:
            connection.abort()
            raise

    async def _open(self, scheme: str, host: str, port: int, operation: str) -> Connection:
        loop = asyncio.get_running_loop()
        tls = self._context(operation) if scheme == "https" else None
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise _unreachable(
                f"cannot resolve {host}", operation, "check the endpoint's name and DNS"
            ) from error
        try:
            opened = await aiohappyeyeballs.start_connection(
                [(family, kind, number, "", address) for family, kind, number, _, address in addresses],
                happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
                interleave=1,
                loop=loop,
            )
        except OSError as error:
            raise _unreachable(
                f"cannot connect to {host}:{port}: {_why(error)}",
                operation,
                "check the endpoint, the network policy and the proxy settings",
            ) from error
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            _, connection = await loop.create_connection(
                Connection, sock=opened, ssl=tls, server_hostname=host if tls else None
            )
        except (OSError, ssl.CertificateError) as error:
            opened.close()
            raise _tls_failed(error, host, port, operation) from error
        except BaseException:
            opened.close()
            raise
        return connection

    async def _tunnel(self, connection: Connection, origin: Origin, proxy: Proxy, operation: str) -> None:
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"Host: {host}:{origin.port}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        await connection.exchange("CONNECT", head, None, operation, CONNECT_SECONDS)
        if connection.status != 200:
            raise _unreachable(
                f"the proxy {proxy.host}:{proxy.port} answered {connection.status} instead of connecting to {host}",
                operation,
                "check HTTPS_PROXY, its credentials, and what the proxy allows",
            )

    async def _start_tls(self, connection: Connection, origin: Origin, operation: str) -> Connection:
        inner = Connection()
        try:
            transport = await asyncio.get_running_loop().start_tls(
                connection.transport, inner, self._context(operation), server_hostname=origin.host
            )
        except (OSError, ssl.CertificateError) as error:
            raise _tls_failed(error, origin.host, origin.port, operation) from error
        assert transport is not None
        inner.connection_made(transport)
        return inner

    def _context(self, operation: str) -> ssl.SSLContext:
        if self._tls is None:
            bundle = os.environ.get("AWS_CA_BUNDLE")
            try:
                context = ssl.create_default_context()
                if bundle:
                    context.load_verify_locations(bundle)
            except OSError as error:
                raise _unreachable(
                    "the authorities' certificates cannot be read",
                    operation,
                    "check the file that AWS_CA_BUNDLE or SSL_CERT_FILE names",
                ) from error
            self._tls = context
        return self._tls


def _tls_failed(error: Exception, host: str, port: int, operation: str) -> ReplicatorError:
    if isinstance(error, ssl.CertificateError):
        return _unreachable(f"the certificate of {host}:{port} is not trusted", operation, _CERTIFICATE_HINT)
    assert isinstance(error, OSError)
    return _unreachable(f"TLS with {host}:{port} failed: {_why(error)}", operation, _CERTIFICATE_HINT)


def _unreachable(message: str, operation: str, hint: str) -> ReplicatorError:
    return ReplicatorError(Reason.ENDPOINT_UNREACHABLE, message, hint=hint, operation=operation)


def _why(error: OSError) -> str:
    """The system's words: asyncio's own show the address once more instead of the reason."""
    if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)
    return (error.strerror or type(error).__name__).splitlines()[0][:200]
