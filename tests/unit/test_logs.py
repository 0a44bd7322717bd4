"""What reaches the output: the shape of a line in both formats, no secret, no forged line, no broken program."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum
from typing import Any

import pytest
import structlog

from consumer.logs import LineWriter, configure_logging
from consumer.redact import MASK, MAX_TEXT, MAX_TRACEBACK, Redactor

SECRET = 'wJalr/XUtn+FEMI"K7=end'
Configure = Callable[..., io.StringIO]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    names = ("consumer", "botocore", "boto3", "s3transfer", "urllib3", "requests", "google", "aiobotocore")
    handlers, levels = root.handlers[:], {name: logging.getLogger(name).level for name in (*names, "root")}
    yield
    root.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def no_colour_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def configured(level: str = "INFO", format: str = "json", secrets: tuple[str, ...] = ()) -> io.StringIO:  # noqa: A002 - the word of LOG_FORMAT
    stream = io.StringIO()
    configure_logging(level, format, stream=stream, secrets=secrets)
    return stream


def logger() -> Any:
    return structlog.get_logger("consumer")


def only_line(stream: io.StringIO) -> dict[str, Any]:
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1, lines
    line = json.loads(lines[0])
    assert isinstance(line, dict)
    return line


def test_a_json_line_has_time_level_logger_event_and_fields_in_this_order() -> None:
    stream = configured()
    logger().info("object copied", source="s3://b/k", bytes=3)
    line = only_line(stream)
    assert list(line) == ["timestamp", "level", "logger", "event", "source", "bytes"]
    assert line["level"] == "info"
    assert line["logger"] == "consumer"
    assert line["event"] == "object copied"
    assert line["bytes"] == 3
    assert line["timestamp"].endswith("Z")
    age = datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])
    assert timedelta(0) <= age < timedelta(minutes=1)


@pytest.mark.parametrize("kind", ["json", "rich"])
def test_every_line_of_a_worker_carries_its_number(kind: str) -> None:
    stream = io.StringIO()
    configure_logging("INFO", kind, stream=stream, worker=3)
    logger().info("of its own")
    logging.getLogger("uvicorn").warning("of a library")
    lines = stream.getvalue().splitlines()
    if kind == "json":
        assert [json.loads(line)["worker"] for line in lines] == [3, 3]
    else:
        assert [line.count(" worker=3") for line in lines] == [1, 1]


def test_the_level_is_a_threshold() -> None:
    stream = configured("WARNING")
    logger().info("not this")
    logger().warning("this")
    assert only_line(stream)["event"] == "this"


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(KeyError):
        configured("LOUD")


def test_auto_is_json_without_a_terminal_and_rich_on_one(no_colour_environment: None) -> None:
    plain, terminal = io.StringIO(), Terminal()
    configure_logging("INFO", "auto", stream=plain)
    logger().info("hello")
    configure_logging("INFO", "auto", stream=terminal)
    logger().info("hello")
    assert only_line(plain)["event"] == "hello"
    assert "\x1b[" in terminal.getvalue()
    assert "hello" in terminal.getvalue()


def test_no_color_is_respected(no_colour_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    configure_logging("INFO", "auto", stream=terminal)
    logger().error("hello", reason="archived")
    assert "\x1b" not in terminal.getvalue()
    assert "hello" in terminal.getvalue()


def test_rich_without_a_terminal_has_no_colours(no_colour_environment: None) -> None:
    stream = configured(format="rich")
    logger().info("hello", source="s3://b/k", note="two words", none=None)
    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().endswith("\n")
    assert "INFO     hello" in stream.getvalue()
    assert "source=s3://b/k note='two words' none=None" in stream.getvalue()


@pytest.mark.parametrize(
    "evil", ["\n", "\r\n", "\r", "\x0b", "\x85", "\u2028", "\x1b[2J", "\x00", "\ud800", "\u202e"]
)
@pytest.mark.parametrize("kind", ["json", "rich"])
def test_control_characters_cannot_forge_a_line_or_drive_the_terminal(kind: str, evil: str) -> None:
    stream = configured(format=kind)
    key = f's3://b/a{evil}{{"level": "error"}}'
    logger().info("copied" + evil, source=key, nested={"key" + evil: [key]}, **{"name" + evil: 1})
    text = stream.getvalue()
    assert text.endswith("\n")
    assert evil not in text[:-1]
    assert len(text.splitlines()) == 1
    if kind == "json":
        assert only_line(stream)["source"] == key


def test_a_traceback_in_rich_cannot_begin_a_line() -> None:
    stream = configured(format="rich")
    try:
        raise ValueError("first\n12:00:00 INFO     forged\r\x1b[31m")
    except ValueError as error:
        logger().error("failed", exc_info=error)
    head, *trace = stream.getvalue().splitlines()
    assert "failed" in head
    assert any("ValueError: first" in row for row in trace)
    assert all(row.startswith("    ") for row in trace)
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


LEAKS = [
    "PUT https://storage.googleapis.com/upload/b/o?uploadType=resumable&upload_id=HUSHHUSH-x_y&name=a",
    "POST /b/k?uploadId=HUSHHUSH HTTP/1.1",
    "Authorization: HUSHHUSH",
    "{'Authorization': 'Basic HUSHHUSH', 'Host': 'x'}",
    '{"authorization": "Custom HUSHHUSH"}',
    "[(b'Authorization', b'AWS4 HUSHHUSH HUSHHUSH')]",
    "Proxy-Authorization: Basic HUSHHUSH",
    "sent Bearer HUSHHUSH.a-b_c~d+e/f= and more",
    "AWS4-HMAC-SHA256 Credential=HUSHHUSH/20240101/eu/s3/aws4_request, SignedHeaders=host, Signature=HUSHHUSH",
    "GET /k?X-Amz-Signature=HUSHHUSH&X-Amz-Expires=3",
    "GET /k?X-Amz-Security-Token=HUSHHUSH%2F%2B&x=1",
    "X-Amz-Security-Token: HUSHHUSH",
    "GET /k?X-Amz-Credential=HUSHHUSH%2F2024&x=1",
    "GET /k?X-Goog-Signature=HUSHHUSH",
    "connect to redis://user:HUSHHUSH@cache:6379/0",
    "connect to redis://:HUSH@HUSHHUSH@cache:6379/0",
    '{"access_token": "HUSHHUSH", "expires_in": 1}',
    "client_secret=HUSHHUSH&grant_type=x",
    "aws_secret_access_key = HUSHHUSH",
    "token ya29.HUSHHUSH-x",
    "jwt eyJhbGciOiJI.HUSHHUSH.HUSHHUSH",
    "-----BEGIN PRIVATE KEY-----\nHUSHHUSH\nHUSHHUSH\n-----END PRIVATE KEY-----",
]


@pytest.mark.parametrize("kind", ["json", "rich"])
@pytest.mark.parametrize("leak", LEAKS)
def test_what_looks_like_a_credential_is_masked_everywhere(leak: str, kind: str) -> None:
    stream = configured(format=kind)
    try:
        raise RuntimeError(leak)
    except RuntimeError as error:
        logger().error(leak, field=leak, deep={"a": [leak]}, raw=leak.encode(), error=error, exc_info=error)
    logging.getLogger("botocore.hooks").error("said %s", leak)
    assert "HUSHHUSH" not in stream.getvalue()
    assert MASK in stream.getvalue()


@pytest.mark.parametrize("kind", ["json", "rich"])
def test_known_secrets_are_masked_in_fields_exceptions_and_tracebacks(kind: str) -> None:
    stream = configured(format=kind, secrets=(SECRET,))

    def call_with(value: str) -> None:
        raise ConnectionError(f"refused: {value!r}") from KeyError(value)

    try:
        call_with(SECRET)
    except ConnectionError as error:
        logger().error(f"event {SECRET}", field=f"<{SECRET}>", list=[SECRET], error=error, exc_info=error)
        logging.getLogger("aiohttp.client").exception("foreign %s", SECRET)
    logger().info("in a url", url="https://x/?k=wJalr%2FXUtn%2BFEMI%22K7%3Dend", dump=json.dumps(SECRET))
    text = stream.getvalue()
    assert "ConnectionError" in text
    for form in (SECRET, "wJalr", "FEMI", "K7"):
        assert form not in text


def test_a_key_of_several_lines_is_masked_line_by_line() -> None:
    stream = configured(secrets=("-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n",))
    logger().info("x", part="got hkiG9w0BAQEFAASC here")
    assert only_line(stream)["part"] == f"got {MASK} here"


def test_the_longer_of_two_overlapping_secrets_leaves_no_rest() -> None:
    redactor = Redactor(("abcd", "abcdEFGH"))
    assert redactor.text("x abcdEFGH abcd") == f"x {MASK} {MASK}"


def test_secrets_under_four_characters_are_not_secrets() -> None:
    assert Redactor(("", "abc")).text("abc") == "abc"


def test_fields_named_after_secrets_are_masked_whatever_they_hold() -> None:
    stream = configured()
    logger().info("x", api_token="plain", headers={"Authorization": "plain", "Host": "h"}, token=None)
    line = only_line(stream)
    assert line["api_token"] == MASK
    assert line["headers"] == {"Authorization": MASK, "Host": "h"}
    assert line["token"] is None


def test_a_secret_cannot_break_the_json() -> None:
    stream = configured(secrets=("level", '", "', "true", "1234"))
    logger().info("the level", source='a", "b', flag=True, number=1234)
    line = only_line(stream)
    assert line["event"] == f"the {MASK}"
    assert line["flag"] is True


def test_ordinary_lines_are_left_alone() -> None:
    stream = configured(secrets=(SECRET,))
    fields = {"source": "s3://b/uploads/ä@b.txt", "reason": "credentials", "at": "user@example.com", "n": 1.5}
    logger().info("object copied", **fields)
    assert fields.items() <= only_line(stream).items()


class Colour(Enum):
    RED = 1


class Code(IntEnum):
    ONE = 1


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_odd_values_become_plain_ones() -> None:
    stream = configured()
    loop: list[Any] = []
    loop.append(loop)
    logger().info(
        "odd",
        nan=float("nan"),
        inf=[float("inf")],
        blob=b"\xff\x00",
        names={1: Colour.RED, None: Code.ONE},
        pair=("a", 2),
        hostile=Hostile(),
        loop=loop,
        big=10**30,
    )
    line = only_line(stream)
    assert line["nan"] == "nan"
    assert line["inf"] == ["inf"]
    assert line["blob"] == "\\xff\x00"
    assert line["pair"] == ["a", 2]
    assert line["hostile"] == "<Hostile>"
    assert line["big"] == 10**30


@pytest.mark.parametrize("kind", ["json", "rich"])
def test_huge_values_are_cut_in_the_middle_and_after_masking(kind: str) -> None:
    stream = configured(format=kind, secrets=(SECRET,))
    # The secret lies across the place where the text is cut.
    logger().info("x", source="s3://b/" + "a" * (MAX_TEXT // 2 - 15) + SECRET + "z" * 1_000_000 + "end.txt")
    text = stream.getvalue()
    assert len(text) < MAX_TEXT + 500
    assert "wJal" not in text
    assert "s3://b/aaa" in text
    assert "end.txt" in text


def test_a_huge_traceback_keeps_its_last_line() -> None:
    stream = configured()
    try:
        raise ValueError("v" * 100_000 + " the end")
    except ValueError as error:
        logger().error("x", exc_info=error)
    trace = only_line(stream)["exception"]
    assert trace.startswith("Traceback")
    assert trace.rstrip().endswith("the end")
    assert len(trace) < MAX_TRACEBACK + 100


def test_the_standard_librarys_loggers_write_the_same_json() -> None:
    stream = configured()
    try:
        raise OSError("broken")
    except OSError:
        logging.getLogger("uvicorn.error").exception("failed %s", "here")
    line = only_line(stream)
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert line["logger"] == "uvicorn.error"
    assert line["level"] == "error"
    assert line["event"] == "failed here"
    assert "OSError: broken" in line["exception"]
    datetime.fromisoformat(line["timestamp"])


def test_a_record_whose_arguments_do_not_fit_is_still_written(capsys: pytest.CaptureFixture[str]) -> None:
    stream = configured()
    logging.getLogger("uvicorn").error("%d things", "no number")
    assert only_line(stream)["event"] == "%d things ('no number',)"
    assert capsys.readouterr().err == ""


def test_warnings_are_lines_as_well() -> None:
    stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert "old thing" in only_line(stream)["event"]


@pytest.mark.parametrize("name", ["uvicorn", "asyncio", "aiohttp.access", "botocore.hooks"])
def test_third_parties_speak_from_warning_up(name: str) -> None:
    stream = configured("INFO")
    logging.getLogger(name).info("chatter")
    logging.getLogger(name).warning("worth it")
    assert only_line(stream)["event"] == "worth it"


def test_an_error_threshold_holds_for_third_parties_too() -> None:
    stream = configured("ERROR")
    logging.getLogger("asyncio").warning("not this")
    logging.getLogger("botocore").warning("nor this")
    assert stream.getvalue() == ""


def test_debug_opens_third_parties_but_never_those_that_print_credentials() -> None:
    stream = configured("DEBUG")
    logging.getLogger("asyncio").debug("selector")
    for name in ("botocore.auth", "urllib3.connectionpool", "google.auth.transport", "boto3"):
        child = logging.getLogger(name)
        child.debug("StringToSign")
        child.setLevel(logging.DEBUG)
        child.debug("StringToSign, although somebody opened this logger")
        child.setLevel(logging.NOTSET)
    assert only_line(stream)["event"] == "selector"


def test_this_programs_stdlib_loggers_follow_the_level() -> None:
    stream = configured("INFO")
    logging.getLogger("consumer.adapters").info("hello")
    assert only_line(stream)["logger"] == "consumer.adapters"


def test_configuring_again_replaces_everything() -> None:
    first, second = configured(), configured("DEBUG")
    logger().debug("x")
    logging.getLogger("uvicorn").error("y")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 2


class Chunks(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


@pytest.mark.parametrize("kind", ["json", "rich"])
def test_each_line_is_one_write_so_threads_do_not_mix(kind: str) -> None:
    stream = Chunks()
    configure_logging("INFO", kind, stream=stream)

    def work(number: int) -> None:
        for count in range(50):
            logger().info("line", number=number, count=count)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stream.writes) == 200
    assert all(text.endswith("\n") and text.count("\n") == 1 for text in stream.writes)


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "no space left")


def test_a_stream_that_is_closed_full_or_gone_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    LineWriter(closed).write("x")
    LineWriter(Broken()).write("x")
    monkeypatch.setattr(sys, "stderr", None)
    LineWriter().write("x")


def test_the_current_stderr_is_used_so_that_a_progress_bar_can_take_it_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configure_logging("INFO", "json")
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    logger().info("x")
    assert only_line(later)["event"] == "x"


def test_a_narrow_encoding_loses_no_line(tmp_path: Any) -> None:
    path = tmp_path / "log"
    with path.open("w", encoding="ascii") as stream:
        configure_logging("INFO", "rich", stream=stream)
        logger().info("x", source="s3://b/ä")
    assert "s3://b/\\xe4" in path.read_text()


@pytest.mark.parametrize("kind", ["json", "rich"])
def test_a_reader_of_stderr_that_goes_away_changes_nothing_not_even_the_exit_code(kind: str) -> None:
    script = textwrap.dedent("""
        import logging, structlog, sys
        from consumer.logs import configure_logging
        configure_logging("INFO", sys.argv[1])
        for _ in range(100):
            structlog.get_logger("consumer").info("x", y="z" * 100)
            logging.getLogger("uvicorn").error("y")
        print("done")
    """)
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, kind],
            stdout=subprocess.PIPE,
            stderr=write,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(write)
    assert done.stdout == "done\n"
    assert done.returncode == 0
