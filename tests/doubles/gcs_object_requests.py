"""The requests about buckets and finished objects. DOC is cloud.google.com/storage/docs."""

from __future__ import annotations

import gzip
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from .gcs_call import Call, json_response
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
from .gcs_store import BucketRules, Draft, Store

MAX_COMPOSE_SOURCES = 32
_BYTE_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class ObjectRequests:
    """Answers them from a store. `new_digest` starts the hash of a composite object."""

    def __init__(self, store: Store, *, discard: bool, new_digest: Callable[[], Digest]) -> None:
        self._store = store
        self._discard = discard
        self._new_digest = new_digest

    async def create_bucket(self, call: Call) -> web.Response:
        document = await call.document()
        bucket = document.get("name")
        if not isinstance(bucket, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket):
            raise invalid(f"Invalid bucket name: '{bucket}'")
        await call.at("commit")
        self._store.create_bucket(bucket)
        return json_response(_bucket_resource(bucket, self._store.rules(bucket)))

    async def get_bucket(self, call: Call) -> web.Response:
        with self._store.lock:
            self._store.names(call.bucket_name)
            self._store.require("storage.buckets.get", call.bucket_name)
        return json_response(_bucket_resource(call.bucket_name, self._store.rules(call.bucket_name)))

    async def test_permissions(self, call: Call) -> web.Response:
        """The granted ones of those asked for; the field is left out when there are none."""
        asked = [
            value for key, value in parse_qsl(call.request.raw_path.partition("?")[2]) if key == "permissions"
        ]
        if not asked:
            raise GcsError(400, "required", "Required", location=("parameter", "permissions"))
        with self._store.lock:
            self._store.names(call.bucket_name)
            granted = [permission for permission in asked if permission in self._store.permissions]
        answer: dict[str, Any] = {"kind": "storage#testIamPermissionsResponse"}
        return json_response(answer | ({"permissions": granted} if granted else {}))

    async def stat(self, call: Call) -> web.Response:
        conditions = Preconditions.from_query(call.query)
        found = self._store.read(call.bucket_name, call.object_name, call.generation, conditions)
        return json_response(found.resource(call.url), etag=found.etag)

    async def download(self, call: Call) -> web.StreamResponse:
        """The bytes of the live object, or of a generation that a versioned bucket still has.

        Gzip is unpacked for who does not take it, whatever range was asked for (DOC/transcoding).
        """
        conditions = Preconditions.from_query(call.query)
        try:
            found = self._store.read(call.bucket_name, call.object_name, call.generation, conditions)
        except GcsError as error:
            if error.raw is None:
                error.raw = error.message.encode()  # what sends bytes tells its errors in plain text
            raise
        if found.body is None:
            raise GcsError(501, "notImplemented", "This double discards bodies.")
        encoding = found.attributes.content_encoding
        headers = {
            "Content-Type": found.content_type or "application/octet-stream",
            "ETag": found.etag,
            "X-Goog-Generation": str(found.generation),
            "X-Goog-Metageneration": str(found.metageneration),
            "X-Goog-Storage-Class": found.attributes.storage_class,
            "X-Goog-Stored-Content-Encoding": encoding or "identity",
            "X-Goog-Stored-Content-Length": str(found.size),
            "X-Goog-Hash": f"crc32c={found.crc32c}" + (f",md5={found.md5_hash}" if found.md5_hash else ""),
        }
        takes_gzip = "gzip" in call.request.headers.get("Accept-Encoding", "")
        is_final = "no-transform" in (found.attributes.cache_control or "")
        if encoding == "gzip" and not takes_gzip and not is_final:
            with suppress(OSError, EOFError):
                return await call.bytes_response(200, headers, gzip.decompress(found.data), sized=False)
        if encoding:
            headers["Content-Encoding"] = encoding
        span = _span(call.request.headers.get("Range"), found.size)
        if span is None:
            return await call.bytes_response(200, headers, found.data)
        first, last = span
        headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
        return await call.bytes_response(206, headers, bytes(found.body[first : last + 1]))

    async def delete(self, call: Call) -> web.Response:
        conditions = Preconditions.from_query(call.query)
        name = call.object_name
        await call.at("commit")
        self._store.delete(call.bucket_name, name, call.generation, conditions)
        return web.Response(status=204)

    async def patch(self, call: Call) -> web.Response:
        conditions = Preconditions.from_query(call.query)
        name, document = call.object_name, await call.document()
        await call.at("commit")
        changed = self._store.patch(call.bucket_name, name, call.generation, conditions, document)
        return json_response(changed.resource(call.url), etag=changed.etag)

    async def list(self, call: Call) -> web.Response:
        """objects/list in UTF-8 order: prefix, delimiter, startOffset, endOffset, maxResults, pageToken."""
        query = call.query
        limit = min(parse_integer(query.get("maxResults"), "maxResults") or 1000, 1000)
        after = _token_to_position(query.get("pageToken"))
        first, end = query.get("startOffset", "").encode(), query.get("endOffset", "").encode()
        with self._store.lock:
            self._store.require("storage.objects.list", call.bucket_name)
            found = self._store.listing(call.bucket_name)
        entries: dict[str, StoredObject | None] = {}
        token = None
        for name, stored in found.items():
            position = name.encode()
            if position < first or (end and position >= end):
                continue
            entry = _entry(name, query.get("prefix", ""), query.get("delimiter", ""))
            if entry is None or entry in entries or entry.encode() <= after:
                continue
            if len(entries) == limit:
                token = urlsafe_b64encode(next(reversed(entries)).encode()).decode()
                break
            entries[entry] = stored if entry == name else None
        answer = {
            "items": [stored.resource(call.url) for stored in entries.values() if stored is not None],
            "prefixes": [entry for entry, stored in entries.items() if stored is None],
            "nextPageToken": token,
        }
        present = {key: value for key, value in answer.items() if value}
        return json_response({"kind": "storage#objects"} | present)

    async def compose(self, call: Call) -> web.Response:
        """objects/compose: 1 to 32 sources in the bucket, each with its own precondition; no MD5 results."""
        document = await call.document()
        sources = document.get("sourceObjects")
        if not isinstance(sources, list) or not sources:
            raise GcsError(400, "required", "You must provide at least one source component.")
        if len(sources) > MAX_COMPOSE_SOURCES:
            raise invalid(
                f"The number of source components provided ({len(sources)}) exceeds the maximum (32)."
            )
        wished = Attributes().patched(document.get("destination") or {})
        conditions = Preconditions.from_query(call.query)
        bucket, name = call.bucket_name, call.object_name
        await call.at("commit")
        with self._store.lock:
            self._store.require("storage.objects.get", bucket, name)
            components = [self._source(bucket, source) for source in sources]
            classes = {component.attributes.storage_class for component in components}
            if len(classes) != 1:
                raise invalid("The source objects must all have the same storage class.")
            # DOC/composite-objects: the class of the sources, whatever the bucket's own is.
            attributes = replace(wished, storage_class=classes.pop())
            digest, body = self._new_digest(), None if self._discard else bytearray()
            for component in components:
                if body is None:
                    digest.append(component)
                else:
                    digest.update(component.data)
                    body += component.data
            count = sum(component.component_count or 1 for component in components)
            draft = Draft(bucket, name, attributes, DeclaredHashes(), conditions, component_count=count)
            created = self._store.commit(draft, digest, body)
        return json_response(created.resource(call.url), etag=created.etag)

    def _source(self, bucket: str, source: object) -> StoredObject:
        if not isinstance(source, dict) or not isinstance(source.get("name"), str):
            raise GcsError(400, "required", "Required", location=("parameter", "sourceObjects.name"))
        generation = source.get("generation")
        wanted = parse_integer(str(generation), "generation") if generation is not None else None
        found = self._store.existing(bucket, source["name"], wanted)
        match = (source.get("objectPreconditions") or {}).get("ifGenerationMatch")
        if match is not None:
            Preconditions(generation_match=parse_integer(str(match), "ifGenerationMatch")).check(found)
        return found


def _bucket_resource(bucket: str, rules: BucketRules) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if rules.retention_seconds:
        told["retentionPolicy"] = {"retentionPeriod": str(rules.retention_seconds), "isLocked": False}
    if rules.default_event_based_hold:
        told["defaultEventBasedHold"] = True
    if rules.versioned:
        told["versioning"] = {"enabled": True}
    return told | {
        "kind": "storage#bucket",
        "id": bucket,
        "name": bucket,
        "location": "US",
        "storageClass": rules.storage_class,
        "metageneration": "1",
        "etag": "CAE=",
    }


def _entry(name: str, prefix: str, delimiter: str) -> str | None:
    """What a listing shows for a name: itself, the "folder" up to the delimiter, or nothing."""
    if not name.startswith(prefix):
        return None
    head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
    return prefix + head + delimiter if found else name


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a Range header; None for the whole (absent or not understood); 416 outside."""
    found = _BYTE_RANGE.fullmatch(header or "")
    if found is None or not (found[1] or found[2]):
        return None
    first = int(found[1]) if found[1] else max(0, size - int(found[2]))
    last = min(int(found[2]), size - 1) if found[1] and found[2] else size - 1
    if first > last:
        headers = {"Content-Range": f"bytes */{size}"}
        raise GcsError(416, "requestedRangeNotSatisfiable", "Request range not satisfiable", headers=headers)
    return first, last


def _token_to_position(token: str | None) -> bytes:
    try:
        return urlsafe_b64decode(token or "")
    except ValueError as cause:
        raise invalid("Invalid page token.") from cause
