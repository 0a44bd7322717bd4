"""Google Cloud Storage as a composer: temporary objects put together, removed, listed, and whether there may be any.

What the bucket must not do to them: keep them (a retention policy, a default hold), or charge for their early end (any
class but Standard; a composed object is in the class of its parts). gcloud's parallel uploads know the same rules.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from consumer.adapters.gcs import WRITTEN_FIELDS, resource_of
from consumer.adapters.gcs_client import CREATE, DELETE, GET, GcsClient, read_replica
from consumer.adapters.gcs_errors import is_missing_bucket
from consumer.adapters.http import with_retries
from consumer.errors import PreconditionFailed, Reason, ReplicatorError, SessionGone
from consumer.model import ListedObject, NewObject, Replica, Revision
from consumer.names import TEMPORARY_PREFIX
from consumer.ports import Observer

LIST: Final = "storage.objects.list"
TRIAL_NAME: Final = TEMPORARY_PREFIX + "trial"
"""An empty object that tells what the bucket does to new ones, where we may not ask the bucket itself."""

_BUCKET_FIELDS: Final = "storageClass,retentionPolicy,defaultEventBasedHold"
_TRIAL_FIELDS: Final = "generation,storageClass,retentionExpirationTime,eventBasedHold,temporaryHold"
_COMPOSE_ATTEMPTS: Final = 3


class GcsComposer:
    """`ports.Composer` over one bucket."""

    def __init__(self, client: GcsClient, observer: Observer, *, bucket: str, endpoint: str) -> None:
        self._client = client
        self._observer = observer
        self._bucket_url = f"{endpoint}/storage/v1/b/{quote(bucket, safe='')}"
        self._objects = f"{self._bucket_url}/o"
        self._uploads = f"{endpoint}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
        self._tried: str | None = None
        self._trying = asyncio.Lock()

    # --- whether ------------------------------------------------------------------------------------------------

    async def why_not(self) -> str:
        told = await self.told()
        if told is not None:
            return told
        async with self._trying:
            if self._tried is None:
                self._tried = await self._try()
        return self._tried

    async def told(self) -> str | None:
        """What the bucket tells of itself; None when we may not ask it, and only a trial would tell."""
        if not await self._may_list():
            return f"{LIST} is missing, so that what a killed process leaves could not be found and removed"
        found = await self._resource("GET", f"{self._bucket_url}?fields={_BUCKET_FIELDS}")
        if found is None:
            return None
        if found.get("retentionPolicy"):
            return "the bucket has a retention policy"
        if found.get("defaultEventBasedHold"):
            return "the bucket puts a hold on every new object"
        return _why_not_in(found)

    async def _may_list(self) -> bool:
        found = await self._resource("GET", f"{self._bucket_url}/iam/testPermissions?permissions={LIST}")
        # A store that does not know the question has no rights to miss.
        return found is None or LIST in found.get("permissions", [])

    async def _try(self) -> str:
        """What becomes of a new object here. One that has to stay is found again by the next process."""
        url = f"{self._uploads}?uploadType=media&ifGenerationMatch=0&fields={_TRIAL_FIELDS}"
        trial = f"{self._objects}/{quote(TRIAL_NAME, safe='')}"
        try:
            found = await self._resource("POST", f"{url}&name={quote(TRIAL_NAME, safe='')}", CREATE, data=b"")
        except PreconditionFailed:
            found = await self._resource("GET", f"{trial}?fields={_TRIAL_FIELDS}")
        if found is None:
            return "a temporary object could not be created"
        if found.get("retentionExpirationTime"):
            why = "the bucket retains new objects"
        elif found.get("eventBasedHold") or found.get("temporaryHold"):
            why = "the bucket puts a hold on every new object"
        else:
            why = _why_not_in(found)
        try:
            await self.discard(TRIAL_NAME, int(found.get("generation", 0)))
        except ReplicatorError as error:
            return why or f"a temporary object could not be deleted: {error.message}"
        return why

    async def _resource(
        self, method: str, url: str, operation: str = GET, *, data: bytes | None = None
    ) -> Mapping[str, Any] | None:
        """What the answer says; None when the question is refused, or not understood."""

        async def call() -> Mapping[str, Any] | None:
            async with await self._client.request(method, url, operation, data=data) as response:
                body = await response.read()
                if response.status == 200:
                    return _document(body, operation)
                error = self._client.refusal(response, body, operation)
                if isinstance(error, PreconditionFailed) or error.reason in _WORTH_RAISING:
                    raise error
                return None

        return await with_retries(operation, call, self._observer)

    # --- composing ----------------------------------------------------------------------------------------------

    async def compose(self, new: NewObject, parts: Sequence[Replica]) -> Replica:
        url = (
            f"{self._objects}/{quote(new.name, safe='')}/compose"
            f"?ifGenerationMatch={new.if_revision}&fields={WRITTEN_FIELDS}"
        )
        sources = [
            {
                "name": part.name,
                "generation": str(part.revision),
                "objectPreconditions": {"ifGenerationMatch": str(part.revision)},
            }
            for part in parts
        ]
        body = json.dumps({"sourceObjects": sources, "destination": resource_of(new)}).encode()
        headers = {"Content-Type": "application/json; charset=UTF-8"}

        async def call() -> Replica:
            async with await self._client.request(
                "POST", url, CREATE, headers=headers, data=body
            ) as response:
                if response.status == 200:
                    return await read_replica(response, CREATE)
                answer = await response.read()
                if response.status == 404 and not is_missing_bucket(404, answer):
                    raise SessionGone(
                        Reason.SESSION_LOST, "a temporary part is gone before its time", operation=CREATE
                    )
                raise self._client.refusal(response, answer, CREATE)

        return await self._until_answered(call)

    async def _until_answered(self, call: Callable[[], Awaitable[Replica]]) -> Replica:
        """A time-out is asked about again, too: it loses no more than a request, giving up loses all parts."""
        attempt = 1
        while True:
            try:
                return await with_retries(CREATE, call, self._observer)
            except PreconditionFailed as error:
                error.maybe_ours = error.maybe_ours or attempt > 1
                raise
            except ReplicatorError as error:
                if error.reason is not Reason.TIMEOUT or attempt == _COMPOSE_ATTEMPTS:
                    raise
            attempt += 1

    # --- removing -----------------------------------------------------------------------------------------------

    async def discard(self, name: str, revision: Revision) -> None:
        """By its generation: where objects have versions, a plain delete would keep the bytes as an old one."""
        query = f"generation={revision}&ifGenerationMatch={revision}"
        url = f"{self._objects}/{quote(name, safe='')}?{query}"
        await with_retries(DELETE, lambda: self._client.delete(url), self._observer)

    async def listing(self, prefix: str) -> AsyncIterator[Sequence[ListedObject]]:
        fields = "items(name,generation,timeCreated),nextPageToken"
        base = f"{self._objects}?prefix={quote(prefix, safe='')}&maxResults=1000&fields={fields}"
        token = ""
        while True:
            url = base + (f"&pageToken={quote(token, safe='')}" if token else "")

            async def call(url: str = url) -> Mapping[str, Any]:
                async with await self._client.request("GET", url, LIST) as response:
                    body = await response.read()
                    if response.status != 200:
                        raise self._client.refusal(response, body, LIST)
                    return _document(body, LIST)

            page = await with_retries(LIST, call, self._observer)
            yield [_listed(item) for item in page.get("items", [])]
            token = str(page.get("nextPageToken", ""))
            if not token:
                return


_WORTH_RAISING: Final = frozenset(
    {
        Reason.CREDENTIALS,
        Reason.THROTTLED,
        Reason.SERVER_ERROR,
        Reason.TIMEOUT,
    }
)
"""What says nothing about the bucket; everything else is a refusal, and means that it cannot be asked."""


def _why_not_in(found: Mapping[str, Any]) -> str:
    kept_in = found.get("storageClass") or "STANDARD"
    return "" if kept_in == "STANDARD" else f"the bucket keeps new objects in the class {kept_in}"


def _document(body: bytes, operation: str) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the destination's answer cannot be read", operation=operation
        )
    return document


def _listed(item: Mapping[str, Any]) -> ListedObject:
    try:
        created = datetime.fromisoformat(item["timeCreated"]).timestamp()
        return ListedObject(str(item["name"]), int(item["generation"]), created)
    except (KeyError, TypeError, ValueError) as error:
        raise ReplicatorError(
            Reason.SERVER_ERROR, "the destination's listing cannot be read", operation=LIST
        ) from error
