"""The requests that bring bytes: media, multipart and resumable. DOC is cloud.google.com/storage/docs."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from aiohttp import web

from .gcs_call import Call, CutError, json_response
from .gcs_objects import (
    Attributes,
    DeclaredHashes,
    Digest,
    GcsError,
    Preconditions,
    StoredObject,
    invalid,
    parse_integer,
)
from .gcs_store import Draft, Store
from .gcs_uploads import ContentRange, UploadSession, parse_multipart


class UploadRequests:
    """Answers them, and keeps the resumable sessions."""

    def __init__(self, store: Store, *, discard: bool, sha256: bool) -> None:
        self.sessions: dict[str, UploadSession] = {}
        self._store = store
        self._discard = discard
        self._sha256 = sha256

    def new_digest(self, *, md5: bool) -> Digest:
        return Digest(md5=md5, sha256=self._sha256)

    async def _draft(self, call: Call, document: Mapping[str, Any], upload_type: str | None) -> Draft:
        """The object that the request describes. A name in the query beats the one in the metadata."""
        if call.name is None and isinstance(document.get("name"), str):
            await call.named_by_body(document["name"])
        name, bucket = call.object_name, call.bucket_name
        if document.get("bucket", bucket) != bucket:
            raise invalid(f"Value '{document['bucket']}' in content does not agree with value '{bucket}'.")
        attributes = Attributes().patched(document)
        if "contentEncoding" in call.query:
            attributes = attributes.patched({"contentEncoding": call.query["contentEncoding"]})
        if attributes.content_type is None:
            attributes = attributes.patched({"contentType": upload_type or "application/octet-stream"})
        elif upload_type is not None and upload_type != attributes.content_type:
            # In force since 2016, seen in buildkite/agent#361.
            raise invalid(
                f"Content-Type specified in the upload ({upload_type}) does not match Content-Type specified "
                f"in metadata ({attributes.content_type})."
            )
        declared = DeclaredHashes.parse(document.get("crc32c"), document.get("md5Hash"))
        return Draft(bucket, name, attributes, declared, Preconditions.from_query(call.query))

    def _header_hashes(self, call: Call) -> DeclaredHashes:
        return DeclaredHashes.from_headers(call.request.headers.getall("X-Goog-Hash", []))

    async def media(self, call: Call) -> web.Response:
        draft = await self._draft(call, {}, call.request.headers.get("Content-Type"))
        in_header = self._header_hashes(call)
        self._store.check_draft(draft)
        digest = self.new_digest(md5=not self._discard or in_header.md5 is not None)
        body = None if self._discard else bytearray()
        async for piece in call.pieces():
            digest.update(piece)
            if body is not None:
                body += piece
        return await self._commit(call, draft, in_header, digest, body)

    async def multipart(self, call: Call) -> web.Response:
        in_header = self._header_hashes(call)
        raw = await call.body()
        document, media_type, media = parse_multipart(call.request.headers.get("Content-Type", ""), raw)
        draft = await self._draft(call, document, media_type)
        digest = self.new_digest(
            md5=not self._discard or draft.declared.md5 is not None or in_header.md5 is not None
        )
        digest.update(media)
        return await self._commit(call, draft, in_header, digest, None if self._discard else media)

    async def _commit(
        self,
        call: Call,
        draft: Draft,
        in_header: DeclaredHashes,
        digest: Digest,
        body: bytes | bytearray | None,
    ) -> web.Response:
        await call.at("commit")
        in_header.verify(digest)
        created = self._store.commit(draft, digest, body)
        return json_response(created.resource(call.url), etag=created.etag)

    async def start_session(self, call: Call) -> web.Response:
        """DOC/performing-resumable-uploads#initiate-session. A precondition already false is 412 here."""
        document = await call.document()
        draft = await self._draft(call, document, call.request.headers.get("X-Upload-Content-Type"))
        total = parse_integer(call.request.headers.get("X-Upload-Content-Length"), "X-Upload-Content-Length")
        self._store.check_draft(draft)
        await call.at("commit")
        upload_id = secrets.token_urlsafe(48)
        digest = self.new_digest(md5=not self._discard or draft.declared.md5 is not None)
        session = UploadSession(upload_id, draft, total, digest, discard=self._discard)
        with self._store.lock:
            self.sessions[upload_id] = session
        where = f"{call.url}/upload/storage/v1/b/{quote(draft.bucket, safe='')}/o"
        location = f"{where}?uploadType=resumable&name={quote(draft.name, safe='')}&upload_id={upload_id}"
        return web.Response(headers={"Location": location, "X-GUploader-UploadID": upload_id})

    def _session(self, call: Call) -> UploadSession:
        session = self.sessions.get(call.query["upload_id"])
        if session is None:
            raise GcsError(404, "notFound", "Not Found")
        if isinstance(session.outcome, GcsError):
            raise session.outcome
        return session

    async def query(self, call: Call) -> web.Response:
        """`bytes */N` or `bytes */*`, body empty: how far it got. With all N bytes held it finishes."""
        session = self._session(call)
        in_header = self._header_hashes(call)
        if await call.body():
            message = "Client sent query request with a non-empty body."
            raise GcsError(400, "badRequest", message, raw=message.encode())
        wanted = ContentRange.parse(call.request.headers["Content-Range"], 0)
        if isinstance(session.outcome, StoredObject):
            return json_response(session.outcome.resource(call.url))
        ticket = session.take_over()
        if wanted.total is None or wanted.total != session.persisted:
            return _resume_incomplete(session)
        session.check_total(wanted.total)
        return await self._finish(call, session, ticket, in_header)

    async def append(self, call: Call) -> web.Response:
        """A chunk, or all of it. Bytes that are persisted already are skipped, as the real service does."""
        session = self._session(call)
        if isinstance(session.outcome, StoredObject):
            return json_response(session.outcome.resource(call.url))
        in_header = self._header_hashes(call)
        length = call.request.content_length
        wanted = ContentRange.parse(call.request.headers.get("Content-Range"), length)
        ticket = session.take_over()
        session.check_range(wanted, length)
        start = wanted.start or 0
        end = wanted.end + 1 if wanted.end is not None else wanted.total
        skip = session.persisted - start
        async for piece in call.pieces():
            if not session.owned_by(ticket):
                raise CutError
            if end is not None and start + call.bytes_in > end:
                raise invalid(f"Content-Range ends at byte {end}, but the body goes on.")
            kept = piece[skip:]
            skip = max(0, skip - len(piece))
            session.feed(kept)
        received = start + call.bytes_in
        if end is not None and received != end:
            raise invalid(f"Content-Range ends at byte {end}, but the body ended at {received}.")
        if wanted.final:
            session.check_total(received)
            return await self._finish(call, session, ticket, in_header)
        await call.at("commit")
        return _resume_incomplete(session)

    async def _finish(
        self, call: Call, session: UploadSession, ticket: int, in_header: DeclaredHashes
    ) -> web.Response:
        """Check and commit, once. A refusal ends the session: after bad data 410, else the refusal stays."""
        await call.at("commit")
        if not session.owned_by(ticket) or session.outcome is not None:
            raise CutError
        try:
            in_header.verify(session.digest)
            created = self._store.commit(session.draft, session.digest, session.body)
        except GcsError as refusal:
            if refusal.status != 429:
                session.outcome = gone(410) if refusal.status == 400 else refusal
                session.body = None
            raise
        session.outcome, session.body = created, None
        response = json_response(created.resource(call.url), etag=created.etag)
        response.headers["X-Goog-Stored-Content-Length"] = str(created.size)
        response.headers["X-Goog-Hash"] = f"crc32c={created.crc32c}"
        return response

    async def cancel(self, call: Call) -> web.Response:
        """DOC/performing-resumable-uploads#cancel-upload: 499, and later requests are 4xx (499 again)."""
        session = self._session(call)
        if isinstance(session.outcome, StoredObject):
            raise invalid("The upload is finished already.")
        session.take_over()
        session.outcome = GcsError(499, "clientClosedRequest", "Client Closed Request", raw=b"")
        session.body = None
        return web.Response(status=499, reason="Client Closed Request")


def gone(status: int) -> GcsError:
    """404 for a session unknown or expired, 410 for one that died (DOC/resumable-uploads#practices)."""
    if status == 404:
        return GcsError(404, "notFound", "Not Found")
    return GcsError(status, "uploadSessionGone", "The upload session is no longer available.")


def _resume_incomplete(session: UploadSession) -> web.Response:
    """308 with `Range`, which is left out while nothing is persisted."""
    headers = {"X-GUploader-UploadID": session.upload_id}
    if session.persisted > 0:
        headers["Range"] = f"bytes=0-{session.persisted - 1}"
    return web.Response(status=308, reason="Resume Incomplete", headers=headers)
