"""S3 and SQS by moto, on one port, with S3's notifications going to SQS.

Mended where replicas are written to it: as published, what it checks before a write need not hold at the write, an
object is seen before its metadata is, a checksum that comes with the bytes is neither checked nor always kept, the
CRC32C of parts is a CRC32, and `If-Match` is ignored where an upload is completed.
"""

from __future__ import annotations

import io
import re
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from typing import Any, Final
from urllib.parse import parse_qs

from consumer.sandbox.servers import HOST, Server
from consumer.sandbox.writes import WRITES_PATH, Writes

_ACCOUNT: Final = "123456789012"
_SQS_PATH: Final = re.compile(rf"/|/{_ACCOUNT}/[^/]+")
_CHECKSUM: Final = re.compile(r"HTTP_X_AMZ_CHECKSUM_(CRC32C?|CRC64NVME|SHA1|SHA256)")
_CRC32C: Final = "HTTP_X_AMZ_CHECKSUM_CRC32C"

_Environ = dict[str, Any]
_Application = Callable[[_Environ, Any], Iterable[bytes]]


def start() -> Server:
    _give_crc32c()
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    application = S3InTurn(DomainDispatcherApplication(create_backend_app))
    server = make_server(HOST, 0, application, threaded=True, request_handler=MotoRequestHandler)
    return Server(f"http://{HOST}:{server.port}", server.serve_forever)


def _give_crc32c() -> None:
    """Moto would take a CRC32 where the package of this name is not installed."""
    import google_crc32c

    module = module_from_spec(ModuleSpec("crc32c", None))
    module.crc32c = google_crc32c.value  # type: ignore[attr-defined]
    sys.modules["crc32c"] = module


class S3InTurn:
    """Moto, with S3's requests one at a time: what is checked holds until the write, which is seen as a whole.

    SQS's are not held up, for they wait for messages.
    """

    def __init__(self, moto: _Application) -> None:
        from moto.s3.models import S3Backend, s3_backends

        self._moto = moto
        self._backend = s3_backends[_ACCOUNT]["aws"]
        self._turn = threading.Lock()
        self._writes = Writes()
        put_object = S3Backend.put_object

        def counted(backend: Any, bucket_name: str, key_name: str, *rest: Any, **named: Any) -> Any:
            key = put_object(backend, bucket_name, key_name, *rest, **named)
            self._writes.saw(bucket_name, key_name)
            return key

        S3Backend.put_object = counted  # type: ignore[assignment,method-assign]

    def __call__(self, environ: _Environ, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == WRITES_PATH:
            with self._turn:
                return _answer(start_response, "200 OK", "application/json", self._writes.told())
        if _SQS_PATH.fullmatch(environ["PATH_INFO"]):
            return self._moto(environ, start_response)
        # The body is read first: only the work on the storage has to be one at a time.
        length = environ.get("CONTENT_LENGTH")
        if length or environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read(int(length) if length else -1)
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        else:
            body = b""
        with self._turn:
            return self._in_turn(environ, start_response, body)

    def _in_turn(self, environ: _Environ, start_response: Any, body: bytes) -> Iterable[bytes]:
        query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
        match environ["REQUEST_METHOD"]:
            case "HEAD" if "partNumber" in query:
                # S3 holds If-Match against the object's ETag; moto, when it is asked for a part, against the part's.
                environ.pop("HTTP_IF_MATCH", None)
            case "PUT":
                for name in filter(_CHECKSUM.fullmatch, list(environ)):
                    # Moto keeps a checksum only when it is told which.
                    algorithm = name.rpartition("_")[2]
                    environ.setdefault("HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM", algorithm)
                if _is_wrong(environ, body):
                    return _refuse(start_response, "400 Bad Request", "BadDigest")
            case "POST" if "uploadId" in query:
                if (problem := self._why_not_complete(environ, query["uploadId"][0])) is not None:
                    return _refuse(start_response, *problem)
        return self._moto(environ, start_response)

    def _why_not_complete(self, environ: _Environ, upload_id: str) -> tuple[str, str] | None:
        """What S3 would answer instead of completing the upload."""
        bucket_name, _, key_name = _path(environ)[1:].partition("/")
        bucket = self._backend.buckets.get(bucket_name)
        upload = bucket.multiparts.get(upload_id) if bucket is not None else None
        if upload is None:
            return None  # moto's to answer: completed already, or never begun
        if wanted := environ.get("HTTP_IF_MATCH"):
            key = self._backend.get_object(bucket_name, key_name)
            if key is None:
                return "404 Not Found", "NoSuchKey"
            if key.etag.strip('"') != wanted.strip('"'):
                return "412 Precondition Failed", "PreconditionFailed"
        content = b"".join(upload.parts[number].value for number in upload.partlist)
        return ("400 Bad Request", "BadDigest") if _is_wrong(environ, content) else None


def _path(environ: _Environ) -> str:
    return str(environ["PATH_INFO"]).encode("latin-1").decode()


def _is_wrong(environ: _Environ, content: bytes) -> bool:
    """Whether a CRC32C came along that is not that of the bytes."""
    import google_crc32c

    expected = environ.get(_CRC32C)
    if expected is None or "aws-chunked" in environ.get("HTTP_CONTENT_ENCODING", ""):
        return False
    return bool(b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode() != expected)


def _refuse(start_response: Any, status: str, code: str) -> Iterable[bytes]:
    text = f"<Error><Code>{code}</Code><Message>{status[4:]}</Message></Error>"
    return _answer(start_response, status, "application/xml", text.encode())


def _answer(start_response: Any, status: str, content_type: str, body: bytes) -> Iterable[bytes]:
    start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]
