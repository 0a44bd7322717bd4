"""One call to SQS: what is sent, how often, and what becomes of every answer that is none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
import stamina

from consumer.adapters.aws import AwsCredentials, AwsSession
from consumer.adapters.sigv4 import AwsKeys
from consumer.adapters.sqs_calls import SqsCalls
from consumer.adapters.sqs_endpoint import SqsEndpoint
from consumer.adapters.sqs_errors import entry_refusal
from consumer.errors import Kind, LeaseLost, Reason, ReplicatorError
from consumer.model import OperationRetried
from tests.doubles.recorder import Recorder
from tests.property.test_sigv4 import botocore_sqs_headers

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
KEYS = AwsKeys("AKIDEXAMPLE", "secret", "token")
NEWER = AwsKeys("AKIDNEWER", "other", "token")
ENDPOINT = SqsEndpoint.at("https://sqs.eu-west-1.amazonaws.com", "eu-west-1")
URL = "https://sqs.eu-west-1.amazonaws.com/1/queue"
POLL = {"QueueUrl": URL, "WaitTimeSeconds": 20}
HANDLE = "AQEB" + "x" * 300
EXPIRED = f"Value {HANDLE} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
GONE = "Message does not exist or is not available for visibility timeout change."
CAPPED = (
    "Value 1800 for parameter VisibilityTimeout is invalid. Reason: Total VisibilityTimeout for the message "
    "is beyond the limit [43200 seconds]"
)


@dataclass
class Answer:
    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)

    async def read(self) -> bytes:
        return self.body


@dataclass
class Sent:
    url: str
    operation: str
    headers: dict[str, str]
    body: bytes
    read_seconds: float


class Http:
    """The program's HTTP client, answering from a list; the last answer is given for ever."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[Sent] = []

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        operation: str,
        headers: Mapping[str, str],
        body: bytes,
        read_seconds: float,
    ) -> AsyncIterator[Answer]:
        assert method == "POST"
        self.sent.append(Sent(url, operation, dict(headers), body, read_seconds))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        yield answer


class Credentials(AwsCredentials):
    """The keys that are valid now, and those that a second look finds."""

    def __init__(self, *keys: AwsKeys) -> None:
        super().__init__(AwsSession("eu-west-1"))
        self.known = list(keys) or [KEYS]
        self.renewed = 0

    async def keys(self) -> AwsKeys:
        return self.known[0]

    async def renew(self) -> bool:
        self.renewed += 1
        if len(self.known) == 1:
            return False
        self.known.pop(0)
        return True


def calls_over(
    http: Http, credentials: Credentials | None = None, recorder: Recorder | None = None
) -> SqsCalls:
    client: Any = http
    keys: Any = credentials or Credentials()
    return SqsCalls(client, keys, ENDPOINT, recorder or Recorder(), now=lambda: NOW)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> Any:
    async def at_once(_seconds: float) -> None: ...

    monkeypatch.setattr("consumer.adapters.http.asyncio.sleep", at_once)
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


def error(code: str, message: str = "", status: int = 400, **headers: str) -> Answer:
    """As SQS's JSON protocol says it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, json.dumps({"__type": code, "message": message}).encode(), named)


async def failure(
    answer: Answer | Exception, action: str = "ReceiveMessage", request: Mapping[str, Any] = POLL
) -> ReplicatorError:
    calls = calls_over(Http(answer))
    asked = calls.poll(request) if action == "ReceiveMessage" else calls.call(action, request)
    with pytest.raises(ReplicatorError) as caught:
        await asked
    return caught.value


# --- what is sent ---


async def test_a_call_is_a_signed_post_to_the_root_that_names_the_action() -> None:
    http = Http(Answer(body=b'{"Successful": []}'))
    request = {"QueueUrl": URL, "Entries": [{"Id": "0", "ReceiptHandle": "ü\ud800"}]}

    answer = await calls_over(http).call("DeleteMessageBatch", request)

    assert answer == {"Successful": []}
    (sent,) = http.sent
    assert sent.url == "https://sqs.eu-west-1.amazonaws.com/"
    assert sent.operation == "sqs:DeleteMessage"
    assert json.loads(sent.body) == request
    assert sent.headers["content-type"] == "application/x-amz-json-1.0"
    assert sent.headers["x-amz-target"] == "AmazonSQS.DeleteMessageBatch"
    assert sent.headers == botocore_sqs_headers(
        ENDPOINT.url, "DeleteMessageBatch", sent.body, KEYS, "eu-west-1", NOW
    )


async def test_a_poll_has_its_waiting_time_on_top() -> None:
    http = Http(Answer())
    calls = calls_over(http)

    await calls.poll({**POLL, "WaitTimeSeconds": 20})
    await calls.call("GetQueueUrl", {})

    assert [sent.read_seconds for sent in http.sent] == [30.0, 10.0]


# --- how often ---


async def test_what_fails_in_passing_is_asked_again_and_counted() -> None:
    http, recorder = Http(error("x#RequestThrottled"), Answer(body=b'{"QueueUrl": "u"}')), Recorder()

    assert await calls_over(http, recorder=recorder).call("GetQueueUrl", {}) == {"QueueUrl": "u"}

    assert len(http.sent) == 2
    assert [(event.operation, event.error) for event in recorder.of(OperationRetried)] == [
        ("sqs:GetQueueUrl", "throttled")
    ]


@pytest.mark.parametrize(
    "answer",
    [
        error("x#InternalFailure", status=500),
        Answer(502, b"<html>"),
        Answer(body=b"<html>"),
        ReplicatorError(Reason.CONNECTION, "closed"),
    ],
)
async def test_a_passing_failure_that_stays_ends_after_four_attempts(answer: Answer | Exception) -> None:
    http = Http(answer)

    with pytest.raises(ReplicatorError):
        await calls_over(http).call("SendMessage", {})

    assert len(http.sent) == 4


@pytest.mark.parametrize(
    "answer", [error("x#RequestThrottled"), ReplicatorError(Reason.CONNECTION, "closed")]
)
async def test_a_poll_is_never_made_again(answer: Answer | Exception) -> None:
    http = Http(answer)

    with pytest.raises(ReplicatorError):
        await calls_over(http).poll(POLL)

    assert len(http.sent) == 1


@pytest.mark.parametrize(
    "answer", [error("x#QueueDoesNotExist"), error("x#AccessDenied", status=403), error("x#OverLong")]
)
async def test_what_does_not_pass_is_not_asked_again(answer: Answer) -> None:
    http = Http(answer)

    with pytest.raises(ReplicatorError):
        await calls_over(http).call("SendMessage", {})

    assert len(http.sent) == 1


# --- credentials ---


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClientException"])
async def test_refused_credentials_are_looked_up_again_and_newer_ones_taken(code: str) -> None:
    http, credentials = Http(error(f"x#{code}", status=403), Answer()), Credentials(KEYS, NEWER)

    assert await calls_over(http, credentials).poll(POLL) == {}

    assert ["AKIDEXAMPLE" in sent.headers["authorization"] for sent in http.sent] == [True, False]
    assert "AKIDNEWER" in http.sent[1].headers["authorization"]


async def test_newer_credentials_that_another_call_found_are_taken_without_a_look() -> None:
    credentials = Credentials(KEYS, NEWER)
    http = Http(error("x#ExpiredToken", status=403), Answer())
    calls = calls_over(http, credentials)

    class Meanwhile(Answer):
        async def read(self) -> bytes:
            credentials.known = [NEWER]
            return self.body

    http.answers[0] = Meanwhile(403, b'{"__type": "x#ExpiredToken"}')
    await calls.poll(POLL)

    assert (len(http.sent), credentials.renewed) == (2, 0)


async def test_credentials_without_a_successor_stay_refused() -> None:
    http, credentials = Http(error("x#ExpiredToken", status=403)), Credentials()

    with pytest.raises(ReplicatorError) as caught:
        await calls_over(http, credentials).poll(POLL)

    assert caught.value.reason is Reason.CREDENTIALS
    assert (len(http.sent), credentials.renewed) == (1, 1)


async def test_a_missing_right_is_no_matter_of_newer_credentials() -> None:
    http, credentials = Http(error("x#AccessDenied", status=403)), Credentials(KEYS, NEWER)

    with pytest.raises(ReplicatorError):
        await calls_over(http, credentials).poll(POLL)

    assert (len(http.sent), credentials.renewed) == (1, 0)


async def test_credentials_that_cannot_be_had_name_the_call() -> None:
    class Missing(Credentials):
        async def keys(self) -> AwsKeys:
            raise ReplicatorError(Reason.CREDENTIALS, "no AWS credentials found", hint="set them")

    with pytest.raises(ReplicatorError) as caught:
        await calls_over(Http(Answer()), Missing()).poll(POLL)

    assert (caught.value.reason, caught.value.operation) == (Reason.CREDENTIALS, "sqs:ReceiveMessage")
    assert caught.value.hint == "set them"


# --- what an error means ---


@pytest.mark.parametrize(
    ("answer", "reason", "kind"),
    [
        (error("com.amazonaws.sqs#QueueDoesNotExist"), Reason.QUEUE_MISSING, Kind.UNAVAILABLE),
        (error("AWS.SimpleQueueService.NonExistentQueue"), Reason.QUEUE_MISSING, Kind.UNAVAILABLE),
        (
            error("x#Other", x_amzn_query_error="AWS.SimpleQueueService.NonExistentQueue;Sender"),
            Reason.QUEUE_MISSING,
            Kind.UNAVAILABLE,
        ),
        (error("ExpiredToken", status=403), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("x#ExpiredTokenException"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("x#ExpiredTokenException:http://internal/"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("InvalidClientTokenId", status=403), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("UnrecognizedClientException"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("SignatureDoesNotMatch", status=403), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("InvalidAccessKeyId"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("InvalidSecurity"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("MissingAuthenticationTokenException"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("AccessDenied", status=403), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("AccessDeniedException"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("KmsAccessDenied"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("KMS.DisabledException"), Reason.CREDENTIALS, Kind.UNAVAILABLE),
        (error("KmsThrottled"), Reason.THROTTLED, Kind.RETRYABLE),
        (error("KMS.ThrottlingException"), Reason.THROTTLED, Kind.RETRYABLE),
        (error("RequestTimeTooSkewed", status=403), Reason.CLOCK_SKEW, Kind.UNAVAILABLE),
        (error("RequestExpired"), Reason.CLOCK_SKEW, Kind.UNAVAILABLE),
        (
            error("x#InvalidSignatureException", "Signature expired: 2 is now earlier than 1"),
            Reason.CLOCK_SKEW,
            Kind.UNAVAILABLE,
        ),
        (error("ThrottlingException"), Reason.THROTTLED, Kind.RETRYABLE),
        (error("Throttling"), Reason.THROTTLED, Kind.RETRYABLE),
        (error("RequestThrottled", status=403), Reason.THROTTLED, Kind.RETRYABLE),
        (error("OverLimit", status=403), Reason.THROTTLED, Kind.RETRYABLE),
        (error("Anything", status=429), Reason.THROTTLED, Kind.RETRYABLE),
        (error("InternalError", status=500), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (error("Unheard"), Reason.UNEXPECTED, Kind.RETRYABLE),
        (Answer(403), Reason.UNEXPECTED, Kind.RETRYABLE),
        (Answer(302, b""), Reason.UNEXPECTED, Kind.RETRYABLE),
        (Answer(503, b""), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (Answer(500, b"[1]"), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (Answer(502, b"<html><h1>Bad Gateway</h1>"), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (
            Answer(403, b"<ErrorResponse><Error><Code>InvalidClientTokenId</Code></Error></ErrorResponse>"),
            Reason.CREDENTIALS,
            Kind.UNAVAILABLE,
        ),
        (error("InvalidParameterValue", CAPPED), Reason.REFUSED, Kind.PERMANENT),
        (Answer(body=b"<html>"), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (Answer(body=b'{"Messages": ['), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (Answer(body=b"\xff"), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (Answer(body=b"[]"), Reason.SERVER_ERROR, Kind.RETRYABLE),
        (
            ReplicatorError(Reason.ENDPOINT_UNREACHABLE, "cannot resolve h", hint="check DNS"),
            Reason.ENDPOINT_UNREACHABLE,
            Kind.UNAVAILABLE,
        ),
        (ReplicatorError(Reason.TIMEOUT, "silent"), Reason.TIMEOUT, Kind.RETRYABLE),
        (ReplicatorError(Reason.CONNECTION, "closed"), Reason.CONNECTION, Kind.RETRYABLE),
    ],
)
async def test_each_failure_has_its_reason(answer: Answer | Exception, reason: Reason, kind: Kind) -> None:
    ours = await failure(answer)

    assert (ours.reason, ours.kind, ours.operation) == (reason, kind, "sqs:ReceiveMessage")
    assert not isinstance(ours, LeaseLost)
    # A shared cause is for a person to end: it comes with a hint.
    assert ours.hint or kind is not Kind.UNAVAILABLE


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            error("com.amazonaws.sqs#QueueDoesNotExist", "It is not."),
            "SQS answered QueueDoesNotExist: no such",
        ),
        (error("x#InternalFailure", "Try again.", 500), "SQS answered InternalFailure: Try again."),
        (Answer(502, b"<html>Bad Gateway"), "SQS answered 502: <html>Bad Gateway"),
        (
            Answer(400, b"<Error><Code>Odd</Code><Message>a &amp; b</Message></Error>"),
            "SQS answered Odd: a & b",
        ),
        (Answer(400, b""), "SQS answered 400"),
        (Answer(body=b"<html>"), "SQS's answer cannot be read (check AWS_REGION, SQS_ENDPOINT_URL"),
        (ReplicatorError(Reason.TIMEOUT, "silent"), "SQS did not answer in time"),
        (ReplicatorError(Reason.CONNECTION, "closed"), "SQS closed the connection"),
        (
            ReplicatorError(Reason.ENDPOINT_UNREACHABLE, "cannot resolve h", hint="check DNS"),
            "cannot reach SQS: cannot resolve h (check DNS; AWS_REGION and SQS_ENDPOINT_URL choose it)",
        ),
    ],
)
async def test_the_text_says_what_happened(answer: Answer | Exception, text: str) -> None:
    assert str(await failure(answer)).startswith(text)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        ("MessageNotInflight", ""),
        ("AWS.SimpleQueueService.MessageNotInflight", ""),
        ("InvalidParameterValue", EXPIRED),
        (
            "InvalidParameterValue",
            EXPIRED.replace("The receipt handle has expired.", GONE),
        ),
    ],
)
async def test_a_handle_that_is_not_valid_is_a_lost_lease(code: str, text: str) -> None:
    assert isinstance(
        await failure(error(f"com.amazonaws.sqs#{code}", text), "DeleteMessageBatch"), LeaseLost
    )
    entry = {"Id": "0", "Code": code, "Message": text, "SenderFault": True}
    assert isinstance(entry_refusal(entry, "sqs:DeleteMessage"), LeaseLost)


async def test_a_missing_right_is_named() -> None:
    ours = await failure(error("AccessDenied", "not authorized", 403), "DeleteMessageBatch")

    assert "sqs:DeleteMessage" in ours.hint
    assert "kms:Decrypt" in (await failure(error("KmsAccessDenied"))).hint


@pytest.mark.parametrize(
    "answer",
    [
        error("InvalidParameterValue", EXPIRED),
        error("Unheard", EXPIRED),
        error("AccessDenied", f"key AKIAABCDEFGHIJKLMNOP and {HANDLE}"),
        error("SignatureDoesNotMatch", f"x-amz-security-token: short-token AKIAABCDEFGHIJKLMNOP {HANDLE}"),
        Answer(403, f"<Code>SignatureDoesNotMatch</Code><Message>short-token {HANDLE}</Message>".encode()),
    ],
)
async def test_no_secret_and_no_handle_gets_into_a_message(answer: Answer) -> None:
    text = str(await failure(answer, "DeleteMessageBatch"))

    assert HANDLE not in text
    assert "AKIAABCDEFGHIJKLMNOP" not in text
    assert "short-token" not in text


async def test_an_empty_success_is_an_answer_without_content() -> None:
    assert await calls_over(Http(Answer(body=b""))).call("DeleteMessageBatch", {}) == {}
