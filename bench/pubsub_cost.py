"""What Pub/Sub as a queue costs this process, without any object: memory, and CPU for each message.

    python -m bench.pubsub_cost [messages]

Messages of 700 bytes go from Google's in-memory server (`pstest`) through pull, extension and acknowledgement, as the
daemon makes them; the server's own CPU is not counted. The last column adds a latency to the way, as to a region,
by waiting before each pull: there several pollers pay.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from pathlib import Path

from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.pubsub import PubsubQueue
from consumer.event_loop import loop_factory
from consumer.model import Event
from tests.emulators import servers

SUBSCRIPTION = "projects/p/subscriptions/bench"
TOPIC = "projects/p/topics/bench"
MESSAGES = 10_000


class Nobody:
    """An observer that hears nothing."""

    def emit(self, event: Event, /) -> None:
        return


def resident_mib() -> float:
    """This process's resident memory now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


async def publish(address: str, count: int) -> None:
    """Messages like S3's notifications, with the attributes of GCS's."""
    import grpc
    from google.pubsub_v1.services.publisher import PublisherAsyncClient
    from google.pubsub_v1.services.publisher.transports import PublisherGrpcAsyncIOTransport
    from google.pubsub_v1.services.subscriber import SubscriberAsyncClient
    from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcAsyncIOTransport
    from google.pubsub_v1.types import PubsubMessage

    attributes = {
        "eventType": "OBJECT_FINALIZE",
        "bucketId": "bucket",
        "objectId": "a/key",
        "payloadFormat": "x",
    }
    async with grpc.aio.insecure_channel(address) as channel:
        publisher = PublisherAsyncClient(transport=PublisherGrpcAsyncIOTransport(channel=channel))
        subscriber = SubscriberAsyncClient(transport=SubscriberGrpcAsyncIOTransport(channel=channel))
        await publisher.create_topic(name=TOPIC)
        await subscriber.create_subscription(name=SUBSCRIPTION, topic=TOPIC, ack_deadline_seconds=600)
        for _ in range(0, count, 500):
            messages = [PubsubMessage(data=b"x" * 700, attributes=attributes) for _ in range(500)]
            await publisher.publish(topic=TOPIC, messages=messages)


async def consume(queue: PubsubQueue, count: int, pollers: int, latency: float) -> None:
    """Receives ten at a time and acknowledges all of them, by so many pollers."""
    left = count

    async def poll() -> None:
        nonlocal left
        while left > 0:
            await asyncio.sleep(latency)
            deliveries = await queue.receive(10)
            left -= len(deliveries)
            acks.update(asyncio.ensure_future(queue.ack(one)) for one in deliveries)

    acks: set[asyncio.Future[None]] = set()
    await asyncio.gather(*(poll() for _ in range(pollers)))
    await asyncio.gather(*acks)


async def measure(address: str, count: int) -> None:
    before = resident_mib()
    from consumer.adapters.pubsub_calls import PubsubCalls

    imported = resident_mib()
    cases = [(1, 0.0), (4, 0.0), (1, 0.02), (4, 0.02)]
    await publish(address, (count + 500) * len(cases))  # the last pulls bring more than is waited for
    queue = PubsubQueue(
        PubsubCalls(SUBSCRIPTION, NoToken(), Nobody(), emulator=address), SUBSCRIPTION, wait_seconds=2.0
    )
    await queue.describe()
    print(f"memory: {before:.0f} MiB, with Google's client {imported:.0f} MiB")
    print("pollers  added latency   messages/s   CPU ms each")
    for pollers, latency in cases:
        cpu, wall = time.process_time(), time.perf_counter()
        await consume(queue, count, pollers, latency)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(f"{pollers:7}  {latency * 1000:10.0f} ms   {count / wall:10.0f}   {cpu / count * 1000:11.2f}")
    print(f"memory at the end: {resident_mib():.0f} MiB")
    await queue.close()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    with servers.pubsub() as server, asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(measure(server.address, count))


if __name__ == "__main__":
    main()
