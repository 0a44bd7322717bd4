"""Google Cloud Storage as a source: one read of an object's metadata, then its bytes of exactly that generation.

`objects.get` and its parameters: https://cloud.google.com/storage/docs/json_api/v1/objects/get; generations and
metagenerations: https://cloud.google.com/storage/docs/metadata#generation-number; why bytes are asked for with
`Accept-Encoding: gzip`, and then come as they are stored: https://cloud.google.com/storage/docs/transcoding.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from consumer.adapters.gcs_client import (
    GET,
    GcsRequests,
    Token,
    created_at,
    read_carried,
    read_metadata,
    read_resource,
    text_of,
)
from consumer.adapters.gcs_errors import (
    is_missing_bucket,
    is_missing_object,
    tells_a_reason,
    translate_gcs_source_error,
)
from consumer.adapters.http import Exchange, HttpClient, retry_after, with_retries
from consumer.adapters.source_stream import Opening, ReadStream, check_range, range_header
from consumer.errors import Reason, ReplicatorError, SourceChanged, SourceGone
from consumer.identity import PREFIX, SOURCE
from consumer.model import ObjectRef, SourceObject, Store
from consumer.names import PROBE_NAME
from consumer.ports import Observer
from consumer.proof import is_checksum

READ: Final = f"source {GET}"
"""The operation in errors and metrics: the same permission at a destination is another side's."""

_FIELDS: Final = (
    "generation,metageneration,size,timeCreated,crc32c,md5Hash,"
    "contentType,contentEncoding,contentLanguage,contentDisposition,cacheControl,metadata"
)
_ROUNDS: Final = 4
"""How often metadata and bytes are read again because the object changed in between."""
_ANSWERS: Final = frozenset({Reason.SOURCE_BUCKET_MISSING, Reason.SOURCE_FORBIDDEN})
"""What an endpoint that works answers about a bucket that cannot exist."""


@dataclass(frozen=True, slots=True)
class _State:
    """What is to be read: a generation, and the metageneration of the metadata that was read with it, if it was."""

    source: SourceObject
    metageneration: str | None = None


class GcsSource:
    """`ports.SourceStore` over Cloud Storage's JSON API.

    Needs `storage.objects.get`, and `storage.objects.list` to tell a missing object from a forbidden one
    (https://cloud.google.com/storage/docs/access-control/iam-json).
    """

    def __init__(self, http: HttpClient, token: Token, observer: Observer, *, endpoint: str) -> None:
        self._requests = GcsRequests(http, token)
        self._observer = observer
        self._buckets = f"{endpoint}/storage/v1/b/"

    async def head(self, ref: ObjectRef, region: str | None) -> SourceObject:
        """The live object's state; the generation is its revision. Raises SourceGone only when there is a bucket."""
        return (await with_retries(READ, lambda: self._state(ref), self._observer)).source

    def open(
        self,
        ref: ObjectRef,
        region: str | None,
        *,
        pin: SourceObject | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> Opening:
        """Without `pin`, metadata and bytes of one state: when it changed in between, both are read again.

        A generation's bytes never change, so with `pin` they are read alone and belong to the state that the pin tells;
        what changed in the metadata since has an event of its own.
        """

        async def call() -> ReadStream:
            if pin is not None:
                stream = await self._read(_State(pin), start, end)
                if stream is not None:
                    return stream
                await self._state(ref)  # raises when the object, or its bucket, is gone
            else:
                for _ in range(_ROUNDS):
                    stream = await self._read(await self._state(ref), start, end)
                    if stream is not None:
                        return stream
            raise SourceChanged(Reason.SOURCE_CHANGED, f"{ref.uri} changed while it was read", operation=READ)

        return Opening(lambda: with_retries(READ, call, self._observer))

    async def part_sizes(self, source: SourceObject) -> Sequence[int] | None:
        """None: Cloud Storage keeps no parts, a composed object has a CRC32C of its whole."""
        return None

    async def probe(self, bucket: str | None) -> None:
        """Asks for an object that does not exist: "no such object" is the answer of a bucket that we may read.

        Raises `source_forbidden` also when only `storage.objects.list` is missing: Cloud Storage then refuses to say
        "no such object". Without a bucket, one that cannot exist is asked for, which proves endpoint and credentials.
        """
        name = bucket or f"replicator-probe-{uuid.uuid4().hex}"
        try:
            await self.head(ObjectRef(name, PROBE_NAME, Store.GCS), None)
        except SourceGone:
            return
        except ReplicatorError as error:
            if bucket is None and error.reason in _ANSWERS:
                return
            raise

    # --- reading ------------------------------------------------------------------------------------------------

    async def _state(self, ref: ObjectRef) -> _State:
        url = f"{self._url(ref)}?fields={_FIELDS}"
        async with await self._requests.request("GET", url, READ) as response:
            if response.status != 200:
                body = await response.read()
                if response.status == 404:
                    raise await self._missing(ref, body)
                raise self._refusal(ref, response, body)
            try:
                resource = await read_resource(response)
                return _State(_source_object(ref, resource), text_of(resource.get("metageneration")))
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise ReplicatorError(
                    Reason.SERVER_ERROR,
                    f"what answered for {ref.uri} is not Cloud Storage: it describes no object",
                    hint="see whether STORAGE_EMULATOR_HOST, or a proxy on the way, answers in its stead",
                    operation=READ,
                ) from error

    async def _read(self, state: _State, start: int, end: int | None) -> ReadStream | None:
        """The bytes [start, end) of that very state; None when it is not there, or not any more."""
        ref, size = state.source.ref, state.source.size
        url = f"{self._url(ref)}?alt=media&generation={state.source.revision}"
        if state.metageneration is not None:
            url += f"&ifMetagenerationMatch={state.metageneration}"
        ranged = range_header(start, end)
        response = await self._requests.request(
            "GET", url, READ, headers={"Accept-Encoding": "gzip", **ranged}
        )
        try:
            if response.status not in (200, 206):
                body = await response.read()
                if response.status in (412, 416) or (
                    response.status == 404 and not is_missing_bucket(404, body)
                ):
                    response.close()
                    return None
                raise self._refusal(ref, response, body)
            if not await self._is_of(state, response):
                response.close()
                return None
            if response.status == 206:
                last = size if end is None else end
                check_range(response.headers.get("content-range", ""), start, last, READ)
                _check_as_stored(state.source, response, last - start)
                return ReadStream(state.source, response, 0, last - start, READ)
            _check_as_stored(state.source, response, size)
            # Where a range was ignored everything comes: what was not asked for is thrown away.
            most = end - start if ranged and end is not None else None
            return ReadStream(state.source, response, start, size, READ, most)
        except BaseException:
            response.close()
            raise

    async def _is_of(self, state: _State, response: Exchange) -> bool:
        """Whether the answer's bytes are of the state that was asked for."""
        generation = response.headers.get("x-goog-generation")
        metageneration = response.headers.get("x-goog-metageneration", state.metageneration)
        if generation is None:
            # A store that does not tell what it sends may not know generations in questions either.
            now = await self._state(state.source.ref)
            generation, metageneration = now.source.revision, now.metageneration
        if generation != state.source.revision:
            return False
        return state.metageneration is None or metageneration == state.metageneration

    # --- refusals -----------------------------------------------------------------------------------------------

    async def _missing(self, ref: ObjectRef, body: bytes) -> ReplicatorError:
        """What a 404 for an object means; when it does not say so itself, its bucket is asked for a listing."""
        if is_missing_bucket(404, body):
            return translate_gcs_source_error(ref, 404, body, READ)
        if not is_missing_object(body):
            query = f"prefix={quote(ref.key, safe='')}&maxResults=1&fields=items(name)"
            status, answer = await self._requests.look_for_bucket(self._bucket_url(ref), READ, query)
            # We need no right to list; but then Cloud Storage itself must have said that nothing was found.
            may_not_list = status == 403 and tells_a_reason(body) and tells_a_reason(answer)
            if status != 200 and not may_not_list:
                return translate_gcs_source_error(ref, status, answer, READ)
            if status == 200 and not _is_without(answer, ref.key):
                return ReplicatorError(
                    Reason.UNEXPECTED,
                    f"GCS answered 404 without a reason for {ref.uri}, though its bucket lists it",
                    hint="see whether a proxy on the way answers in its stead",
                    operation=READ,
                )
        return SourceGone(Reason.SOURCE_MISSING, f"{ref.uri} does not exist", operation=READ)

    def _refusal(self, ref: ObjectRef, response: Exchange, body: bytes) -> ReplicatorError:
        return translate_gcs_source_error(ref, response.status, body, READ, retry_after(response.headers))

    def _bucket_url(self, ref: ObjectRef) -> str:
        return self._buckets + quote(ref.bucket, safe="")

    def _url(self, ref: ObjectRef) -> str:
        return f"{self._bucket_url(ref)}/o/{quote(ref.key, safe='')}"


def _is_without(listing: bytes, name: str) -> bool:
    """Whether this is a listing from `name` on, and it is not in it."""
    try:
        return all(item["name"] != name for item in json.loads(listing).get("items") or [])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_as_stored(source: SourceObject, response: Exchange, expected: int) -> None:
    """Bytes that were packed or unpacked on the way are others, and as many as they like to be."""
    headers = response.headers
    length = headers.get("content-length")
    if length is not None:
        as_stored = length == str(expected)
    else:
        encoding = source.carried.content_encoding or "identity"
        stored = headers.get("x-goog-stored-content-encoding", encoding)
        as_stored = headers.get("content-encoding", "identity") == stored
    if not as_stored:
        raise ReplicatorError(
            Reason.SERVER_ERROR,
            f"the answer for {source.ref.uri} does not bring its bytes as they are stored "
            f"({length or 'an unknown number of'} bytes instead of {expected}, "
            f"Content-Encoding {headers.get('content-encoding', 'none')})",
            operation=READ,
        )
    promised = source.checksums.get("crc32c")
    for part in headers.get("x-goog-hash", "").split(",") if response.status == 200 else ():
        kind, _, value = part.strip().partition("=")
        if kind == "crc32c" and promised is not None and value != promised:
            raise ReplicatorError(
                Reason.SERVER_ERROR,
                f"the answer for {source.ref.uri} is of bytes with the CRC32C {value}, its metadata says {promised}",
                operation=READ,
            )


def _source_object(ref: ObjectRef, resource: Mapping[str, Any]) -> SourceObject:
    """KeyError, ValueError, TypeError or AttributeError when it is no object resource."""
    made_of = {name: value for name, value in read_metadata(resource).items() if name.startswith(PREFIX)}
    checksums = {"crc32c": resource.get("crc32c"), "md5": resource.get("md5Hash")}
    return SourceObject(
        ref=ref,
        size=int(resource["size"]),
        revision=str(int(resource["generation"])),
        last_modified=created_at(resource) or 0,
        carried=read_carried(resource),
        checksums={
            name: value
            for name, value in checksums.items()
            if isinstance(value, str) and is_checksum(name, value)
        },
        replica_of=made_of.get(SOURCE),
        made_of=made_of,
    )
