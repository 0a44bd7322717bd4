"""What boto3 gives us: sessions, credentials with their refresh, and where each bucket's endpoint is."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from consumer.adapters.sigv4 import AwsKeys, quote_key
from consumer.errors import Reason, ReplicatorError

_RECHECK_SECONDS: Final = 30.0
_MOST_REGIONS: Final = 64
"""More than there are. Regions come from outside, and a client for each costs megabytes."""
_DIRECTORY_BUCKETS: Final = ("--x-s3", "--xa-s3")
"""S3 Express One Zone: a session protocol of its own, and hosts of its own even at a custom endpoint."""


def new_aws_session(
    region: str,
    access_key: str | None = None,
    secret_key: str | None = None,
    token: str | None = None,
) -> boto3.Session:
    """A session with these credentials, or with the standard chain (IRSA, Pod Identity, profiles…) when none are given.

    They are handed over explicitly, because botocore does not read `.env` files.
    """
    return boto3.Session(
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=token,
        region_name=region,
    )


class AwsCredentials:
    """The session's credentials for our own signer. Refreshing may call a remote service, so it runs in a thread."""

    def __init__(self, session: boto3.Session) -> None:
        self._session = session
        self._source: Any = None
        self._keys: AwsKeys | None = None
        self._checked = -math.inf
        self._lock = asyncio.Lock()

    async def keys(self) -> AwsKeys:
        """Valid credentials; raises `credentials` when there are none."""
        if self._keys is not None and time.monotonic() - self._checked < _RECHECK_SECONDS:
            return self._keys
        async with self._lock:
            if self._keys is None or time.monotonic() - self._checked >= _RECHECK_SECONDS:
                self._keys = await asyncio.to_thread(self._load)
                self._checked = time.monotonic()
            return self._keys

    async def renew(self) -> bool:
        """Looks again, the other side having refused these credentials; whether there are other ones now."""
        refused, self._checked = self._keys, -math.inf
        return await self.keys() != refused

    def _load(self) -> AwsKeys:
        hint = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role "
            "(IRSA, Pod Identity, instance profile)"
        )
        try:
            # botocore refreshes in here, well before the expiry.
            self._source = self._source or self._session.get_credentials()
            frozen = self._source.get_frozen_credentials() if self._source else None
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, RuntimeError) as error:
            # A role that STS refuses is a ClientError, and a refresh that brought nothing new a RuntimeError.
            raise ReplicatorError(
                Reason.CREDENTIALS, f"cannot load AWS credentials ({type(error).__name__})", hint=hint
            ) from error
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise ReplicatorError(Reason.CREDENTIALS, "no AWS credentials found", hint=hint)
        return AwsKeys(frozen.access_key, frozen.secret_key, frozen.token)


class BucketEndpoint:
    """Where the objects of one bucket are: `origin` (scheme and host), `path` before the key, the `host` to sign."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.host = parts.netloc
        self.path = parts.path.removesuffix(quote_key(key))


class Endpoints:
    """Resolves bucket endpoints as botocore does (addressing style, dual-stack, FIPS, custom endpoints), once each."""

    def __init__(self, session: boto3.Session, endpoint_url: str | None) -> None:
        self._session = session
        self._endpoint_url = endpoint_url
        self._home = str(session.region_name)
        self._clients: dict[str, Any] = {}
        self._building = threading.Lock()  # a session cannot build two clients at once
        self._known: dict[tuple[str, str], BucketEndpoint] = {}

    def find(self, bucket: str, region: str) -> BucketEndpoint | None:
        """The endpoint, when it was resolved before."""
        return self._known.get((bucket, region))

    async def resolve(self, bucket: str, region: str) -> BucketEndpoint:
        """The endpoint; the first look at a region builds a client, so it runs in a thread."""
        endpoint = await asyncio.to_thread(self._resolve, bucket, region)
        if len(self._known) > 10_000:
            self._known.clear()
        self._known[bucket, region] = endpoint
        return endpoint

    def _resolve(self, bucket: str, region: str) -> BucketEndpoint:
        if bucket.endswith(_DIRECTORY_BUCKETS):
            raise _unaddressable(bucket, "directory buckets (S3 Express One Zone) are not supported")
        if self._endpoint_url is None and self._partition(region) != self._partition(self._home):
            # Its hosts are under another name, and our credentials mean nothing there.
            raise _unaddressable(bucket, f"the region {region} is not in the partition of {self._home}")
        try:
            answer = self._client(region).head_object(Bucket=bucket, Key="key")
        except (botocore.exceptions.BotoCoreError, ValueError) as error:
            raise _unaddressable(bucket, str(error)) from error
        return BucketEndpoint(answer["Url"], "key")

    def _partition(self, region: str) -> str:
        """`aws`, `aws-cn`…; like botocore, `aws` for a region that it does not know."""
        try:
            return str(self._session.get_partition_for_region(region))
        except botocore.exceptions.UnknownRegionError:
            return "aws"

    def _client(self, region: str) -> Any:
        with self._building:
            client = self._clients.get(region)
            if client is None:
                if len(self._clients) >= _MOST_REGIONS:
                    self._clients.clear()
                client = self._clients[region] = self._session.client(
                    "s3",
                    region_name=region,
                    endpoint_url=self._endpoint_url,
                    aws_access_key_id="unused",
                    aws_secret_access_key="unused",  # noqa: S106 - never sent
                )
                client.meta.events.register("before-call.s3.HeadObject", _answer_with_the_url)
            return client


def _unaddressable(bucket: str, why: str) -> ReplicatorError:
    return ReplicatorError(Reason.REFUSED, f"{bucket!r} cannot be addressed: {why}", operation="s3:GetObject")


def _answer_with_the_url(params: Mapping[str, Any], **_: Any) -> Any:
    """Answers instead of S3, as botocore's own stubber does: its endpoint rules ran, and nothing is sent.

    Presigning would be the other public way to those rules, but it takes the global endpoint for every region.
    """
    return AWSResponse(params["url"], 200, HTTPHeaders(), None), {"Url": params["url"]}
