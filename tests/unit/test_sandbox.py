"""The sandbox's own rules: what it refuses, what it clears, what it compares, what it shows."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

import consumer.sandbox as package
from consumer.errors import Reason, ReplicatorError
from consumer.model import (
    EventKind,
    Failure,
    ObjectEvent,
    ObjectFinished,
    ObjectRef,
    Outcome,
    Result,
    Store,
)
from consumer.sandbox import words
from consumer.sandbox.arrivals import Arrival, Arrivals, Stalled, State
from consumer.sandbox.clouds import Backlog, Clouds, origin, replica_of
from consumer.sandbox.compare import Comparison, Verdict, count_writes
from consumer.sandbox.emulators import GCS_EMULATOR, emulator_names
from consumer.sandbox.samples import Sample, generated, samples, with_the_way_back
from consumer.sandbox.stage import _LogTap, present
from consumer.sandbox.story import Plan, Story, usable_port
from consumer.sandbox.terminal import TerminalView
from consumer.sandbox.view import LISTED, PlainView, verdict

S3, GCS = "s3://sandbox-source", "gs://sandbox-replicas"

PLACE = words.Place(
    s3_url="http://127.0.0.1:1",
    gcs_name="gcp-storage-emulator",
    gcs_url="http://127.0.0.1:2",
    api_url="http://127.0.0.1:3",
    replica_url="http://127.0.0.1:2/storage/v1/b/sandbox-replicas/o/hello.txt",
    example_key="hello.txt",
    log="/tmp/log",
)
BOTH_WAYS = replace(
    PLACE,
    pubsub_address="127.0.0.1:4",
    s3_replica_url="http://127.0.0.1:1/sandbox-source/from-gcs/hello.txt",
)


# --- before it starts


def test_a_missing_extra_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(package, "_MODULES", (*package._MODULES, "no_such_module"))
    assert package.run_sandbox(objects=None, leave=False) == 2
    said = capsys.readouterr().err
    assert "no_such_module" in said
    assert "pip install 'cross-cloud-replicator[sandbox]'" in said


def test_the_gcs_emulator_of_the_package_index_is_needed_only_without_fake_gcs_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(package, "_GCS_MODULE", "no_such_module")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert package.missing_modules() == ["no_such_module"]
    (tmp_path / "fake-gcs-server").touch(mode=0o755)
    assert package.missing_modules() == []
    assert package.missing_modules(both_ways=True) == ["no_such_module"]


def test_both_ways_take_the_emulators_of_the_package_index_whatever_is_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fake-gcs-server").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert emulator_names(both_ways=False) == ("moto", "fake-gcs-server")
    assert emulator_names(both_ways=True) == ("moto", GCS_EMULATOR, "pubsub")


@pytest.mark.parametrize("value", ["abc", "-1", "65536", "8000.5", "²"])
def test_an_impossible_api_port_exits_2(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_PORT", value)
    assert package.run_sandbox(objects=1, leave=True) == 2
    assert "API_PORT" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "port"), [("", 8000), (" 9000 ", 9000), ("0", 0)])
def test_the_api_port(value: str, port: int) -> None:
    assert package.api_port({"API_PORT": value}) == port


def test_nothing_that_leads_to_a_real_cloud_stays_in_the_environment() -> None:
    kept = {"PATH": "/bin", "HOME": "/home/me", "TERM": "xterm", "API_PORT": "1", "AWESOME": "yes"}
    environment = kept | {
        "AWS_PROFILE": "prod",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_ENDPOINT_URL_S3": "https://s3.example",
        "S3_ENDPOINT_URL": "https://s3.example",
        "SQS_QUEUE_URL": "https://sqs.example/q",
        "GCS_BUCKET_NAME": "real",
        "GOOGLE_APPLICATION_CREDENTIALS": "/key.json",
        "STORAGE_EMULATOR_HOST": "elsewhere",
        "PUBSUB_EMULATOR_HOST": "elsewhere:1",
        "PUBSUB_SUBSCRIPTION": "projects/real/subscriptions/real",
        "GRPC_PROXY": "http://proxy",
        "grpc_proxy": "http://proxy",
        "LOCALSTACK_HOST": "elsewhere",
        "USE_SSL": "1",
        "https_proxy": "http://proxy",
        "NO_PROXY": "example.com",
        "REQUESTS_CA_BUNDLE": "/nowhere",
    }
    package.isolate(environment)
    assert environment == kept | {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "*",
        "no_proxy": "*",
    }


def test_a_taken_port_is_not_usable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        assert usable_port(port) == 0
    assert usable_port(port) == port


# --- the objects


def test_generated_objects_are_the_same_each_time_and_have_names_of_their_own() -> None:
    one, other = generated(600), generated(600)
    assert [sample.key for sample in one] == [sample.key for sample in other]
    assert len({sample.key for sample in one}) == 600
    assert all(left.content() == right.content() for left, right in zip(one[:60], other[:60], strict=True))
    sizes = sorted(len(sample.content()) for sample in one)
    assert sizes[0] == 0
    assert 3_000 <= sizes[300] <= 5_200
    assert sizes[-1] > 8 * 1024 * 1024


def test_the_samples_are_of_every_kind() -> None:
    made = samples()
    keys = [sample.key for sample in made]
    assert len(set(keys)) == len(made)
    assert "names/a/../b" in keys
    assert any(sample.parts for sample in made)
    assert any("ContentEncoding" in sample.fields for sample in made)
    assert {len(sample.content()) for sample in made} >= {0, 12 * 1024 * 1024}


# --- comparing


def test_comparing_tells_equal_from_missing_and_different() -> None:
    good, comparison = Comparison(), Comparison()
    pairs = [("a", b"12", b"12"), ("b", b"", b""), ("c", b"", None), ("d", b"12", b"13"), ("e", b"12", b"")]
    assert [comparison.add(*pair) for pair in pairs] == [
        Verdict.EQUAL,
        Verdict.EQUAL,
        Verdict.MISSING,
        Verdict.DIFFERENT,
        Verdict.DIFFERENT,
    ]
    good.add(*pairs[0])
    assert (good.all_equal, comparison.all_equal) == (True, False)
    assert (comparison.objects, comparison.size, comparison.equal) == (5, 6, 2)
    assert (comparison.missing, comparison.different) == (["c"], ["d", "e"])


def test_a_verdict_names_the_first_twenty_and_counts_the_rest() -> None:
    comparison = Comparison()
    for number in range(LISTED + 3):
        comparison.add(f"key\n{number}", b"x", None)
    lines = verdict(comparison, stalled=True)
    assert lines[0].startswith("Gave up")
    assert lines[1] == r"missing: key\u{a}0"
    assert len(lines) == LISTED + 2
    assert lines[-1] == "missing: and 3 more"


class _Destination:
    """Stands for `Clouds`: the replicas that there are, and an empty queue; `looks` at the writes, when both ways."""

    def __init__(self, replicas: Mapping[str, bytes], *looks: dict[str, int]) -> None:
        self._replicas = replicas
        self._looks = list(looks)
        self.both_ways = bool(looks)

    def replica(self, sample: Sample) -> bytes | None:
        return self._replicas.get(sample.key)

    def backlog(self) -> Backlog:
        return Backlog(messages=0, dead_letters=1)

    def writes(self) -> dict[str, int]:
        if not self._looks:
            return {}
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]


@pytest.mark.parametrize(
    ("replicas", "code", "told"),
    [
        ({"a": b"1", "b": b"2"}, 0, "All 2 objects are equal, byte for byte."),
        ({"a": b"1"}, 1, "missing: b"),
        ({"a": b"1", "b": b"3"}, 1, "different: b"),
    ],
)
def test_the_exit_code_is_that_of_the_comparison(replicas: dict[str, bytes], code: int, told: str) -> None:
    said = io.StringIO()
    plan = Plan([Sample("a", lambda: b"1"), Sample("b", lambda: b"2")], True, 0, False, Path("log"))
    story = Story(cast("Clouds", _Destination(replicas)), [], PlainView(said), plan)
    assert asyncio.run(story._compare(1.0, False)) == code
    assert told in said.getvalue().splitlines()
    assert "dead letters   1" in said.getvalue().splitlines()


# --- both ways

BOTH = with_the_way_back([Sample("a", lambda: b"1"), Sample("b", lambda: b"2")])
ONCE_EACH = {f"{store}/{key}": 1 for store in (S3, GCS) for key in ("a", "b", "from-gcs/a", "from-gcs/b")}


def test_as_many_objects_are_dropped_on_the_other_side_under_names_of_their_own() -> None:
    for made in (generated(60), samples()):
        both = with_the_way_back(made)
        back = [sample for sample in both if sample.store is Store.GCS]
        assert [sample for sample in both if sample.store is Store.S3] == made
        assert [sample.key for sample in back] == [f"from-gcs/{one.key}" for one in made if not one.parts]
        assert len({sample.key for sample in both}) == len(both)
        assert both[1].store is Store.GCS


def test_an_object_and_its_replica_have_one_name_in_two_buckets() -> None:
    there, back = BOTH[:2]
    assert (origin(there).uri, replica_of(there).uri) == (f"{S3}/a", f"{GCS}/a")
    assert (origin(back).uri, replica_of(back).uri) == (f"{GCS}/from-gcs/a", f"{S3}/from-gcs/a")


def test_the_daemon_is_given_both_routes_and_both_queues_and_one_way_neither() -> None:
    one_way = Clouds("http://127.0.0.1:1", "http://127.0.0.1:2").variables(0)
    assert one_way["GCS_BUCKET_NAME"] == "sandbox-replicas"
    assert not any(name.startswith(("ROUTES", "PUBSUB")) for name in one_way)
    both = Clouds("http://127.0.0.1:1", "http://127.0.0.1:2", "127.0.0.1:4").variables(0)
    assert json.loads(str(both["ROUTES"])) == [{"from": S3, "to": GCS}, {"from": GCS, "to": S3}]
    assert both["PUBSUB_SUBSCRIPTION"] == "projects/sandbox/subscriptions/sandbox-events"
    assert both["PUBSUB_DLQ_TOPIC"] == "projects/sandbox/topics/sandbox-dead-letters"
    assert both["PUBSUB_EMULATOR_HOST"] == "127.0.0.1:4"
    assert "GCS_BUCKET_NAME" not in both


def test_one_write_by_the_user_and_one_of_the_replica_are_no_loop() -> None:
    count = count_writes(BOTH, ONCE_EACH)
    assert (count.by_users, count.replicas, count.repeated, count.is_once_each) == (4, 4, [], True)


@pytest.mark.parametrize(
    ("more", "repeated"),
    [
        ({f"{S3}/a": 3}, [f"{S3}/a", f"{S3}/a"]),
        ({f"{GCS}/from-gcs/b": 2}, [f"{GCS}/from-gcs/b"]),
        ({f"{GCS}/a": 2}, [f"{GCS}/a"]),
        ({f"{GCS}/a/a": 1}, [f"{GCS}/a/a"]),
    ],
    ids=["back to S3", "back to GCS", "the replica twice", "under another name"],
)
def test_every_write_beyond_is_a_loop(more: dict[str, int], repeated: list[str]) -> None:
    count = count_writes(BOTH, ONCE_EACH | more)
    assert (count.repeated, count.is_once_each) == (repeated, False)
    equal = Comparison()
    equal.add("a", b"", b"")
    assert words.summary(equal, count, 1, 0, 0)[-4] == ("loops", str(len(repeated)), False)
    lines = verdict(equal, count, stalled=False)
    assert lines == [
        "All 1 objects are equal, byte for byte.",
        *(f"written once more: {u}" for u in repeated),
    ]


def test_a_replica_that_was_never_written_is_no_success_either() -> None:
    count = count_writes(BOTH, {uri: 1 for uri in ONCE_EACH if uri != f"{S3}/from-gcs/a"})
    assert (count.by_users, count.replicas, count.is_once_each) == (4, 3, False)


REPLICAS = {"a": b"1", "b": b"2", "from-gcs/a": b"1", "from-gcs/b": b"2"}


@pytest.mark.parametrize(
    ("replicas", "looks", "code", "told"),
    [
        (REPLICAS, [ONCE_EACH], 0, "Each was written once by its user and once as a replica: no loops."),
        (REPLICAS, [ONCE_EACH | {f"{S3}/a": 2}], 1, f"written once more: {S3}/a"),
        (REPLICAS, [ONCE_EACH, ONCE_EACH | {f"{S3}/b": 2}], 1, f"written once more: {S3}/b"),
        (REPLICAS | {"from-gcs/b": b"3"}, [ONCE_EACH], 1, f"different: {GCS}/from-gcs/b"),
    ],
    ids=["good", "loop", "a loop that is seen at the second look", "different"],
)
def test_both_ways_the_exit_code_is_that_of_bytes_and_writes(
    replicas: dict[str, bytes], looks: list[dict[str, int]], code: int, told: str
) -> None:
    said = io.StringIO()
    plan = Plan(BOTH, True, 0, False, Path("log"))
    story = Story(cast("Clouds", _Destination(replicas, *looks)), [], PlainView(said), plan)
    assert asyncio.run(story._compare(1.0, False)) == code
    assert told in said.getvalue().splitlines()
    assert "writes         4 by users, 4 replicas" in said.getvalue().splitlines()


def test_nothing_is_compared_before_the_writes_have_come_to_an_end() -> None:
    first, last = {f"{S3}/a": 1}, ONCE_EACH
    clouds = _Destination(REPLICAS, first, first | {f"{GCS}/a": 1}, last)
    story = Story(
        cast("Clouds", clouds), [], PlainView(io.StringIO()), Plan(BOTH, True, 0, False, Path("log"))
    )
    assert asyncio.run(story._compare(1.0, False)) == 0
    assert clouds.writes() is last


# --- arrivals


def _finished(
    key: str,
    result: Result = Result.COPIED,
    *,
    failure: Failure | None = None,
    message_id: str = "m",
    store: Store = Store.S3,
) -> ObjectFinished:
    event = ObjectEvent(EventKind.CREATED, _ref(key, store))
    outcome = Outcome(event, result, Reason.CREATED, size=5, verification="md5", failure=failure)
    return ObjectFinished(outcome, "sqs", 0.25, message_id)


def _ref(key: str, store: Store = Store.S3) -> ObjectRef:
    return ObjectRef("sandbox-source" if store is Store.S3 else "sandbox-replicas", key, store)


def _failure() -> Failure:
    return Failure.of(ReplicatorError(Reason.CONNECTION, "broke"))


def test_arrivals_are_counted_and_kept_in_the_order_of_their_news() -> None:
    changed: list[Arrival] = []
    arrivals = Arrivals(changed.append)
    freed: list[int] = []
    arrivals.expect([_ref("a"), _ref("b")], lambda: freed.append(1))
    for key in ("a", "b"):
        arrivals.dropped(_ref(key))
    arrivals.emit(_finished("a", Result.FAILED, failure=_failure()))
    assert (arrivals.arrived, arrivals.failed, arrivals.missing) == (0, 1, 2)
    arrivals.emit(_finished("a"))
    arrivals.emit(_finished("theirs"))
    assert (arrivals.arrived, arrivals.failed, arrivals.missing, freed) == (2, 0, 1, [1])
    arrivals.emit(_finished("a"))
    assert [one.key for one in arrivals.objects.values()] == ["b", "theirs", "a"]
    assert freed == [1]
    assert [one.state for one in changed[:4]] == [State.WAITING, State.WAITING, State.FAILED, State.COPIED]


def test_a_second_event_for_one_object_is_no_news_but_a_replay_is() -> None:
    arrivals = Arrivals(lambda _: None)
    states = []
    for event in (
        _finished("a"),
        _finished("a", Result.ALREADY_REPLICATED),
        _finished("a", Result.ALREADY_REPLICATED, message_id=""),
    ):
        arrivals.emit(event)
        states.append(arrivals.objects[_ref("a")].state)
    assert states == [State.COPIED, State.COPIED, State.ALREADY_THERE]


def test_one_name_in_one_bucket_name_on_both_sides_is_two_objects() -> None:
    arrivals = Arrivals(lambda _: None)
    for store in Store:
        arrivals.dropped(ObjectRef("bucket", "a", store))
    assert len(arrivals.objects) == 2


def test_one_name_on_both_sides_is_two_objects_and_a_replica_that_stays_is_no_news() -> None:
    arrivals = Arrivals(lambda _: None)
    arrivals.expect([_ref("a"), _ref("a", Store.GCS)], lambda: None)
    arrivals.emit(_finished("a"))
    arrivals.emit(_finished("a", Result.IGNORED, store=Store.GCS))
    assert (arrivals.arrived, arrivals.missing) == (1, 1)
    arrivals.emit(_finished("a", store=Store.GCS))
    assert (arrivals.arrived, arrivals.missing) == (2, 0)
    assert [words.way(ref) for ref in arrivals.objects] == ["s3 → gs", "gs → s3"]


def test_waiting_for_everything_ends_with_the_last_arrival_or_when_nothing_moves() -> None:
    async def wait() -> None:
        arrivals = Arrivals(lambda _: None)
        arrivals.expect([_ref("a"), _ref("b")], lambda: None)
        waiting = asyncio.create_task(arrivals.everything(60))
        for key in ("a", "b"):
            await asyncio.sleep(0)
            assert not waiting.done()
            arrivals.emit(_finished(key))
        await waiting
        arrivals.expect([_ref("c")], lambda: None)
        with pytest.raises(Stalled):
            await arrivals.everything(0.01)

    asyncio.run(wait())


# --- what is shown


def test_alerts_are_the_log_lines_that_a_person_should_read() -> None:
    file, alerts = io.StringIO(), list[tuple[str, str]]()
    tap = _LogTap(file, lambda level, text: alerts.append((level, text)))
    for level in ("debug", "info", "warning", "error"):
        tap.write(json.dumps({"level": level, "event": "object failed", "error": "why", "seconds": 1}) + "\n")
    assert alerts == [("warning", "object failed: why"), ("error", "object failed: why")]
    assert len(file.getvalue().splitlines()) == 4


def test_the_commands_can_be_copied_as_they_stand() -> None:
    said = io.StringIO()
    PlainView(said).commands(PLACE)
    text = said.getvalue()
    assert "curl -sST /etc/hosts http://127.0.0.1:1/sandbox-source/my-first-file.txt" in text
    assert """-d '{"s3_bucket": "sandbox-source", "s3_key": "hello.txt"}'""" in text
    assert "NO_PROXY" not in text


def test_there_is_a_way_to_drop_a_file_on_either_side() -> None:
    said = io.StringIO()
    view = PlainView(said)
    view.opened(BOTH_WAYS)
    view.commands(BOTH_WAYS)
    text = said.getvalue()
    assert "127.0.0.1:4 (PUBSUB_EMULATOR_HOST)" in text
    assert "curl -sST /etc/hosts http://127.0.0.1:1/sandbox-source/my-first-file.txt" in text
    upload = (
        "http://127.0.0.1:2/upload/storage/v1/b/sandbox-replicas/o?uploadType=media&name=my-second-file.txt"
    )
    assert f"curl -sS --data-binary @/etc/hosts -H 'Content-Type: text/plain' '{upload}'" in text
    assert "curl -sSi http://127.0.0.1:1/sandbox-source/from-gcs/hello.txt" in text


@pytest.mark.parametrize(
    ("place", "line"), [(PLACE, "arrived      a ("), (BOTH_WAYS, "arrived      gs → s3  a (")]
)
def test_plain_lines_say_which_way_an_object_went_when_there_are_two(place: words.Place, line: str) -> None:
    said = io.StringIO()
    view = PlainView(said)
    arrivals = Arrivals(view.changed)
    view.opened(place)
    view.watch(arrivals, "one object")
    arrivals.emit(_finished("a", store=Store.GCS))
    assert said.getvalue().splitlines()[-1].startswith(line)


def test_the_terminal_says_which_way_an_object_went_when_there_are_two() -> None:
    async def shown(place: words.Place) -> str:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=110, height=30, color_system=None)
        view = TerminalView(console)
        arrivals = Arrivals(view.changed)
        view.opened(place)
        view.watch(arrivals, "one object")
        arrivals.emit(_finished("a", store=Store.GCS))
        view.closed("end")
        return file.getvalue()

    both = asyncio.run(shown(BOTH_WAYS))
    assert re.search(r"✓ +gs → s3 +a ", both)
    assert re.search(r"S3 +── event ──▶ SQS +──▶ consumer", both)
    assert re.search(r"GCS ── event ──▶ Pub/Sub ──▶ consumer", both)
    one = asyncio.run(shown(PLACE))
    assert re.search(r"✓ +a ", one)
    assert "→" not in one
    assert "Pub/Sub" not in one


def test_a_proxy_in_the_shell_is_told_about() -> None:
    place = words.Place(**{**vars(PLACE), "proxied": True})
    assert words.commands(place)[0][1] == ["export NO_PROXY=127.0.0.1"]


@pytest.mark.parametrize("width", [60, 110])
def test_the_terminal_shows_what_arrived_and_lets_no_name_move_the_cursor(width: int) -> None:
    def show(view: TerminalView) -> None:
        arrivals = Arrivals(view.changed)
        arrivals.expect([_ref("a"), _ref("evil\x1b[2J")], lambda: None)
        view.starting("everything")
        view.opened(PLACE)
        view.watch(arrivals, "Two objects")
        for key in ("a", "evil\x1b[2J"):
            arrivals.dropped(_ref(key))
        arrivals.emit(_finished("evil\x1b[2J"))
        view.alert("warning", "a\x1bb")
        view.commands(PLACE)
        view.watch(arrivals, "Arrivals")
        arrivals.emit(_finished("mine"))
        view.closed("end")

    async def on_a_loop() -> str:
        file = io.StringIO()
        console = Console(file=file, force_terminal=True, width=width, height=30, color_system=None)
        show(TerminalView(console))
        return file.getvalue()

    shown = asyncio.run(on_a_loop())
    assert "✓" in shown
    assert r"evil\u{1b}" in shown
    assert "\x1b[2J" not in shown
    assert "\x1bb" not in shown
    # The second table holds the news alone, and no command is broken into lines.
    assert "evil" not in shown.rpartition("Arrivals")[2]
    assert "mine" in shown
    assert f"curl -sS {PLACE.replica_url}\n" in shown.replace("\r", "")


def test_an_interrupt_that_an_import_keeps_to_itself_is_obeyed_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def started(*_: object, **__: object) -> Iterator[list[object]]:
        with suppress(KeyboardInterrupt):
            package._interrupt(signal.SIGINT, None)
        yield []

    monkeypatch.setattr(package, "_interrupted", threading.Event())
    monkeypatch.setattr("consumer.sandbox.stage.started", started)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert present(objects=None, leave=False, api_port=0, proxied=False) == package.EXIT_OK
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Stopped" in "".join(capsys.readouterr())
