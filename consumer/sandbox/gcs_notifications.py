"""Cloud Storage's notifications to Pub/Sub: https://cloud.google.com/storage/docs/pubsub-notifications."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

UNSENT_PATH: Final = "/_unsent"
"""Where the emulator says how many notifications it has still to send."""

_PUBLISH_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = 1.0


class Notifications:
    """What is told of the objects of each bucket, in the order of the changes, and at least once. Never waits."""

    def __init__(self) -> None:
        self._configs: dict[str, list[dict[str, Any]]] = {}
        self._senders: dict[str, Sender] = {}

    def add(self, bucket: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Notifies the topic from now on of everything; its `topic` names the server: `//HOST:PORT/projects/…`.

        (Cloud Storage knows one alone, `//pubsub.googleapis.com`.)
        """
        configs = self._configs.setdefault(bucket, [])
        server = urlsplit(wanted["topic"]).netloc
        if server not in self._senders:
            self._senders[server] = Sender(server)
        number = str(len(configs) + 1)
        config = {"kind": "storage#notification", "id": number, "topic": wanted["topic"]}
        configs.append(config | {"payload_format": "JSON_API_V1"})
        return configs[-1]

    @property
    def unsent(self) -> int:
        return sum(sender.unsent for sender in self._senders.values())

    def finalized(self, resource: dict[str, Any], replaced: dict[str, Any] | None) -> None:
        if replaced is None:
            self._tell("OBJECT_FINALIZE", resource)
            return
        self._tell("OBJECT_FINALIZE", resource, overwroteGeneration=replaced["generation"])
        self._tell("OBJECT_DELETE", replaced, overwrittenByGeneration=resource["generation"])

    def deleted(self, resource: dict[str, Any]) -> None:
        self._tell("OBJECT_DELETE", resource)

    def updated(self, resource: dict[str, Any]) -> None:
        self._tell("OBJECT_METADATA_UPDATE", resource)

    def _tell(self, event_type: str, resource: dict[str, Any], **more: str) -> None:
        bucket = resource["bucket"]
        for config in self._configs.get(bucket, []):
            topic = urlsplit(config["topic"])
            attributes = {
                "notificationConfig": f"projects/_/buckets/{bucket}/notificationConfigs/{config['id']}",
                "eventType": event_type,
                "payloadFormat": config["payload_format"],
                "bucketId": bucket,
                "objectId": resource["name"],
                "objectGeneration": resource["generation"],
                "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                **more,
            }
            self._senders[topic.netloc].send(topic.path[1:], json.dumps(resource).encode(), attributes)


class Sender:
    """A thread that publishes to one server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._unsent: queue.Queue[tuple[str, bytes, dict[str, str]]] = queue.Queue()
        threading.Thread(target=self._publish, daemon=True).start()

    @property
    def unsent(self) -> int:
        return self._unsent.unfinished_tasks

    def send(self, topic: str, data: bytes, attributes: dict[str, str]) -> None:
        self._unsent.put((topic, data, attributes))

    def _publish(self) -> None:
        import grpc
        from google.pubsub_v1.types import PublishRequest, PublishResponse, PubsubMessage

        publish = grpc.insecure_channel(self._server).unary_unary(
            "/google.pubsub.v1.Publisher/Publish",
            request_serializer=PublishRequest.serialize,
            response_deserializer=PublishResponse.deserialize,
        )
        while True:
            topic, data, attributes = self._unsent.get()
            request = PublishRequest(topic=topic, messages=[PubsubMessage(data=data, attributes=attributes)])
            while True:
                try:
                    publish(request, timeout=_PUBLISH_SECONDS)
                    self._unsent.task_done()
                    break
                except grpc.RpcError as error:
                    logging.getLogger(__name__).warning("Pub/Sub took no notification: %s", error)
                    time.sleep(_AGAIN_SECONDS)
