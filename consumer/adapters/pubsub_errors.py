"""What Pub/Sub answers, and what the way to it does, in our own words.

Codes: https://cloud.google.com/pubsub/docs/reference/error-codes. The words about single ack ids come in
`google.rpc.ErrorInfo` and only from subscriptions with exactly-once delivery
(https://cloud.google.com/pubsub/docs/exactly-once-delivery).

Operations are named by the permission that they need: `pubsub.subscriptions.consume` for pull, acknowledge and
modifyAckDeadline, `pubsub.topics.publish`, `pubsub.subscriptions.get`. Messages never hold ack ids: the server
repeats them in its own text, which is scrubbed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError

CONSUME: Final = "pubsub.subscriptions.consume"
GET: Final = "pubsub.subscriptions.get"
PUBLISH: Final = "pubsub.topics.publish"

INVALID_ACK_ID: Final = "PERMANENT_FAILURE_INVALID_ACK_ID"
_PASSING: Final = frozenset({"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL", "UNAVAILABLE"})
_FAILURES: Final = ("PERMANENT_FAILURE_", "TRANSIENT_FAILURE_")

_BY_CODE: Final[Mapping[str, Reason]] = {
    "UNAUTHENTICATED": Reason.CREDENTIALS,
    "PERMISSION_DENIED": Reason.CREDENTIALS,
    "NOT_FOUND": Reason.QUEUE_MISSING,
    "RESOURCE_EXHAUSTED": Reason.THROTTLED,
    "DEADLINE_EXCEEDED": Reason.TIMEOUT,
    "UNAVAILABLE": Reason.SERVER_ERROR,
    "INTERNAL": Reason.SERVER_ERROR,
    "ABORTED": Reason.SERVER_ERROR,
    "UNKNOWN": Reason.SERVER_ERROR,
    "DATA_LOSS": Reason.SERVER_ERROR,
    "CANCELLED": Reason.CONNECTION,
    # About the subscription as a whole: detached, or with a push endpoint. Nothing can be received until it is changed.
    "FAILED_PRECONDITION": Reason.REFUSED,
}
# gRPC's own words, which are no contract: without them the reason is the code's, and settled alike.
_UNREACHABLE: Final = re.compile(
    r"failed to connect|connect failed|dns resolution|name resolution|resolver|handshake|no route to host"
    r"|network is unreachable|connection refused|proxy",
    re.IGNORECASE,
)
_CUT: Final = re.compile(
    r"socket closed|connection reset|broken pipe|recvmsg|sendmsg|goaway|eof|transport|keepalive|rst_stream",
    re.IGNORECASE,
)
_ACK_ID: Final = re.compile(r"\S{60,}|(?<=ack_id=)[^\s)]+")

_CREDENTIALS_HINT: Final = "check GOOGLE_APPLICATION_CREDENTIALS or the workload's identity"
_ENDPOINT_HINT: Final = "check PUBSUB_EMULATOR_HOST, DNS, proxy and network policy"
_ROLES: Final = {
    CONSUME: "roles/pubsub.subscriber",
    GET: "roles/pubsub.viewer",
    PUBLISH: "roles/pubsub.publisher",
}


class RightMissing(ReplicatorError):
    """One permission is not granted (`PERMISSION_DENIED`): no matter of the credentials as a whole."""


def refusal(code: str, text: str, operation: str, resource: str) -> ReplicatorError:
    """Our error for a status that is not OK; `resource` is what was asked, a subscription or a topic."""
    reason = _reason(code, text)
    if reason is Reason.ENDPOINT_UNREACHABLE:
        return unreachable(operation, _harmless(text))
    if reason is Reason.TIMEOUT:
        return ReplicatorError(reason, "Pub/Sub did not answer in time", operation=operation)
    if reason is Reason.CONNECTION:
        return ReplicatorError(reason, "Pub/Sub closed the connection", operation=operation)
    said = "" if code == "UNAUTHENTICATED" else _harmless(text)
    kind = RightMissing if code == "PERMISSION_DENIED" else ReplicatorError
    return kind(
        reason,
        f"Pub/Sub answered {code}" + (f": {said}" if said else ""),
        kind=Kind.RETRYABLE if reason is Reason.REFUSED else None,
        hint=_hint(code, operation, resource),
        operation=operation,
    )


def unreachable(operation: str, why: str) -> ReplicatorError:
    """Our error for a server to which there is no connection."""
    return ReplicatorError(
        Reason.ENDPOINT_UNREACHABLE, f"cannot reach Pub/Sub: {why}", hint=_ENDPOINT_HINT, operation=operation
    )


def lease_lost(operation: str) -> LeaseLost:
    """The ack id is no longer valid: the message was delivered again since, or is done."""
    return LeaseLost(Reason.CONTENTION, "the ack id is no longer valid", operation=operation)


def ack_failures(metadata: Mapping[str, str]) -> dict[str, str]:
    """What `ErrorInfo` says of single ack ids; nothing when it speaks of something else."""
    return {ack_id: word for ack_id, word in metadata.items() if word.startswith(_FAILURES)}


def others_failures(code: str, ack_ids: Iterable[str]) -> dict[str, str]:
    """What became of the ack ids that an answer with `ack_failures` does not name, in the same words.

    When the request itself failed in passing, theirs did, too (so read by Google's clients for Python and Go).
    Otherwise the answer is about those that it names.
    """
    return dict.fromkeys(ack_ids, f"TRANSIENT_FAILURE_{code}") if code in _PASSING else {}


def is_passing(word: str) -> bool:
    """Whether the request for that ack id is worth another try."""
    return word.startswith("TRANSIENT_")


def _reason(code: str, text: str) -> Reason:
    if code in ("UNAVAILABLE", "UNKNOWN", "INTERNAL"):
        if code == "UNAVAILABLE" and _UNREACHABLE.search(text):
            return Reason.ENDPOINT_UNREACHABLE
        if _CUT.search(text):
            return Reason.CONNECTION
    return _BY_CODE.get(code, Reason.UNEXPECTED)


def _hint(code: str, operation: str, resource: str) -> str:
    match code:
        case "UNAUTHENTICATED":
            return _CREDENTIALS_HINT
        case "PERMISSION_DENIED":
            role = f" ({_ROLES[operation]})" if operation in _ROLES else ""
            return f"grant {operation}{role} on {resource}"
        case "NOT_FOUND":
            variable = "PUBSUB_DLQ_TOPIC" if operation == PUBLISH else "PUBSUB_SUBSCRIPTION"
            return f"create {resource} or correct {variable}"
        case "FAILED_PRECONDITION":
            return f"{resource} must be an attached pull subscription"
        case _:
            return ""


def _harmless(text: str) -> str:
    return _ACK_ID.sub("…", text)[:500]
