"""The dead letters of the queues that the settings name; the client of one that nobody asks for is not imported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from consumer import __version__
from consumer.adapters.http import HttpClient
from consumer.errors import ConfigurationError, EndpointError, ReplicatorError
from consumer.letters import DeadLetterPlace
from consumer.metrics import Metrics
from consumer.observe import Telemetry
from consumer.ports import DeadLetters, Observer
from consumer.settings import Settings
from consumer.stores import Stores


@dataclass(frozen=True, slots=True)
class OpenedLetters:
    """The dead letters of one queue, and what they say of themselves."""

    letters: DeadLetters
    place: DeadLetterPlace


@asynccontextmanager
async def open_dead_letters(
    settings: Settings, source: str | None, subscription: str | None
) -> AsyncIterator[Sequence[OpenedLetters]]:
    """The dead letters of one queue (`sqs`, `pubsub`) or, with None, of all that are configured. `subscription` stands
    for PUBSUB_DLQ_SUBSCRIPTION.

    Raises ConfigurationError where something is missing or wrong, EndpointError where an endpoint does not answer as it
    must; nothing was taken from anywhere then.
    """
    sources = settings.queue_sources if source is None else (source,)
    _check(settings, sources, subscription)
    telemetry = Telemetry(Metrics(__version__))
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(HttpClient())
        stores = Stores(settings, http, telemetry)
        opened = []
        for name in sources:
            letters: DeadLetters
            if name == "sqs":
                letters = _sqs(settings, stores, http, telemetry)
            else:
                letters = _pubsub(settings, stores, telemetry, subscription)
            stack.push_async_callback(letters.close)
            try:
                opened.append(OpenedLetters(letters, await letters.describe()))
            except ReplicatorError as error:
                raise EndpointError(f"dead letters of {name}: {error.operation}: {error}") from error
        yield opened


def _check(settings: Settings, sources: Sequence[str], subscription: str | None) -> None:
    problems = []
    if "sqs" in sources and settings.sqs_queue_url is None:
        problems.append("SQS_QUEUE_URL: is not set, so there are no dead letters of SQS; use --source pubsub")
    if "pubsub" in sources and settings.pubsub_subscription is None:
        problems.append(
            "PUBSUB_SUBSCRIPTION: is not set, so there are no dead letters of Pub/Sub; use --source sqs"
        )
    elif "pubsub" in sources and not (subscription or settings.pubsub_dlq_subscription):
        topic = settings.pubsub_dlq_topic or "DEAD_LETTER_TOPIC"
        alone = ", or look at SQS alone with --source sqs" if len(sources) > 1 else ""
        problems.append(
            "PUBSUB_DLQ_SUBSCRIPTION: is not set, and a topic can be read by a subscription alone; create one (`gcloud "
            f"pubsub subscriptions create dead-letters --topic={topic} --expiration-period=never "
            f"--message-retention-duration=7d`), then set it or give it as --subscription{alone}"
        )
    if problems:
        raise ConfigurationError(problems)


def _sqs(settings: Settings, stores: Stores, http: HttpClient, observer: Observer) -> DeadLetters:
    from consumer.adapters.sqs_calls import SqsCalls
    from consumer.adapters.sqs_dlq import SqsDeadLetters
    from consumer.adapters.sqs_endpoint import find_sqs_endpoint

    assert settings.sqs_queue_url is not None
    endpoint = find_sqs_endpoint(settings.aws_region, settings.sqs_endpoint_url, stores.aws.botocore)
    calls = SqsCalls(http, stores.aws_credentials, endpoint, observer)
    return SqsDeadLetters(calls, settings.sqs_queue_url, dlq_url=settings.sqs_dlq_url)


def _pubsub(settings: Settings, stores: Stores, observer: Observer, subscription: str | None) -> DeadLetters:
    from consumer.adapters.pubsub_calls import PubsubCalls
    from consumer.adapters.pubsub_dlq import PubsubDeadLetters

    chosen = subscription or settings.pubsub_dlq_subscription
    assert chosen is not None
    assert settings.pubsub_subscription is not None

    def calls(of: str) -> PubsubCalls:
        return PubsubCalls(of, stores.pubsub_token, observer, emulator=settings.pubsub_emulator_host)

    return PubsubDeadLetters(
        calls(chosen),
        chosen,
        calls(settings.pubsub_subscription),
        settings.pubsub_subscription,
        dlq_topic=settings.pubsub_dlq_topic,
    )
