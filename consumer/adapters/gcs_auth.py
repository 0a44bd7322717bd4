"""Google's access tokens for the lean path: Application Default Credentials, refreshed off the loop in good time."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from typing import Any, Final

from consumer.errors import Reason, ReplicatorError

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_AHEAD: Final = dt.timedelta(minutes=3, seconds=45)
"""As google-auth itself: the metadata server hands out the old token until 4 minutes before it expires, so that
with more than that each request would ask for a new one, in vain."""
_HINT: Final = "set GOOGLE_APPLICATION_CREDENTIALS, or run with Workload Identity"


class NoToken:
    """For emulators: no credentials at all."""

    async def headers(self) -> dict[str, str]:
        return {}

    def forget(self) -> None:
        return


class GoogleToken:
    """A bearer token that is always valid for a while yet."""

    def __init__(self, credentials_file: str | None = None) -> None:
        self._file = credentials_file
        self._credentials: Any = None
        self._forced = False
        self._lock = asyncio.Lock()

    async def headers(self) -> dict[str, str]:
        """The headers that authorise a request; raises `credentials` when no token can be had."""
        if not self._fresh():
            async with self._lock:
                if not self._fresh():
                    await asyncio.to_thread(self._refresh)
        headers = {"Authorization": f"Bearer {self._credentials.token}"}
        if quota_project := getattr(self._credentials, "quota_project_id", None):
            headers["x-goog-user-project"] = quota_project
        return headers

    def forget(self) -> None:
        """Asks for a new token before the next request: the other side refused this one."""
        self._forced = True

    def _fresh(self) -> bool:
        credentials = self._credentials
        if credentials is None or self._forced or not credentials.token:
            return False
        # google-auth keeps naive UTC.
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        return credentials.expiry is None or credentials.expiry - now > _AHEAD

    def _refresh(self) -> None:
        # Here alone, and off the loop: an emulator needs none of it, and it takes 18 MiB.
        import google.auth
        import google.auth.environment_vars
        import google.auth.exceptions
        import google.auth.transport.requests

        try:
            if self._credentials is None:
                if self._file:
                    # google-auth reads the process environment alone; ours may have come from a `.env` file.
                    os.environ[google.auth.environment_vars.CREDENTIALS] = self._file
                self._credentials, _ = google.auth.default(scopes=[_SCOPE])
            self._credentials.refresh(google.auth.transport.requests.Request())
            self._forced = False
        except google.auth.exceptions.TransportError as error:
            raise ReplicatorError(
                Reason.ENDPOINT_UNREACHABLE,
                "Google's token endpoint cannot be reached",
                hint="check the network",
            ) from error
        except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise ReplicatorError(
                Reason.CREDENTIALS,
                f"no Google access token can be had ({type(error).__name__})",
                hint=_HINT,
            ) from error
