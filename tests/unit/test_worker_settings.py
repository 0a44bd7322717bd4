"""What each worker is told: its share, and all else as the parent read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumer.route_settings import routes_of
from consumer.settings import Settings
from consumer.worker_settings import from_plain, settings_of, share, to_plain

REQUIRED = {"AWS_REGION": "eu-central-1", "GCS_BUCKET_NAME": "destination"}


@pytest.mark.parametrize(
    ("total", "workers", "parts"),
    [(32, 1, [32]), (32, 2, [16, 16]), (32, 3, [11, 11, 10]), (3, 3, [1, 1, 1]), (7, 4, [2, 2, 2, 1])],
)
def test_the_shares_add_up_and_differ_by_one_at_most(total: int, workers: int, parts: list[int]) -> None:
    assert [share(total, workers, number) for number in range(1, workers + 1)] == parts


def test_slots_and_memory_are_divided_and_nothing_else_is_changed() -> None:
    settings = Settings.model_validate(
        REQUIRED | {"WORKERS": 3, "CONCURRENCY": 32, "MEMORY_BUDGET_MIB": 100, "REPLICATE_DELETES": True}
    )
    each = [settings_of(settings, number) for number in (1, 2, 3)]
    assert [one.concurrency for one in each] == [11, 11, 10]
    assert [one.memory_budget_mib for one in each] == [34, 33, 33]
    for one in each:
        shared = {"workers": 3, "concurrency": 32, "memory_budget_mib": 100}
        assert one.workers == 1
        assert one.model_copy(update=shared) == settings


def test_settings_arrive_whole_secrets_paths_and_lists_included(tmp_path: Path) -> None:
    credentials = tmp_path / "key.json"
    credentials.write_text('{"type": "service_account"}')
    settings = Settings.model_validate(
        REQUIRED
        | {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "hunter2",
            "API_TOKEN": "token",
            "SOURCE_BUCKETS": "one,two",
            "GCS_KEY_PREFIX": " ö/",
            "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
            "STORAGE_EMULATOR_HOST": "localhost:4443",
            "RETRY_BASE_SECONDS": 0.5,
        }
    )
    assert from_plain(json.loads(json.dumps(to_plain(settings)))) == settings
    assert "hunter2" not in repr(settings)


ENTRY = {
    "from": "s3://source/logs/",
    "to": "gs://destination/ö/",
    "include": ["*.parquet"],
    "exclude": ["logs/tmp/*"],
    "storage_class": "NEARLINE",
    "replicate_deletes": True,
    "on_foreign_object": "overwrite",
    "on_missing_object": "retry",
}


@pytest.mark.parametrize("variable", ["ROUTES", "ROUTES_FILE"])
def test_routes_and_subscriptions_arrive_whole_though_the_file_is_gone(tmp_path: Path, variable: str) -> None:
    text = json.dumps([ENTRY, {"from": "gs://here", "to": "s3://there"}])
    file = tmp_path / "routes.json"
    file.write_text(text)
    settings = Settings.model_validate(
        {
            "AWS_REGION": "eu-central-1",
            variable: text if variable == "ROUTES" else str(file),
            "PUBSUB_SUBSCRIPTION": "projects/p/subscriptions/events",
            "PUBSUB_DLQ_TOPIC": "projects/p/topics/dead",
            "PUBSUB_EMULATOR_HOST": "localhost:8085",
            "PUBSUB_ACK_DEADLINE_SECONDS": 90,
        }
    )
    file.unlink()
    arrived = from_plain(json.loads(json.dumps(to_plain(settings))))
    assert arrived == settings
    assert routes_of(arrived) == routes_of(settings)
    assert len(routes_of(arrived)) == 2
