"""Google's access tokens for the lean path: Application Default Credentials, refreshed off the loop in good time."""

from __future__ import annotations

import datetime as dt
import logging
import os
from typing import Any, Final

from consumer.adapters.aws import AwsCredentials
from consumer.adapters.credential_words import google_words
from consumer.adapters.gcs_refusals import refusal
from consumer.adapters.renewal import Renewal
from consumer.errors import Reason, ReplicatorError

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_AHEAD: Final = dt.timedelta(minutes=3, seconds=45)
"""As google-auth itself: the metadata server hands out the old token until 4 minutes before it expires, so that
with more than that each request would ask for a new one, in vain."""
_LAST_USE: Final = dt.timedelta(seconds=20)
"""A request may be under way for a while before its token is looked at."""


def _without_project_warnings(record: logging.LogRecord) -> bool:
    return "project ID" not in record.getMessage()


class NoToken:
    """For emulators: no credentials at all."""

    async def headers(self) -> dict[str, str]:
        return {}

    def forget(self) -> None:
        return


class GoogleToken:
    """A bearer token that is always valid for a while yet.

    `aws` is what a federation with AWS shows to Google; without it google-auth looks for such credentials by itself.
    """

    def __init__(
        self, credentials_file: str | None = None, scope: str = _SCOPE, *, aws: AwsCredentials | None = None
    ) -> None:
        self._file = credentials_file
        self._scope = scope
        self._aws = aws
        self._credentials: Any = None
        self._refused: str | None = None
        self._renewal = Renewal(self._refresh)

    async def headers(self) -> dict[str, str]:
        """The headers that authorise a request; raises `credentials` when no token can be had.

        Nobody waits for another token while this one is good.
        """
        left = self._left()
        if left < _LAST_USE:
            await self._renewal.now()
            if self._credentials.token == self._refused:  # that one was under way since before the refusal
                await self._renewal.now()
        elif left <= _AHEAD:
            self._renewal.soon()
        headers = {"Authorization": f"Bearer {self._credentials.token}"}
        if quota_project := getattr(self._credentials, "quota_project_id", None):
            headers["x-goog-user-project"] = quota_project
        return headers

    def forget(self) -> None:
        """Asks for a new token before the next request: the other side refused this one."""
        self._refused = self._credentials.token if self._credentials else None

    @property
    def words(self) -> str:
        """Which credentials the token is from; empty until there is one."""
        return google_words(self._credentials) if self._credentials and self._credentials.token else ""

    def _left(self) -> dt.timedelta:
        """How long the token is good for; nothing without one."""
        credentials = self._credentials
        if credentials is None or not credentials.token or credentials.token == self._refused:
            return dt.timedelta()
        if credentials.expiry is None:
            return dt.timedelta.max
        # google-auth keeps naive UTC.
        left: dt.timedelta = credentials.expiry - dt.datetime.now(dt.UTC).replace(tzinfo=None)
        return left

    def _refresh(self) -> None:
        # Here alone, and off the loop: an emulator needs none of it, and it takes 18 MiB.
        import google.auth
        import google.auth.credentials
        import google.auth.environment_vars
        import google.auth.exceptions
        import google.auth.transport.requests

        try:
            if self._credentials is None:
                if self._file:
                    # google-auth reads the process environment alone; ours may have come from a `.env` file.
                    os.environ[google.auth.environment_vars.CREDENTIALS] = self._file
                # Scopes are added afterwards: with them, google-auth asks Cloud Resource Manager for the project of a
                # federated identity, which nobody here needs, and fails where that API cannot be reached.
                logging.getLogger("google.auth._default").addFilter(_without_project_warnings)
                found, _ = google.auth.default()
                if self._aws is not None:
                    from consumer.adapters.gcs_federation import with_our_credentials

                    found = with_our_credentials(found, self._aws)
                self._credentials = google.auth.credentials.with_scopes_if_required(found, [self._scope])
            refused = self._refused
            self._credentials.refresh(google.auth.transport.requests.Request())
            if self._refused == refused:  # else it is this very token that was refused meanwhile
                self._refused = None
        except google.auth.exceptions.TransportError as error:
            raise ReplicatorError(
                Reason.ENDPOINT_UNREACHABLE,
                "Google's token endpoint cannot be reached",
                hint="check the network",
            ) from error
        except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise refusal(error) from error
