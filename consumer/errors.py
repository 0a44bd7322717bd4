"""What can go wrong: one error base, a closed list of reasons, and the kind that decides how each is settled.

A `Reason` is at once the metric label, the `ReplicatorReason` attribute of a dead letter and the word in the log
line, so a value is never renamed; new ones are added.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from consumer.redact import masked


class Kind(StrEnum):
    """How a failure is settled."""

    RETRYABLE = "retryable"
    """Passing: the message goes back with a delay, and to the dead letters only after many receives and much time."""
    UNAVAILABLE = "unavailable"
    """A cause shared by every message (credentials, a missing bucket, a dead endpoint): pause, never dead-letter."""
    PERMISSION = "permission"
    """One object is refused while its bucket answers: dead-letter, naming the operation."""
    PERMANENT = "permanent"
    """This object can never be copied as it is: dead-letter."""
    POISON = "poison"
    """This message cannot be read: dead-letter with the body untouched."""


class Reason(StrEnum):
    """Why an object or a message ended as it did. Closed: the metric label and the dead-letter attribute."""

    # poison: the message itself
    NOT_JSON = "not_json"
    UNKNOWN_SHAPE = "unknown_shape"
    UNSUPPORTED_EVENT_VERSION = "unsupported_event_version"
    UNKNOWN_EVENT_SOURCE = "unknown_event_source"
    # permanent: this object
    BUCKET_NOT_ALLOWED = "bucket_not_allowed"
    NAME_NOT_ALLOWED = "name_not_allowed"
    TOO_LARGE = "too_large"
    ARCHIVED = "archived"
    FOREIGN_OBJECT = "foreign_object"
    CUSTOMER_KEY = "customer_key"
    METADATA_TOO_LARGE = "metadata_too_large"
    SOURCE_MISSING = "source_missing"
    REFUSED = "refused"
    # permission: this object, while its bucket answers
    SOURCE_FORBIDDEN = "source_forbidden"
    DESTINATION_FORBIDDEN = "destination_forbidden"
    RETENTION = "retention"
    # retryable
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    CONNECTION = "connection"
    TIMEOUT = "timeout"
    SOURCE_CHANGED = "source_changed"
    TRUNCATED = "truncated"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    CONTENTION = "contention"
    SESSION_LOST = "session_lost"
    IN_PROGRESS = "in_progress"
    UNEXPECTED = "unexpected"
    # unavailable: a shared cause
    SOURCE_BUCKET_MISSING = "source_bucket_missing"
    DESTINATION_BUCKET_MISSING = "destination_bucket_missing"
    QUEUE_MISSING = "queue_missing"
    CREDENTIALS = "credentials"
    CLOCK_SKEW = "clock_skew"
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    # done without a failure
    CREATED = "created"
    OVERWRITTEN = "overwritten"
    SAME_IDENTITY = "same_identity"
    SAME_EVENT = "same_event"
    OLDER_EVENT = "older_event"
    SAME_CONTENT = "same_content"
    SOURCE_DELETED = "source_deleted"
    DELETES_DISABLED = "deletes_disabled"
    NOT_OURS = "not_ours"
    ALREADY_ABSENT = "already_absent"
    EVENT_TYPE = "event_type"
    TEMPORARY_OBJECT = "temporary_object"
    OWN_REPLICA = "own_replica"
    NEWER_AT_DESTINATION = "newer_at_destination"
    NO_ROUTE = "no_route"


_KINDS: Final[dict[Reason, Kind]] = {
    **dict.fromkeys(
        (
            Reason.NOT_JSON,
            Reason.UNKNOWN_SHAPE,
            Reason.UNSUPPORTED_EVENT_VERSION,
            Reason.UNKNOWN_EVENT_SOURCE,
        ),
        Kind.POISON,
    ),
    **dict.fromkeys(
        (
            Reason.BUCKET_NOT_ALLOWED,
            Reason.NAME_NOT_ALLOWED,
            Reason.TOO_LARGE,
            Reason.ARCHIVED,
            Reason.FOREIGN_OBJECT,
            Reason.CUSTOMER_KEY,
            Reason.METADATA_TOO_LARGE,
            Reason.SOURCE_MISSING,
            Reason.REFUSED,
        ),
        Kind.PERMANENT,
    ),
    **dict.fromkeys(
        (Reason.SOURCE_FORBIDDEN, Reason.DESTINATION_FORBIDDEN, Reason.RETENTION), Kind.PERMISSION
    ),
    **dict.fromkeys(
        (
            Reason.SOURCE_BUCKET_MISSING,
            Reason.DESTINATION_BUCKET_MISSING,
            Reason.QUEUE_MISSING,
            Reason.CREDENTIALS,
            Reason.CLOCK_SKEW,
            Reason.ENDPOINT_UNREACHABLE,
        ),
        Kind.UNAVAILABLE,
    ),
}


TRANSIENT: Final = frozenset(
    {
        Reason.CONNECTION,
        Reason.TIMEOUT,
        Reason.SERVER_ERROR,
        Reason.THROTTLED,
        Reason.TRUNCATED,
        Reason.SESSION_LOST,
        Reason.ENDPOINT_UNREACHABLE,
    }
)
"""What another attempt at the same copy may mend, going on where the last one stopped."""


def kind_of(reason: Reason) -> Kind:
    """The kind that a reason has unless the place that raises it knows better; retryable when in doubt."""
    return _KINDS.get(reason, Kind.RETRYABLE)


class ReplicatorError(Exception):
    """The base of every error that this program raises on purpose.

    `message` says what happened, and what looks like a credential in it is masked: a part of it may be what the other
    side said, and it goes to dead letters, HTTP answers and terminals as well as to the log. `hint` says what a person
    can do about it; `operation` names the remote call that failed (`s3:GetObject`, `storage.objects.create`);
    `retry_after` is in seconds.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        kind: Kind | None = None,
        hint: str = "",
        operation: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.message = masked(message)
        super().__init__(self.message)
        self.reason = reason
        self.kind = kind or kind_of(reason)
        self.hint = hint
        self.operation = operation
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class SourceGone(ReplicatorError):
    """The source has no such object now: the error code was `NoSuchKey`, not merely a 404."""


class SourceChanged(ReplicatorError):
    """The source object is no longer the one that was pinned (`If-Match` answered 412): decide again."""


class PreconditionFailed(ReplicatorError):
    """The destination's generation is not the expected one: decide again from both reads.

    `maybe_ours` says that an earlier attempt of the same write got no answer, so what is there may be its result.
    """

    maybe_ours = False


class SessionGone(ReplicatorError):
    """The resumable session no longer exists (404 or 410): start the upload over."""


class LeaseLost(ReplicatorError):
    """The receipt handle is no longer valid: somebody else has the message; settle nothing."""


class ConfigurationError(Exception):
    """The configuration cannot work. `problems` lists everything that is wrong, without secrets; exit code 2."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class EndpointError(Exception):
    """A needed endpoint is unreachable or refuses us at start-up; exit code 3."""
