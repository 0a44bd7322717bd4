"""AWS sessions: credentials with their refresh, by botocore's standard chain, and where each bucket is.

botocore is imported where the chain is asked and nowhere else: it and its data take as much memory as all the rest of
the daemon, and a daemon that was given its credentials needs none of it.
"""

from __future__ import annotations

import math
import threading
import time
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from consumer.adapters.renewal import Renewal
from consumer.adapters.s3_addressing import Addressing, partition_of
from consumer.adapters.sigv4 import AwsKeys
from consumer.errors import Reason, ReplicatorError

_RECHECK_SECONDS: Final = 30.0
_HINT: Final = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role (IRSA, Pod Identity, instance profile); "
    "docs/keyless.md"
)
_ROLE_HINTS: Final = {
    "AssumeRoleWithWebIdentity": "check AWS_ROLE_ARN, and in the role's trust policy the cluster's OIDC provider, the "
    "service account (sub) and the audience (aud); docs/keyless.md",
    "AssumeRole": "check role_arn of the profile, and that the role's trust policy names who assumes it",
}


class AwsSession:
    """A home region, and credentials: those given, or what the standard chain finds (IRSA, Pod Identity, profiles…).

    Given ones are handed over explicitly, because botocore does not read `.env` files.
    """

    def __init__(self, region: str, given: AwsKeys | None = None) -> None:
        self.region_name = region
        self.given = given

    def find_credentials(self) -> Any:
        """What botocore's chain finds, refreshing itself from then on; None when there is nothing. May block."""
        return self.botocore().get_credentials()

    @cache  # noqa: B019 - there is one session, and it lives as long as the process
    def botocore(self) -> Any:
        """botocore's own session, one for all that is asked of it: its data is what takes memory."""
        from botocore.session import Session

        session = Session()
        session.set_config_variable("region", self.region_name)
        return session


def new_aws_session(
    region: str,
    access_key: str | None = None,
    secret_key: str | None = None,
    token: str | None = None,
) -> AwsSession:
    """A session with these credentials, or with the standard chain when none are given."""
    given = AwsKeys(access_key, secret_key, token) if access_key and secret_key else None
    return AwsSession(region, given)


class AwsCredentials:
    """The session's credentials for our own signer. Refreshing may call a remote service, so it runs in a thread."""

    def __init__(self, session: AwsSession) -> None:
        self._session = session
        self._source: Any = None
        self._keys = session.given
        self._asked = False
        self._look_again_at = math.inf  # given ones never change
        self._lock = threading.Lock()
        self._renewal = Renewal(self.load)

    @property
    def region(self) -> str:
        return self._session.region_name

    @property
    def kind_used(self) -> str:
        """`given`, or the name of the chain's link that they are from; empty while nobody asked, or none were found."""
        if not self._asked or self._keys is None:
            return ""
        return "given" if self._session.given is not None else str(self._source.method)

    async def keys(self) -> AwsKeys:
        """Valid credentials; raises `credentials` when there are none.

        Nobody waits for other ones while these are good: botocore begins to renew 15 minutes before they expire.
        """
        self._asked = True
        if self._keys is None:
            return await self._renewal.now()
        if time.monotonic() >= self._look_again_at:
            self._renewal.soon()
        return self._keys

    async def has_others_than(self, refused: AwsKeys) -> bool:
        """Whether there are other credentials by now: a session has expired, and another call may have found them."""
        return await self.keys() != refused or await self.renew()

    async def renew(self) -> bool:
        """Looks again, the other side having refused these credentials; whether there are other ones now."""
        if self._session.given is not None:
            return False
        refused = self._keys
        # The first may have been under way since before the refusal.
        return await self._renewal.now() != refused or await self._renewal.now() != refused

    def load(self) -> AwsKeys:
        """Valid credentials, for a thread: it may ask a remote service. Raises as `keys` does."""
        self._asked = True
        if self._session.given is not None:
            return self._session.given
        with self._lock:  # botocore's session is made for one thread
            return self._ask()

    def _ask(self) -> AwsKeys:
        try:
            # botocore refreshes in here, well before the expiry.
            self._source = self._source or self._session.find_credentials()
            frozen = self._source.get_frozen_credentials() if self._source else None
        except Exception as error:
            # Sources raise far more than botocore's own errors: ClientError when STS refuses a role,
            # ResponseParserError for an answer of a proxy, OSError without the token file, RuntimeError…
            raise _refusal(error) from error
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            raise ReplicatorError(Reason.CREDENTIALS, "no AWS credentials found", hint=_HINT)
        self._look_again_at = time.monotonic() + _RECHECK_SECONDS
        self._keys = AwsKeys(frozen.access_key, frozen.secret_key, frozen.token)
        return self._keys


def _refusal(error: Exception) -> ReplicatorError:
    """Why there are no credentials. Of what STS answers its code alone: the text may hold what was shown to it."""
    answer = getattr(error, "response", None)
    code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
    code = code if isinstance(code, str) and code.isalnum() and len(code) <= 60 else ""
    what = f"cannot load AWS credentials ({type(error).__name__}{f': {code}' if code else ''})"
    hint = _ROLE_HINTS.get(str(getattr(error, "operation_name", "")), _HINT)
    return ReplicatorError(Reason.CREDENTIALS, what, hint=hint)


class BucketEndpoint:
    """Where the objects of one bucket are: `origin` (scheme and host), `path` before the key, the `host` to sign."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self.host = parts.netloc
        self.path = parts.path


class Endpoints:
    """Resolves bucket endpoints as botocore does (addressing style, dual-stack, FIPS, custom endpoints), once each."""

    def __init__(self, session: AwsSession, endpoint_url: str | None) -> None:
        self._endpoint_url = endpoint_url
        self._home = session.region_name
        self._addressing: Addressing | None = None
        self._known: dict[tuple[str, str], BucketEndpoint] = {}

    def find(self, bucket: str, region: str) -> BucketEndpoint | None:
        """The endpoint, when it was resolved before."""
        return self._known.get((bucket, region))

    async def resolve(self, bucket: str, region: str) -> BucketEndpoint:
        """The endpoint. Raises `refused` for a bucket that cannot be addressed; the text says why."""
        try:
            # Read at the first look rather than at once: a mistake in the config file is then told by a start-up check.
            self._addressing = self._addressing or Addressing.configured(self._endpoint_url)
            url = self._addressing.bucket_url(bucket, region)
            if not self._addressing.endpoint_url and partition_of(region)[0] != partition_of(self._home)[0]:
                # Its hosts are under another name, and our credentials mean nothing there.
                raise ValueError(f"the region {region} is not in the partition of {self._home}")
        except ValueError as error:
            why = f"{bucket!r} cannot be addressed: {error}"
            raise ReplicatorError(Reason.REFUSED, why, operation="s3:GetObject") from error
        endpoint = BucketEndpoint(url)
        if len(self._known) > 10_000:
            self._known.clear()
        self._known[bucket, region] = endpoint
        return endpoint
