"""What Google's token services answer when they refuse, in our words: by their error codes, never their texts.

What a service (or a proxy in its place) says may repeat what was sent, which here are credentials.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from consumer.errors import Reason, ReplicatorError

_HINT: Final = "set GOOGLE_APPLICATION_CREDENTIALS, or run with Workload Identity (docs/keyless.md)"
_HINTS: Final = {
    # Of RFC 6749 and 8693, as Google's STS uses them
    "invalid_target": "the `audience` of the credentials file names no workload identity pool and provider that "
    "exist and are enabled",
    "unauthorized_client": "the provider refuses this identity: check its AWS account, its attribute condition and "
    "the role that this process runs with (docs/keyless.md)",
    "invalid_grant": "what was shown to Google is not valid: for a federation check the AWS credentials, the STS "
    "in the credentials file and this machine's clock; for a key, that it still exists (docs/keyless.md)",
    # Of google.rpc.Code, as IAM Service Account Credentials uses them
    "PERMISSION_DENIED": "grant roles/iam.workloadIdentityUser on the service account to the federated principal, and "
    "enable iamcredentials.googleapis.com (docs/keyless.md)",
    "NOT_FOUND": "the service account of `service_account_impersonation_url` does not exist",
}


def refusal(error: Exception) -> ReplicatorError:
    """`credentials`, for whatever google-auth raised in place of a token."""
    code = _code(error)
    name = type(error).__name__
    what = f"no Google access token can be had ({name}{f': {code}' if code else ''})"
    return ReplicatorError(Reason.CREDENTIALS, what, hint=_HINTS.get(code, _HINT))


def _code(error: Exception) -> str:
    """Of the JSON that google-auth hands on as the error's last argument: a text, or an object with a `status`."""
    answer: Any = error.args[-1] if error.args else None
    if isinstance(answer, str | bytes):
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError):
            return ""
    code = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(code, dict):
        code = code.get("status")
    return code if isinstance(code, str) and re.fullmatch("[A-Za-z_]{1,60}", code) else ""
