"""What the configuration accepts, what it refuses, in which words, and what it never shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import SecretStr, ValidationError

from consumer.errors import ConfigurationError
from consumer.names import TEMPORARY_PREFIX
from consumer.settings import Need, Settings, load_settings

REQUIRED = {"AWS_REGION": "eu-central-1", "GCS_BUCKET_NAME": "destination"}
QUEUE = "https://sqs.eu-central-1.amazonaws.com/123456789012/events"
SUBSCRIPTION = "projects/example-project/subscriptions/events"
EXAMPLE = Path(__file__).parents[2] / ".env.example"


def load(directory: Path, *needs: Need, **env: str) -> Settings:
    return load_settings(needs=frozenset(needs), env=REQUIRED | env, directory=directory)[0]


def warnings_of(directory: Path, **env: str) -> list[str]:
    return load_settings(env=REQUIRED | env, directory=directory)[1]


def problems_of(directory: Path, *needs: Need, **env: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(directory, *needs, **env)
    return caught.value.problems


# --- Layers ---


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    public = load(tmp_path).public()
    assert public == {
        "AWS_ACCESS_KEY_ID": "not set",
        "AWS_SECRET_ACCESS_KEY": "not set",
        "AWS_SESSION_TOKEN": "not set",
        "AWS_REGION": "eu-central-1",
        "S3_ENDPOINT_URL": None,
        "SQS_ENDPOINT_URL": None,
        "SQS_QUEUE_URL": None,
        "SQS_DLQ_URL": None,
        "SQS_WAIT_TIME_SECONDS": 20,
        "SQS_VISIBILITY_TIMEOUT_SECONDS": None,
        "PUBSUB_SUBSCRIPTION": None,
        "PUBSUB_DLQ_TOPIC": None,
        "PUBSUB_DLQ_SUBSCRIPTION": None,
        "PUBSUB_EMULATOR_HOST": None,
        "PUBSUB_ACK_DEADLINE_SECONDS": 60,
        "MAX_RECEIVE_COUNT": 10,
        "RETRY_MIN_AGE_SECONDS": 900,
        "SOURCE_BUCKETS": [],
        "ROUTES": [],
        "ROUTES_FILE": None,
        "GCS_BUCKET_NAME": "destination",
        "GCS_KEY_PREFIX": "",
        "STORAGE_EMULATOR_HOST": None,
        "GOOGLE_APPLICATION_CREDENTIALS": None,
        "CONCURRENCY": 32,
        "MEMORY_BUDGET_MIB": 256,
        "WORKERS": 1,
        "PARALLEL_THRESHOLD_MIB": 1024,
        "PARALLEL_STREAMS": 8,
        "RETRY_BASE_SECONDS": 5,
        "RETRY_MAX_SECONDS": 900,
        "LEDGER_URL": None,
        "LEDGER_TTL_SECONDS": 1_209_600,
        "LEDGER_PREFIX": "replicator:",
        "REPLICATE_DELETES": False,
        "ON_MISSING_OBJECT": "ack",
        "ON_FOREIGN_OBJECT": "refuse",
        "API_HOST": "127.0.0.1",
        "API_PORT": 8000,
        "API_TOKEN": "not set",
        "S3_REQUEST_PAYER": None,
        "DRAIN_TIMEOUT_SECONDS": 25,
        "STARTUP_TIMEOUT_SECONDS": 30,
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "auto",
    }
    assert json.loads(json.dumps(public)) == public


def test_the_process_environment_wins_over_env_local_and_that_over_env(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CONCURRENCY=1\nAPI_PORT=1\nMEMORY_BUDGET_MIB=1\n")
    (tmp_path / ".env.local").write_text("CONCURRENCY=2\nAPI_PORT=2\n")
    settings = load(tmp_path, CONCURRENCY="3")
    assert (settings.concurrency, settings.api_port, settings.memory_budget_mib) == (3, 2, 1)


def test_an_empty_value_hides_nothing_below_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CONCURRENCY=7\n")
    (tmp_path / ".env.local").write_text("CONCURRENCY=\n")
    settings = load(tmp_path, CONCURRENCY=" ", SQS_QUEUE_URL="", API_TOKEN="")
    assert (settings.concurrency, settings.sqs_queue_url, settings.api_token) == (7, None, None)


def test_the_real_environment_and_working_directory_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("GCS_BUCKET_NAME=from-file\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_REGION", "elasticmq")
    for name in ("GCS_BUCKET_NAME", "LEDGER_URL", "PUBSUB_SUBSCRIPTION"):
        monkeypatch.delenv(name, raising=False)
    settings, _ = load_settings()
    assert (settings.aws_region, settings.gcs_bucket_name) == ("elasticmq", "from-file")


def test_settings_built_directly_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCURRENCY", "1")
    assert Settings(aws_region="x", gcs_bucket_name="destination").concurrency == 32
    with pytest.raises(ValidationError, match="AWS_REGION"):
        Settings.model_validate({"gcs_bucket_name": "destination"})


def test_names_of_the_process_environment_are_case_sensitive_and_unknown_ones_are_not_looked_at(
    tmp_path: Path,
) -> None:
    assert load(tmp_path, concurrency="1").concurrency == 32
    assert warnings_of(tmp_path, concurrency="1", SQS_QUEU_URL="x", AWS_PROFILE="x") == []


def test_blanks_around_a_value_are_dropped_but_not_from_the_prefix(tmp_path: Path) -> None:
    settings = load(tmp_path, API_TOKEN="token\n", AWS_REGION=" eu-west-1 ", GCS_KEY_PREFIX=" in ")
    assert settings.api_token == SecretStr("token")
    assert (settings.aws_region, settings.gcs_key_prefix) == ("eu-west-1", " in ")


# --- .env files ---


def test_quotes_exports_comments_a_byte_order_mark_and_references_are_understood(tmp_path: Path) -> None:
    text = (
        "\ufeffexport CONCURRENCY='5' # five\r\n\r\n# comment\r\n"
        'GCS_KEY_PREFIX="${AWS_REGION}/${NO:-x}/"\r\n'
    )
    (tmp_path / ".env").write_bytes(text.encode())
    settings, warnings = load_settings(env=REQUIRED, directory=tmp_path)
    assert (settings.concurrency, settings.gcs_key_prefix, warnings) == (5, "eu-central-1/x/", [])


def test_unknown_names_are_reported_by_file_line_and_name_without_the_value(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("\n\n# comment\nSQS_QUEU_URL=hunter2\nFOO=hunter2\n\naws_region=hunter2\n")
    (tmp_path / ".env.local").write_text("hunter2/+==\n")
    assert warnings_of(tmp_path) == [
        ".env.local line 1: what stands before the = cannot name a variable, so the line is without effect",
        ".env line 4: SQS_QUEU_URL is unknown and without effect; did you mean SQS_QUEUE_URL?",
        ".env line 5: FOO is unknown and without effect",
        ".env line 7: aws_region is unknown and without effect; did you mean AWS_REGION?",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_SQS",
        "AWS_CA_BUNDLE",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_DEFAULT_REGION",
        "HTTPS_PROXY",
        "no_proxy",
    ],
)
def test_names_that_libraries_read_are_unknown_with_that_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / ".env").write_text(f"{name}=x\n")
    (warning,) = warnings_of(tmp_path)
    assert warning.startswith(f".env line 1: {name} is unknown here")
    assert "process environment only" in warning


def test_of_duplicates_in_one_file_the_last_wins_and_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CONCURRENCY=1\nCONCURRENCY=2\n")
    settings, warnings = load_settings(env=REQUIRED, directory=tmp_path)
    assert settings.concurrency == 2
    assert warnings == [".env line 2: CONCURRENCY is set again; this line counts, line 1 does not"]


def test_a_reference_to_nothing_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GCS_KEY_PREFIX=${NOWHERE}in/\n")
    settings, (warning,) = load_settings(env=REQUIRED, directory=tmp_path)
    assert settings.gcs_key_prefix == "in/"
    assert warning.startswith(".env line 1: GCS_KEY_PREFIX refers to")


@pytest.mark.parametrize("line", ["API_TOKEN='hunter2", "hunter2", "API_TOKEN: hunter2"])
def test_a_line_that_cannot_be_understood_is_a_problem_and_not_repeated(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"\nCONCURRENCY=1\n\n{line}\n")
    assert problems_of(tmp_path) == [".env line 4: must be NAME=value, with quotes closed"]


def test_files_that_cannot_be_read_are_problems(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    (tmp_path / ".env.local").write_bytes(b"API_TOKEN=\xff\xfe\n")
    assert problems_of(tmp_path) == [
        ".env.local: cannot be read: it is not text in UTF-8",
        ".env: cannot be read: Is a directory",
    ]


def test_the_example_names_every_variable_with_its_default_and_explains_it(tmp_path: Path) -> None:
    assert set(dotenv_values(EXAMPLE)) == {name.upper() for name in Settings.model_fields}
    for name, text in dotenv_values(EXAMPLE, interpolate=False).items():
        field = Settings.model_fields[name.lower()]
        if field.is_required() or field.default in (None, "", ()):
            assert text == "", name
        else:
            assert text, name
            spelled = Settings.model_validate(REQUIRED | {name: text})
            assert getattr(spelled, name.lower()) == field.default, name
    (tmp_path / ".env").write_text(EXAMPLE.read_text())
    assert load_settings(env=REQUIRED, directory=tmp_path) == (Settings.model_validate(REQUIRED), [])
    blocks = EXAMPLE.read_text().split("\n\n")
    assert all(line.startswith("#") for line in (block.splitlines()[0] for block in blocks))


def test_every_field_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


# --- Needs, and all problems at once ---


def test_what_is_missing_is_said_and_the_queue_only_where_it_is_needed(tmp_path: Path) -> None:
    missing = problems_of(tmp_path, Need.QUEUE, AWS_REGION="", GCS_BUCKET_NAME=" ")
    assert sorted(problem.partition(" not set")[0] for problem in missing) == [
        "AWS_REGION: required but",
        "GCS_BUCKET_NAME: required but",
        "SQS_QUEUE_URL: required but",
    ]
    assert load(tmp_path).sqs_queue_url is None
    assert load(tmp_path, Need.QUEUE, SQS_QUEUE_URL=QUEUE).sqs_queue_url == QUEUE
    assert load(tmp_path, Need.QUEUE, PUBSUB_SUBSCRIPTION=SUBSCRIPTION).pubsub_subscription == SUBSCRIPTION
    (problem,) = problems_of(tmp_path, Need.QUEUE)
    assert problem.endswith(": set SQS_QUEUE_URL or PUBSUB_SUBSCRIPTION")


def test_all_problems_are_reported_at_once_each_by_its_variable_and_once(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("nonsense\n")
    problems = problems_of(
        tmp_path,
        Need.QUEUE,
        LEDGER_URL="http://h",
        CONCURRENCY="0",
        RETRY_MAX_SECONDS="1",
        AWS_ACCESS_KEY_ID="x",
        GCS_BUCKET_NAME="\udcff",
    )
    assert sorted(problem.partition(":")[0] for problem in problems) == [
        ".env line 1",
        "AWS_SECRET_ACCESS_KEY",
        "CONCURRENCY",
        "GCS_BUCKET_NAME",
        "LEDGER_URL",
        "RETRY_MAX_SECONDS",
        "SQS_QUEUE_URL",
    ]
    assert not any("\n" in problem for problem in problems)


@pytest.mark.parametrize(
    ("url", "shown", "secrets"),
    [
        ("redis://:hun%40ter2@h:6379/1", "redis://h:6379/1", {"hun%40ter2", "hun@ter2"}),
        ("rediss://u:hunter2@h?ssl_cert_reqs=none", "rediss://h", {"hunter2"}),
        ("redis://h/0?password=hunter2", "redis://h/0", {"hunter2"}),
        ("redis://[::1]", "redis://[::1]", set()),
        ("dynamodb://My-table.1_2", "dynamodb://My-table.1_2", set()),
    ],
)
def test_the_ledger_is_shown_without_its_password(
    tmp_path: Path, url: str, shown: str, secrets: set[str]
) -> None:
    settings = load(tmp_path, LEDGER_URL=url)
    assert settings.ledger_url is not None
    assert settings.ledger_url.get_secret_value() == url
    assert settings.ledger_target == settings.public()["LEDGER_URL"] == shown
    assert set(settings.secrets()) == secrets
    assert "ter2" not in repr(settings)


def test_a_ledger_url_that_is_wrong_is_never_repeated_with_its_password(tmp_path: Path) -> None:
    for wrong in (
        "redis://u:hunter2@h:0",
        "redis://u:hunter2@",
        "mysql://u:hunter2@h",
        "redis://u:hun ter2@h",
    ):
        (problem,) = problems_of(tmp_path, LEDGER_URL=wrong)
        assert problem.startswith("LEDGER_URL: must ")
        assert "hun" not in problem


# --- Values ---

REFUSED = {
    "AWS_REGION": ["eu central", "eu_central_1", "-eu", "eu.central", "ö"],
    "AWS_ACCESS_KEY_ID": ["a b"],
    "S3_ENDPOINT_URL": [
        *("localhost:9000", "ftp://h", "http://", "http://:1", "http://h:0", "http://h:65536"),
        *("http://h:x", "http://a b", "http://a\tb", "http://[::1", "http://h/?a", "http://h/#a"),
    ],
    "SQS_ENDPOINT_URL": ["arn:aws:sqs:eu-central-1:1:q"],
    "SQS_QUEUE_URL": [f"{QUEUE}.fifo", f"{QUEUE}.fifo/", "https://sqs.eu-central-1.amazonaws.com/", "events"],
    "SQS_DLQ_URL": [f"{QUEUE}.fifo", "x"],
    "STORAGE_EMULATOR_HOST": ["ftp://h", "localhost:99999", "a b", ":4443"],
    "SQS_WAIT_TIME_SECONDS": ["-1", "21", "1.5", "x"],
    "SQS_VISIBILITY_TIMEOUT_SECONDS": ["0", "43201", "x"],
    "PUBSUB_SUBSCRIPTION": [
        *("events", "projects/p/topics/events", "projects//subscriptions/events", f"{SUBSCRIPTION}/x"),
        *("projects/p/subscriptions/ab", "projects/p/subscriptions/1ab", "projects/p/subscriptions/google"),
        *(f"/{SUBSCRIPTION}", "projects/p/subscriptions/" + "a" * 256, "projects/p q/subscriptions/abc"),
    ],
    "PUBSUB_DLQ_TOPIC": [SUBSCRIPTION, "projects/p/topics/a b"],
    "PUBSUB_DLQ_SUBSCRIPTION": ["projects/p/topics/dead", "dead"],
    "PUBSUB_EMULATOR_HOST": [
        *("http://localhost:8085", "localhost", "localhost:0", "localhost:65536", ":8085", "a b:1", "h:1/x"),
    ],
    "PUBSUB_ACK_DEADLINE_SECONDS": ["9", "601", "60s"],
    "MAX_RECEIVE_COUNT": ["0", "x"],
    "RETRY_MIN_AGE_SECONDS": ["-1", "nan", "x"],
    "CONCURRENCY": ["0", "1001", "-1", "1.5"],
    "MEMORY_BUDGET_MIB": ["0", "256MiB"],
    "WORKERS": ["0", "-1", "65", "2.5", "auto", "two"],
    "PARALLEL_THRESHOLD_MIB": ["-1", "31", "1GiB"],
    "PARALLEL_STREAMS": ["0", "65"],
    "RETRY_BASE_SECONDS": ["0", "-1", "nan", "inf"],
    "RETRY_MAX_SECONDS": ["0", "4.9", "43200.5", "inf", "nan"],
    "DRAIN_TIMEOUT_SECONDS": ["-1", "inf"],
    "STARTUP_TIMEOUT_SECONDS": ["-1", "25s"],
    "API_PORT": ["-1", "65536", "x"],
    "API_HOST": ["h:80", "http://h", "a b", "[h"],
    "API_TOKEN": ["a b", "a\nb", "ö"],
    "GCS_BUCKET_NAME": [
        "gs://bucket",
        "bucket/prefix",
        "ab",
        "Bucket",
        "-bucket",
        "bucket_",
        "a..b",
        "10.0.0.1",
        "a" * 64,
        ".bucket",
    ],
    "SOURCE_BUCKETS": ["s3://bucket", "good,bucket/x", "ab", "a..b", "10.0.0.1", "good,a b"],
    "GCS_KEY_PREFIX": ["a\nb", "a\rb", "a" * 1001, "ö" * 501, TEMPORARY_PREFIX, f"{TEMPORARY_PREFIX}in/"],
    "LEDGER_URL": [
        *(
            "h:6379",
            "redis:h",
            "http://h",
            "memcached://h",
            "redis://",
            "redis://h:0",
            "redis://h:65536",
            "redis://h#x",
        ),
        *(
            "redis://a b",
            "dynamodb://",
            "dynamodb://ab",
            "dynamodb://u:p@table",
            "dynamodb://table/x",
            "dynamodb://t?a",
        ),
        "unix:///run/redis.sock",
    ],
    "LEDGER_TTL_SECONDS": ["59", "1.5", "14d", "315360001"],
    "LEDGER_PREFIX": ["a b", "ö", "a" * 201],
    "REPLICATE_DELETES": ["maybe", "2"],
    "ON_MISSING_OBJECT": ["delete"],
    "ON_FOREIGN_OBJECT": ["adopt"],
    "S3_REQUEST_PAYER": ["owner"],
    "LOG_LEVEL": ["TRACE"],
    "LOG_FORMAT": ["text"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]])
def test_values_that_cannot_work_are_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    pair = {"AWS_SECRET_ACCESS_KEY": "s"} if name == "AWS_ACCESS_KEY_ID" else {}
    (problem,) = problems_of(tmp_path, **pair, **{name: value})
    assert problem.startswith(f"{name}: must ")
    assert "\n" not in problem


ACCEPTED: list[tuple[str, str, object]] = [
    ("AWS_REGION", "elasticmq", "elasticmq"),
    ("S3_ENDPOINT_URL", "http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
    ("S3_ENDPOINT_URL", "https://[::1]:9000", "https://[::1]:9000"),
    ("S3_ENDPOINT_URL", "http://mini_o:9000", "http://mini_o:9000"),
    ("SQS_QUEUE_URL", "http://localhost:9324/queue/events", "http://localhost:9324/queue/events"),
    ("STORAGE_EMULATOR_HOST", "localhost:4443", "http://localhost:4443"),
    ("STORAGE_EMULATOR_HOST", "http://localhost:4443/", "http://localhost:4443"),
    ("STORAGE_EMULATOR_HOST", "https://gcs", "https://gcs"),
    ("SQS_WAIT_TIME_SECONDS", "0", 0),
    ("SQS_VISIBILITY_TIMEOUT_SECONDS", "43200", 43200),
    ("PUBSUB_SUBSCRIPTION", SUBSCRIPTION, SUBSCRIPTION),
    *[("PUBSUB_SUBSCRIPTION", odd, odd) for odd in ("projects/example.com:p/subscriptions/a.b_c~d+e%f",)],
    ("PUBSUB_DLQ_TOPIC", "projects/123/topics/dead-letters", "projects/123/topics/dead-letters"),
    ("PUBSUB_EMULATOR_HOST", "localhost:8085", "localhost:8085"),
    ("PUBSUB_EMULATOR_HOST", "[::1]:8085", "[::1]:8085"),
    ("PUBSUB_ACK_DEADLINE_SECONDS", "600", 600),
    ("RETRY_BASE_SECONDS", "0.05", 0.05),
    ("RETRY_MAX_SECONDS", "43200", 43200.0),
    ("RETRY_MAX_SECONDS", "5", 5.0),
    ("RETRY_MIN_AGE_SECONDS", "0", 0.0),
    ("CONCURRENCY", "1000", 1000),
    ("API_PORT", "0", 0),
    ("API_HOST", "[::1]", "::1"),
    ("DRAIN_TIMEOUT_SECONDS", "0", 0.0),
    ("GCS_BUCKET_NAME", "my_bucket-1.example.com", "my_bucket-1.example.com"),
    ("GCS_BUCKET_NAME", "a" * 63, "a" * 63),
    ("SOURCE_BUCKETS", " one , two,,one", ("one", "two")),
    ("SOURCE_BUCKETS", ",", ()),
    ("GCS_KEY_PREFIX", "/from aws/", "/from aws/"),
    ("GCS_KEY_PREFIX", "ö" * 500, "ö" * 500),
    ("GCS_KEY_PREFIX", f"in/{TEMPORARY_PREFIX}", f"in/{TEMPORARY_PREFIX}"),
    ("GCS_KEY_PREFIX", ".cross-cloud-replicator-test/", ".cross-cloud-replicator-test/"),
    ("LOG_LEVEL", "debug", "DEBUG"),
    ("S3_REQUEST_PAYER", "requester", "requester"),
    *(("REPLICATE_DELETES", word, True) for word in ("true", "1", "yes", "on", "TRUE")),
    *(("REPLICATE_DELETES", word, False) for word in ("false", "0", "no", "off")),
]


@pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED)
def test_values_that_work_are_taken_and_normalised(
    tmp_path: Path, name: str, value: str, expected: object
) -> None:
    assert getattr(load(tmp_path, **{name: value}), name.lower()) == expected


def test_a_problem_shows_the_value_and_what_would_be_right(tmp_path: Path) -> None:
    rule = "must be a standard queue: S3 cannot send notifications to a FIFO queue"
    assert problems_of(
        tmp_path, ON_MISSING_OBJECT="x", CONCURRENCY="5000", SQS_QUEUE_URL=f"{QUEUE}.fifo"
    ) == [
        f"SQS_QUEUE_URL: {rule}; it is '{QUEUE}.fifo'",
        "CONCURRENCY: must be less than or equal to 1000; it is '5000'",
        "ON_MISSING_OBJECT: must be 'ack', 'retry' or 'dlq'; it is 'x'",
    ]


def test_a_prefix_among_the_programs_own_objects_is_refused_with_the_reason(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, GCS_KEY_PREFIX=".cross-cloud-replicator/in/")
    assert problem == (
        "GCS_KEY_PREFIX: must not begin with .cross-cloud-replicator/: the program's own temporary objects lie "
        "there, and replicas would be taken for them; it is '.cross-cloud-replicator/in/'"
    )


# --- Rules between variables ---


@pytest.mark.parametrize(
    ("names", "complaints"),
    [
        (["AWS_ACCESS_KEY_ID"], ["AWS_SECRET_ACCESS_KEY"]),
        (["AWS_SECRET_ACCESS_KEY"], ["AWS_SECRET_ACCESS_KEY"]),
        (["AWS_SESSION_TOKEN"], ["AWS_SESSION_TOKEN"]),
        (["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN"], ["AWS_SECRET_ACCESS_KEY"]),
        (["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"], ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]),
    ],
)
def test_credentials_come_together_or_not_at_all(
    tmp_path: Path, names: list[str], complaints: list[str]
) -> None:
    problems = problems_of(tmp_path, **dict.fromkeys(names, "x"))
    assert [problem.partition(":")[0] for problem in problems] == complaints
    assert all("AWS_ACCESS_KEY_ID" in problem for problem in problems)


def test_a_session_token_from_another_layer_than_its_key_is_pointed_out(tmp_path: Path) -> None:
    key = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    assert warnings_of(tmp_path, **key, AWS_SESSION_TOKEN="x") == []
    (tmp_path / ".env").write_text("AWS_SESSION_TOKEN=x\n")
    (warning,) = warnings_of(tmp_path, **key)
    assert warning.startswith("AWS_SESSION_TOKEN: comes from .env, but AWS_ACCESS_KEY_ID from the process")


@pytest.mark.parametrize("dlq", [QUEUE, f"{QUEUE}/"])
def test_the_queue_is_not_its_own_dead_letter_queue(tmp_path: Path, dlq: str) -> None:
    (problem,) = problems_of(tmp_path, SQS_QUEUE_URL=QUEUE, SQS_DLQ_URL=dlq)
    assert problem.startswith("SQS_DLQ_URL: must be another queue than SQS_QUEUE_URL")
    assert load(tmp_path, SQS_QUEUE_URL=QUEUE, SQS_DLQ_URL=f"{QUEUE}-dlq").sqs_dlq_url == f"{QUEUE}-dlq"


def test_the_longest_delay_is_not_below_the_first_even_when_it_is_the_default(tmp_path: Path) -> None:
    assert problems_of(tmp_path, RETRY_BASE_SECONDS="1000") == [
        "RETRY_MAX_SECONDS: must be at least RETRY_BASE_SECONDS, which is 1000; it is '900'"
    ]


@pytest.mark.parametrize(
    ("name", "value", "each"), [("CONCURRENCY", "3", "a slot"), ("MEMORY_BUDGET_MIB", "3", "1 MiB")]
)
def test_there_is_something_to_share_for_each_worker(
    tmp_path: Path, name: str, value: str, each: str
) -> None:
    assert problems_of(tmp_path, **{name: value, "WORKERS": "4"}) == [
        f"WORKERS: must be at most {name}, which is 3: each worker needs {each}; it is '4'"
    ]
    assert load(tmp_path, **{name: value, "WORKERS": "3"}).workers == 3


@pytest.mark.parametrize("emulator", [{}, {"STORAGE_EMULATOR_HOST": "localhost:4443"}])
@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"type": 1}', b"\xff", "DIR"])
def test_google_credentials_must_be_a_json_object_with_a_type(
    tmp_path: Path, content: str | bytes | None, emulator: dict[str, str]
) -> None:
    path = tmp_path / "key.json"
    if content == "DIR":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (problem,) = problems_of(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(path), **emulator)
    assert problem.startswith("GOOGLE_APPLICATION_CREDENTIALS: ")
    assert str(path) in problem


def test_google_credentials_that_parse_are_taken_as_a_path(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text('{"type": "service_account", "private_key": "hunter2"}')
    settings = load(tmp_path, GOOGLE_APPLICATION_CREDENTIALS=str(path))
    assert settings.google_application_credentials == path
    assert settings.public()["GOOGLE_APPLICATION_CREDENTIALS"] == str(path)


# --- What is never shown ---


def test_no_problem_repeats_a_secret(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path,
        AWS_ACCESS_KEY_ID="hunter2 hunter2",
        AWS_SECRET_ACCESS_KEY="hunter2 hunter2",
        AWS_SESSION_TOKEN="hunter2 hunter2",
        API_TOKEN="hunter2 hunter2",
        GOOGLE_APPLICATION_CREDENTIALS='{"private_key": "hunter2"}',
        S3_ENDPOINT_URL="http://user:hunter2@h:99999/?token=hunter2",
        SQS_ENDPOINT_URL="user:hunter2@h",
        SQS_QUEUE_URL="ftp://user:hunt://hunter2@h/q",
        SQS_DLQ_URL="http://user:hun/ter@hunter2@h/q.fifo",
        STORAGE_EMULATOR_HOST="user:hunter2@h:99999",
    )
    assert len(problems) == 10
    assert "hunt" not in " ".join(problems)
    assert "'http://h:99999/'" in " ".join(problems)


def test_no_error_keeps_a_secret_in_its_chain(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, API_TOKEN="hunter2 hunter2")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "hunter2" not in str(caught.value.__context__)


def test_settings_show_no_secret(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        AWS_ACCESS_KEY_ID="hunter2",
        AWS_SECRET_ACCESS_KEY="hunter2",
        AWS_SESSION_TOKEN="hunter2",
        API_TOKEN="hunter2",
        S3_ENDPOINT_URL="http://s3:9000",
    )
    shown = [repr(settings), str(settings), f"{settings.public()}", settings.s3_target, settings.gcs_target]
    assert "hunter2" not in " ".join(shown)
    assert settings.public()["API_TOKEN"] == "set"
    assert settings.s3_target == settings.public()["S3_ENDPOINT_URL"] == "http://s3:9000"
    assert settings.aws_secret_access_key == SecretStr("hunter2")


def test_urls_with_credentials_are_refused_without_showing_them(tmp_path: Path) -> None:
    # No client here sends them: requests would fail one by one, long after the start.
    urls = {
        "S3_ENDPOINT_URL": "http://user:hunter2@s3:9000",
        "SQS_ENDPOINT_URL": "http://user:hunter2@sqs",
        "SQS_QUEUE_URL": "http://user:hunter2@sqs/q",
        "SQS_DLQ_URL": "http://user:hunter2@sqs/d",
        "STORAGE_EMULATOR_HOST": "user:hunter2@gcs",
    }
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, **urls)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == list(urls)
    assert all("without a user name and password" in problem for problem in caught.value.problems)
    assert "hunter2" not in str(caught.value)


# --- What others ask ---


def test_the_targets_are_named(tmp_path: Path) -> None:
    real = load(tmp_path)
    assert (real.s3_target, real.gcs_target) == ("REAL AWS", "REAL GCS")
    local = load(tmp_path, S3_ENDPOINT_URL="http://localhost:9000", STORAGE_EMULATOR_HOST="localhost:4443")
    assert (local.s3_target, local.gcs_target) == ("http://localhost:9000", "http://localhost:4443")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_an_open_sidecar_without_a_token_is_pointed_out(tmp_path: Path, host: str, loopback: bool) -> None:
    settings, warnings = load_settings(env=REQUIRED | {"API_HOST": host}, directory=tmp_path)
    assert settings.is_loopback_host is loopback
    assert [warning.partition(":")[0] for warning in warnings] == ([] if loopback else ["API_HOST"])
    assert warnings_of(tmp_path, API_HOST=host, API_TOKEN="t") == []


def test_any_bucket_is_allowed_unless_some_are_named(tmp_path: Path) -> None:
    assert load(tmp_path).allowed("any")
    some = load(tmp_path, SOURCE_BUCKETS="one,two")
    assert [some.allowed(name) for name in ("one", "two", "three", "")] == [True, True, False, False]


def test_an_old_bucket_name_is_allowed_and_pointed_out(tmp_path: Path) -> None:
    assert load(tmp_path, SOURCE_BUCKETS="My_Bucket").allowed("My_Bucket")
    (warning,) = warnings_of(tmp_path, SOURCE_BUCKETS="My_Bucket,fine")
    assert warning.startswith("SOURCE_BUCKETS: My_Bucket can only be an old bucket")


def test_the_memory_budget_is_told_in_bytes(tmp_path: Path) -> None:
    assert load(tmp_path, MEMORY_BUDGET_MIB="2").memory_budget_bytes == 2_097_152


@pytest.mark.parametrize(
    ("threshold", "streams", "expected"),
    [("1024", "8", 2**30), ("32", "2", 2**25), ("0", "8", 0), ("1024", "1", 0)],
)
def test_parts_need_a_threshold_and_more_streams_than_one(
    tmp_path: Path, threshold: str, streams: str, expected: int
) -> None:
    settings = load(tmp_path, PARALLEL_THRESHOLD_MIB=threshold, PARALLEL_STREAMS=streams)
    assert settings.parallel_threshold_bytes == expected


def test_settings_do_not_change(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        load(tmp_path).concurrency = 1  # type: ignore[misc]


def test_importing_settings_loads_no_vendor_library() -> None:
    heavy = {"boto3", "botocore", "google.auth", "google.cloud", "aiohttp", "fastapi"}
    code = f"import sys, consumer.settings; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
