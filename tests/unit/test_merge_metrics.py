"""What several processes count, as one `/metrics` tells it."""

from __future__ import annotations

import json
import math
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from consumer.merge_metrics import Changes, PodMetrics
from consumer.metrics import Metrics


class Pod:
    """A parent, and workers whose changes travel as they do over the link."""

    def __init__(self, workers: int = 2) -> None:
        self.own = Metrics("1.2.3")
        self.merged = PodMetrics(self.own.registry)
        self.workers = [Metrics("1.2.3") for _ in range(workers)]
        self._changes = [Changes(worker.registry) for worker in self.workers]

    def report(self) -> None:
        for number, changes in enumerate(self._changes):
            self.merged.heard(number, json.loads(json.dumps(changes.take())))

    def restart(self, number: int) -> Metrics:
        """The worker dies, and another begins at 0."""
        self.merged.ended(number)
        self.workers[number] = Metrics("1.2.3")
        self._changes[number] = Changes(self.workers[number].registry)
        return self.workers[number]

    def samples(self) -> dict[str, float]:
        return samples_of(self.merged)

    def value(self, name: str) -> float:
        self.report()
        return self.samples()[f"replicator_{name}"]


def samples_of(metrics: Any) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.render()[0].decode())
    return {
        sample.name
        + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def exposition_of(metrics: Any) -> list[str]:
    """Names, labels, order, help and types; not the values."""
    lines = metrics.render()[0].decode().splitlines()
    return [line if line.startswith("#") else line.rpartition(" ")[0] for line in lines]


def test_names_labels_and_order_are_those_of_one_process() -> None:
    pod = Pod()
    pod.report()
    assert exposition_of(pod.merged) == exposition_of(pod.own)
    assert pod.merged.render()[1] == pod.own.render()[1]


def test_counters_of_all_are_summed_with_labels_that_only_one_of_them_knows() -> None:
    pod = Pod()
    pod.own.unexpected_errors.labels("worker").inc(1)
    for worker, count in zip(pod.workers, (2, 3), strict=True):
        worker.objects.labels("copied", "created").inc(count)
        worker.unexpected_errors.labels("poll").inc()
    pod.workers[1].retries.labels("s3:GetObject").inc(7)
    assert pod.value("objects_total{reason=created}{result=copied}") == 5
    assert pod.value("unexpected_errors_total{where=worker}") == 1
    assert pod.value("unexpected_errors_total{where=poll}") == 2
    assert pod.value("retries_total{operation=s3:GetObject}") == 7


def test_histograms_are_summed_bucket_by_bucket() -> None:
    pod = Pod()
    for worker, seconds in zip(pod.workers, (0.004, 0.03), strict=True):
        worker.object_copy_duration.observe(seconds)
    pod.report()
    found = pod.samples()
    name = "replicator_object_copy_duration_seconds"
    assert [found[f"{name}_bucket{{le={le}}}"] for le in ("0.005", "0.025", "0.05", "+Inf")] == [1, 1, 2, 2]
    assert found[f"{name}_count"] == 2
    assert math.isclose(found[f"{name}_sum"], 0.034)


def test_no_counter_goes_back_when_a_worker_dies_and_another_begins_at_0() -> None:
    pod = Pod()
    copied = "objects_total{reason=created}{result=copied}"
    pod.workers[0].objects.labels("copied", "created").inc(2)
    pod.workers[0].object_size.observe(4096)
    pod.workers[1].objects.labels("copied", "created").inc(3)
    assert pod.value(copied) == 5
    new = pod.restart(0)
    assert pod.samples()[f"replicator_{copied}"] == 5
    assert pod.value(copied) == 5
    new.objects.labels("copied", "created").inc(10)
    assert pod.value(copied) == 15
    pod.restart(0).objects.labels("copied", "created").inc(100)
    assert pod.value(copied) == 115
    assert pod.value("object_size_bytes_count") == 1
    assert pod.value("object_size_bytes_bucket{le=1024.0}") == 0
    assert pod.value("object_size_bytes_bucket{le=4096.0}") == 1


def test_what_is_held_now_is_summed_over_the_living_alone() -> None:
    pod = Pod()
    pod.workers[0].watch(messages_in_flight=lambda: 2, buffer_bytes=lambda: 20)
    pod.workers[1].watch(messages_in_flight=lambda: 3, buffer_bytes=lambda: 30)
    assert pod.value("messages_in_flight") == 5
    assert pod.value("buffer_bytes") == 50
    pod.restart(1)
    assert pod.value("messages_in_flight") == 2
    assert pod.value("buffer_bytes") == 20


def test_one_paused_worker_is_seen_and_a_dead_one_is_not() -> None:
    pod = Pod()
    pod.workers[1].set_paused("credentials")
    assert pod.value("paused{reason=credentials}") == 1
    pod.restart(1)
    assert pod.value("paused{reason=credentials}") == 0


def test_times_are_the_latest_whoever_told_them_and_outlive_who_did() -> None:
    pod = Pod()
    pod.workers[0].last_poll.set(1000)
    pod.workers[1].last_poll.set(2000)
    pod.workers[1].last_success.set(1500)
    assert pod.value("last_poll_timestamp_seconds") == 2000
    for _ in range(2):
        pod.restart(1)
        assert pod.value("last_poll_timestamp_seconds") == 2000
        assert pod.value("last_success_timestamp_seconds") == 1500


def test_the_queue_is_told_by_the_one_that_asks_and_what_it_said_last_stands_until_the_next_knows() -> None:
    pod = Pod()
    assert math.isnan(pod.value("dlq_messages"))
    pod.workers[0].set_queue_messages(visible=9, in_flight=1, delayed=0)
    pod.workers[0].set_dlq_messages(4)
    assert pod.value("queue_messages{state=visible}") == 9
    assert pod.value("dlq_messages") == 4
    new = pod.restart(0)
    assert pod.value("queue_messages{state=visible}") == 9
    assert pod.value("dlq_messages") == 4
    new.set_queue_messages(visible=0, in_flight=0, delayed=0)
    new.set_dlq_messages(1)
    assert pod.value("queue_messages{state=visible}") == 0
    assert pod.value("dlq_messages") == 1


def test_the_processes_are_summed_and_began_when_the_parent_did() -> None:
    pod = Pod()
    pod.report()
    alone, together = samples_of(pod.own), pod.samples()
    assert together["process_start_time_seconds"] == alone["process_start_time_seconds"]
    assert together["process_resident_memory_bytes"] > 2.5 * alone["process_resident_memory_bytes"]
    assert together["process_cpu_seconds_total"] > 2.5 * alone["process_cpu_seconds_total"]
    assert together["replicator_build_info{version=1.2.3}"] == 1


def test_only_what_changed_is_told() -> None:
    metrics = Metrics("1.2.3")
    changes = Changes(metrics.registry)
    names = {name for _, name, _, _ in changes.take()}
    assert "replicator_objects_total" in names
    metrics.leases_lost.labels("sqs").inc()
    ours = [change for change in changes.take() if change[0].startswith("replicator_leases")]
    assert ours == [("replicator_leases_lost", "replicator_leases_lost_total", {"source": "sqs"}, 1.0)]


def test_the_ledger_is_up_when_it_is_for_all() -> None:
    own, one, other = (Metrics("1", ledger=True) for _ in range(3))
    merged = PodMetrics(own.registry)
    for number, (worker, up) in enumerate([(one, True), (other, False)]):
        worker.set_ledger_up(up)
        merged.heard(number, Changes(worker.registry).take())
    own.set_ledger_up(True)
    assert samples_of(merged)["replicator_ledger_up"] == 0
    other.set_ledger_up(True)
    merged.heard(1, Changes(other.registry).take())
    assert samples_of(merged)["replicator_ledger_up"] == 1
