"""A strict double of Google Cloud Storage's JSON API: an HTTP server on loopback, for tests and benches.

It refuses what the real service refuses (preconditions on every verb, hashes, names, ranges of resumable
sessions), shows an object only when it is committed whole, and does wrong what a test asks of it (`Fault`).

    async with StrictGcs() as gcs:                 # in a test's own event loop
        gcs.create_bucket("b")
    with StrictGcsThread() as gcs:                 # for a child process; the same methods
        gcs.create_bucket("b")
    python -m tests.doubles.strict_gcs --bucket b  # a process of its own, prints its url

Not here: ACLs, encryption keys, rewrite and copy, the XML API, `fields`, more of object versioning than reads of kept
generations.
DOC in comments is cloud.google.com/storage/docs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote_to_bytes

from aiohttp import web

from .gcs_call import Call, CutError, error_response
from .gcs_faults import Fault, FaultQueue, Gate, Operation, RequestRecord
from .gcs_object_requests import ObjectRequests
from .gcs_objects import (
    QUANTUM,
    Attributes,
    DeclaredHashes,
    GcsError,
    ObservedState,
    Preconditions,
    StoredObject,
    check_object_name,
)
from .gcs_store import ALL_PERMISSIONS, BucketRules, Draft, HoldReason, Store
from .gcs_upload_requests import UploadRequests, gone
from .web_server import Server

__all__ = [
    "ALL_PERMISSIONS",
    "QUANTUM",
    "Attributes",
    "BucketRules",
    "Fault",
    "Gate",
    "ObservedState",
    "RequestRecord",
    "StoredObject",
    "StrictGcs",
    "StrictGcsThread",
]

_HEADERS_OF_INTEREST = (
    "Accept-Encoding",
    "Authorization",
    "Content-Encoding",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "If-Match",
    "If-None-Match",
    "Range",
    "Transfer-Encoding",
    "User-Agent",
    "X-Goog-Hash",
    "X-Goog-User-Project",
    "X-Upload-Content-Length",
    "X-Upload-Content-Type",
)

_Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class StrictGcs:
    """The double, served in the running event loop between `__aenter__` and `__aexit__`.

    Every method that is not a coroutine may be called from any thread, before, while and after it is served.
    With `discard` bodies are hashed (CRC32C, and SHA-256 with `sha256`) and thrown away; with `record=False`
    neither requests nor histories are kept, only counts, so that memory stays flat.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        discard: bool = False,
        sha256: bool = False,
        record: bool = True,
    ) -> None:
        self.require_token: str | None = None
        """When set, requests need `Authorization: Bearer <it>`. A session URI is its own credential: a
        request to it may come without the header, but not with a wrong one."""
        self._host, self._port = host, port
        self._discard, self._record = discard, record
        self._store = Store(keep_history=record)
        self._faults = FaultQueue()
        self._uploads = UploadRequests(self._store, discard=discard, sha256=sha256)
        self._objects = ObjectRequests(
            self._store, discard=discard, new_digest=lambda: self._uploads.new_digest(md5=False)
        )
        self._requests: list[RequestRecord] = []
        self._counts: Counter[str] = Counter()
        self._runner: web.ServerRunner | None = None
        self._server: Server | None = None
        self._routes: dict[str, tuple[Operation, _Handler]] = {
            "POST b": ("bucket_create", self._objects.create_bucket),
            "GET b *": ("bucket_get", self._objects.get_bucket),
            "GET b * iam testPermissions": ("test_permissions", self._objects.test_permissions),
            "GET b * o": ("list", self._objects.list),
            "GET b * o *": ("stat", self._objects.stat),
            "GET b * o * media": ("download", self._objects.download),
            "DELETE b * o *": ("delete", self._objects.delete),
            "PATCH b * o *": ("patch", self._objects.patch),
            "POST b * o * compose": ("compose", self._objects.compose),
        }

    # --- serving

    async def start(self) -> None:
        self._server = Server(self._serve, auto_decompress=False, read_bufsize=2**20, access_log=None)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port, backlog=512).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop at once; requests still held by a fault are cancelled."""
        if self._runner is not None and self._server is not None:
            await self._runner.cleanup()
            self._server.end()
            self._runner = self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The API endpoint, without a slash at its end. Known once the server has started."""
        if self._port == 0:
            raise RuntimeError("the double has not been started")
        return f"http://{self._host}:{self._port}"

    # --- what tests arrange

    def create_bucket(self, bucket: str) -> None:
        self._store.create_bucket(bucket)

    def set_rules(self, bucket: str, rules: BucketRules) -> None:
        """What the bucket does to every object written from now on."""
        self._store.set_rules(bucket, rules)

    @property
    def permissions(self) -> set[str]:
        """What the caller may do: `testPermissions` answers from it, operations are refused without."""
        return self._store.permissions

    @permissions.setter
    def permissions(self, granted: Iterable[str]) -> None:
        self._store.permissions = set(granted)

    @property
    def rate_limit_per_name(self) -> bool:
        """Whether a second write to one name within a second is 429. `clock` (seconds) can be replaced."""
        return self._store.rate_limit_per_name

    @rate_limit_per_name.setter
    def rate_limit_per_name(self, limited: bool) -> None:
        self._store.rate_limit_per_name = limited

    @property
    def clock(self) -> Callable[[], float]:
        return self._store.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._store.clock = clock

    def put(
        self,
        bucket: str,
        name: str,
        data: bytes,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = "application/octet-stream",
        attributes: Attributes | None = None,
    ) -> StoredObject:
        """Plant an object, or overwrite one, as another writer would. `attributes` overrides the two before."""
        chosen = attributes or Attributes(content_type=content_type, metadata=dict(metadata or {}))
        draft = Draft(bucket, check_object_name(name), chosen, DeclaredHashes(), Preconditions())
        digest = self._uploads.new_digest(md5=not self._discard)
        digest.update(data)
        with self._store.as_other_writer():
            return self._store.commit(draft, digest, None if self._discard else bytes(data))

    def change(self, bucket: str, name: str, document: Mapping[str, Any]) -> StoredObject:
        """Change an object's metadata (a patch of its resource) as another writer would."""
        with self._store.as_other_writer():
            return self._store.patch(bucket, name, None, Preconditions(), document)

    def remove(self, bucket: str, name: str) -> None:
        """Delete an object as another writer would."""
        with self._store.as_other_writer():
            self._store.delete(bucket, name, None, Preconditions())

    def hold(self, bucket: str, name: str, reason: HoldReason = "objectUnderActiveHold") -> None:
        """From now on deleting or overwriting the name is 403 with this reason."""
        self._store.hold(bucket, name, reason)

    def release(self, bucket: str, name: str) -> None:
        self._store.release(bucket, name)

    def inject(self, *faults: Fault) -> None:
        """Queue rules; see `Fault` for which request takes which."""
        with self._store.lock:
            for fault in faults:
                self._faults.add(fault)

    def clear_faults(self) -> None:
        with self._store.lock:
            self._faults.clear()

    def pending_faults(self) -> tuple[Fault, ...]:
        """Rules not used up yet."""
        with self._store.lock:
            return self._faults.pending()

    def expire_sessions(self, status: int = 410) -> int:
        """Kill all open resumable sessions: later requests on them get `status`. Returns how many."""
        with self._store.lock:
            open_ones = [session for session in self._uploads.sessions.values() if session.outcome is None]
            for session in open_ones:
                session.outcome = gone(status)
            return len(open_ones)

    # --- what tests look at

    def object(self, bucket: str, name: str) -> StoredObject | None:
        """The live object, or None."""
        return self._store.live(bucket, name)

    def objects(self, bucket: str) -> dict[str, StoredObject]:
        """All live objects by name, in the order a listing has (UTF-8)."""
        return self._store.listing(bucket)

    def noncurrent(self, bucket: str) -> list[StoredObject]:
        """What a versioned bucket still keeps of objects that are no more."""
        with self._store.lock:
            return [stored for stored in self._store.noncurrent if stored.bucket == bucket]

    def history(self, bucket: str, name: str) -> tuple[ObservedState, ...]:
        """Every state of the name that a reader could have observed, oldest first; generation 0: absent."""
        return self._store.history(bucket, name)

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests answered (or cut) so far, in that order."""
        with self._store.lock:
            return list(self._requests)

    def count(self, operation: Operation | None = None) -> int:
        """How many requests of this kind, or of any, were answered or cut."""
        with self._store.lock:
            return self._counts[operation] if operation is not None else self._counts.total()

    def clear_requests(self) -> None:
        """Forget requests and counts, for a test that looks at its second half alone."""
        with self._store.lock:
            self._requests.clear()
            self._counts.clear()

    def open_sessions(self) -> dict[str, int]:
        """Resumable sessions neither finished nor dead: upload_id → bytes persisted."""
        with self._store.lock:
            return {
                key: session.persisted
                for key, session in self._uploads.sessions.items()
                if session.outcome is None
            }

    # --- one request

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        call = Call(self, request, self._take_fault)
        try:
            response = await self._answer(call)
        except CutError:
            self._remember(call, 0)
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        self._remember(call, response.status)
        return response

    async def _answer(self, call: Call) -> web.StreamResponse:
        try:
            handler = self._route(call)
            await call.begin()
            self._authenticate(call)
            response = await handler(call)
            await call.at("answer")
        except GcsError as error:
            return error_response(error)
        return response

    def _take_fault(self, call: Call, named_only: bool) -> Fault | None:
        with self._store.lock:
            method = call.request.method
            fault = self._faults.take(call.operation, method, call.bucket, call.name, named_only=named_only)
            session = self._uploads.sessions.get(call.query.get("upload_id", ""))
            if fault is not None and fault.expire_session is not None and session is not None:
                session.outcome = gone(fault.expire_session)
            return fault

    def _remember(self, call: Call, status: int) -> None:
        request = call.request
        with self._store.lock:
            self._counts[call.operation] += 1
            if not self._record:
                return
            record = RequestRecord(
                operation=call.operation,
                method=request.method,
                raw_path=request.raw_path,
                bucket=call.bucket,
                name=call.name,
                query=call.query,
                headers={key: request.headers[key] for key in _HEADERS_OF_INTEREST if key in request.headers},
                status=status,
                bytes_in=call.bytes_in,
                fault=call.fault,
            )
            self._requests.append(record)

    def _authenticate(self, call: Call) -> None:
        """DOC/json_api/v1/status-codes: 401 `required` without, `authError` with wrong credentials."""
        if self.require_token is None:
            return
        given = call.request.headers.get("Authorization")
        if given == f"Bearer {self.require_token}":
            return
        where = ("header", "Authorization")
        challenge = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/"'}
        if given is not None:
            raise GcsError(401, "authError", "Invalid Credentials", location=where, headers=challenge)
        if "upload_id" not in call.query:
            raise GcsError(401, "required", "Login Required", location=where, headers=challenge)

    def _route(self, call: Call) -> _Handler:
        """Name the operation from method and raw path. A name's slashes must be escaped: a raw one is 404."""
        for prefix in ("/storage/v1/b", "/download/storage/v1/b", "/upload/storage/v1/b"):
            if call.path == prefix or call.path.startswith(prefix + "/"):
                break
        else:
            return _refuse_unknown
        segments = [_unquote(part) for part in call.path[len(prefix) :].split("/")[1:]]
        call.bucket = segments[0] if segments else None
        if prefix.startswith("/upload"):
            return self._route_upload(call) if segments[1:] == ["o"] else _refuse_unknown
        if len(segments) > 2 and segments[1] == "o":
            call.name, segments[2] = segments[2], "*"
        reads_media = call.request.method == "GET" and call.query.get("alt") == "media"
        if prefix.startswith("/download") or (reads_media and call.name is not None):
            segments.append("media")
        shape = " ".join([call.request.method, "b", *(["*"] if segments else []), *segments[1:]])
        if shape not in self._routes:
            return _refuse_unknown
        call.operation, handler = self._routes[shape]
        return handler

    def _route_upload(self, call: Call) -> _Handler:
        call.name = call.query.get("name")
        upload_id = call.query.get("upload_id")
        session = self._uploads.sessions.get(upload_id or "")
        if session is not None:
            call.bucket, call.name = session.draft.bucket, session.draft.name
        is_query = call.request.headers.get("Content-Range", "").strip().startswith("bytes */")
        match call.request.method, call.query.get("uploadType"):
            case "DELETE", _ if upload_id is not None:
                call.operation, handler = "resumable_cancel", self._uploads.cancel
            case "PUT" | "POST", _ if upload_id is not None and is_query:
                call.operation, handler = "resumable_status", self._uploads.query
            case "PUT" | "POST", _ if upload_id is not None:
                call.operation, handler = "resumable_put", self._uploads.append
            case "POST", "media":
                call.operation, handler = "media", self._uploads.media
            case "POST", "multipart":
                call.operation, handler = "multipart", self._uploads.multipart
            case "POST", "resumable":
                call.operation, handler = "resumable_start", self._uploads.start_session
            case _:
                return _refuse_unknown
        return handler


class StrictGcsThread(StrictGcs):
    """The same double served by its own thread, for a client in another process or in blocking code."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="strict-gcs", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.start(), self._loop).result(timeout=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=30)
        self._loop.close()

    async def _end(self) -> None:
        """Leaves no task and no connection to the garbage collector, whose warnings would hit any later test."""
        await self.stop()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for _ in range(3):  # a closed connection is let go of some turns later
            await asyncio.sleep(0)


async def _refuse_unknown(call: Call) -> web.Response:
    raise GcsError(404, "notFound", "Not Found")


def _unquote(part: str) -> str:
    """Percent-decode a path segment: `+` stays; what is not UTF-8 becomes surrogates, refused later."""
    return unquote_to_bytes(part).decode("utf-8", "surrogateescape")


_UPLOADS: tuple[Operation, ...] = ("multipart", "resumable_start", "resumable_put")
_PASSING_FAULTS = (
    Fault(_UPLOADS, status=503),
    Fault(_UPLOADS, status=500, at="commit"),
    Fault(_UPLOADS, status=429, reason="rateLimitExceeded", retry_after=1),
    Fault(_UPLOADS, cut=True),
    Fault(_UPLOADS, cut=True, at="body", after_bytes=2048),
    Fault(_UPLOADS, cut=True, at="answer"),
    Fault("multipart", corrupt_at=4000),
    Fault("resumable_put", cut=True, at="body", after_bytes=3 * 2**20),
    Fault("resumable_put", expire_session=410),
    Fault("delete", status=503),
    Fault("delete", cut=True, at="answer"),
)
"""What every client of the real service meets now and then, and has to get over."""


async def _do_wrong_now_and_then(gcs: StrictGcs, seconds: float, seed: int) -> None:
    chance = random.Random(seed)
    while True:
        await asyncio.sleep(chance.uniform(0.5, 1.5) * seconds)
        # Rules that no request comes for must not pile up, nor keep others from coming.
        if len(gcs.pending_faults()) >= 3:
            gcs.clear_faults()
        gcs.inject(chance.choice(_PASSING_FAULTS))


async def _run(arguments: argparse.Namespace) -> None:
    gcs = StrictGcs(
        host=arguments.host,
        port=arguments.port,
        discard=arguments.discard,
        sha256=arguments.sha256,
        record=not arguments.discard,
    )
    for bucket in arguments.bucket:
        gcs.create_bucket(bucket)
    async with gcs:
        print(gcs.url, flush=True)
        if arguments.fault_seconds:
            await _do_wrong_now_and_then(gcs, arguments.fault_seconds, arguments.seed)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted. Prints the url as its one line of output once requests are taken."""
    parser = argparse.ArgumentParser(description="A strict double of Google Cloud Storage.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", action="append", default=[])
    parser.add_argument("--discard", action="store_true", help="keep sizes and hashes, not bodies")
    parser.add_argument("--sha256", action="store_true", help="add doubleSha256 to every object resource")
    parser.add_argument("--fault-seconds", type=float, help="one passing fault about every so many seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults")
    arguments = parser.parse_args()
    with contextlib.suppress(ImportError):
        # A double must not be the bottleneck of a bench.
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(arguments))


if __name__ == "__main__":
    main()
