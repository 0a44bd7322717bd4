"""The status page as HTML: all that it has to tell, readable without its script, and nothing but text from outside."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from consumer.errors import Reason
from consumer.hints import HINTS
from consumer.history import History
from consumer.model import Event, LedgerBack, LedgerLost, Paused, QueueDepth, Settlement
from consumer.tally import Tally
from consumer.ui.page import page
from consumer.ui.view import Subject, view
from consumer.underway import Underway
from tests.unit.scripted_service import Scripted
from tests.unit.test_tally import Counting
from tests.unit.told import broken, copied, failure, settled

VOID = {"meta", "link", "input", "path"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</title></script></style></textarea><script>alert(1)</script>",
    "javascript:alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "\u202e<b>\x00\x1b[31m\n",
]


class Reader(HTMLParser):
    """What a reader gets: texts by the id of the innermost element that has one; every element and attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.by_id: dict[str, str] = {}
        self.text = ""
        self._open: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, found))
        if tag not in VOID:
            self._open.append((tag, found.get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        for _, id_ in self._open:
            if id_:
                self.by_id[id_] = self.by_id.get(id_, "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(
    *events: Event, service: Scripted | None = None, underway: Underway | None = None, **more: Any
) -> Reader:
    underway = Underway() if underway is None else underway
    tally, history = Tally(underway, now=lambda: 1_700_000_000.0), History()
    for event in events:
        tally.emit(event)
    history.heard(0, tally.take())
    subject = Subject(service or Scripted(), history, **more)
    return Reader(page(subject, view(subject, 1_700_000_004.0)))


def test_the_numbers_are_there_without_the_script() -> None:
    found = read(copied(size=3 << 20, lag=1.5), broken("k"), QueueDepth(12, 3, 0, 4))
    texts = {
        name.removeprefix("text-"): text for name, text in found.by_id.items() if name.startswith("text-")
    }
    assert (texts["total-copied"], texts["total-bytes"]) == ("1", "3 MiB")
    assert (texts["waiting"], texts["waiting-more"]) == ("12", "3 in flight, 0 delayed")
    assert (texts["dead-letters"], texts["failed"]) == ("4", "1")
    assert (texts["lag"], texts["lag-longest"]) == ("1.5 s", "longest 1.5 s")
    assert found.by_id["rows-minutes"].startswith("the last minute13 MiB1.5 s1.5 s1")
    assert found.by_id["chart-bytes-title"] == "Bytes copied over the last 10 minutes: highest 614 KiB/s"


def test_what_is_not_known_says_so() -> None:
    assert read().by_id["text-dead-letters"] == "unknown"


def test_a_failure_says_what_to_do() -> None:
    found = read(
        broken("a/b", Reason.ARCHIVED), settled(Settlement.DEAD_LETTERED, "a/b", reason=Reason.ARCHIVED)
    )
    row = found.by_id["rows-troubles"]
    for text in ("s3://incoming/a/b", "22:13:20 UTC", "4 s ago", "archived", "it broke", "dead-lettered"):
        assert text in row
    assert HINTS[Reason.ARCHIVED] in row


def test_a_failure_s_own_hint_goes_before() -> None:
    assert "turn it off and on" in read(broken(hint="turn it off and on")).by_id["rows-troubles"]


def test_what_nobody_can_do_anything_about_says_that() -> None:
    assert "it is tried again by itself" in read(broken(reason=Reason.CONTENTION)).by_id["rows-troubles"]


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (None, "Ready"),
        ("starting", "Starting"),
        ("draining", "Draining"),
        ("paused", "Paused"),
        ("stalled", "Stalled"),
    ],
)
def test_the_state_is_said_first(reason: str | None, word: str) -> None:
    found = read(service=Scripted(reason=reason))
    assert found.by_id["state"].startswith(word)
    assert found.text.lstrip().startswith(f"{word} · Cross-Cloud Replicator")


def test_a_pause_says_of_what_and_why() -> None:
    found = read(
        Paused(failure(Reason.CREDENTIALS, "token expired")),
        Paused(failure(Reason.QUEUE_MISSING, "no such queue"), "sqs"),
        service=Scripted(reason="paused"),
    )
    rows = found.by_id["rows-paused"]
    for text in ("all queues", "token expired", HINTS[Reason.CREDENTIALS], "queue sqs", "no such queue"):
        assert text in rows
    (section,) = [one for one in found.all("section") if one.get("id") == "paused-section"]
    assert "hidden" not in section


def test_one_queue_of_two_that_is_paused_is_no_green_light() -> None:
    state = read(Paused(failure(), "sqs")).by_id["state"]
    assert state == "Ready Work is being taken, but not all of it: see what is paused below."


def test_copies_under_way_show_how_far_they_are() -> None:
    underway = Underway()
    with underway.copying("s3://b/big.bin", "gs://r/big.bin", 100 << 20, Counting(25 << 20)):
        found = read(underway=underway)
    row = found.by_id["rows-copies"]
    for text in ("s3://b/big.bin", "gs://r/big.bin", "25 MiB of 100 MiB", "25%"):
        assert text in row
    assert found.all("progress") == [{"value": "0.25", "max": "1", "aria-label": "copied"}]
    assert found.by_id["text-under-way"] == "1"


@pytest.mark.parametrize(
    ("events", "configured", "text"),
    [
        ([], False, "not configured"),
        ([], True, "not heard of yet"),
        ([LedgerBack()], True, "up"),
        ([LedgerLost(failure(message="no answer"))], True, "down since 22:13:20 UTC: no answer"),
    ],
)
def test_the_ledger(events: list[Event], configured: bool, text: str) -> None:
    assert read(*events, has_ledger=configured).by_id["text-ledger"] == text


def test_settings_and_routes_are_shown() -> None:
    found = read(
        settings=[("AWS_REGION", "eu-central-1", False), ("CONCURRENCY", "32", True)],
        routes=[("s3://in/", "gs://out/in/", "no deletes")],
    )
    assert "AWS_REGIONeu-central-1" in found.text
    assert "CONCURRENCY32" in found.text.partition("Defaults")[2]
    assert "s3://in/gs://out/in/no deletes" in found.text


def test_the_token_is_asked_for_where_one_is_set() -> None:
    assert not any(entry["name"] == "token" for entry in read().all("input"))
    (token,) = [entry for entry in read(asks_token=True).all("input") if entry["name"] == "token"]
    assert (token["type"], token["autocomplete"]) == ("password", "off")


def test_several_processes_are_named_as_what_the_numbers_are_of() -> None:
    history = History()
    history.heard(0, Tally(Underway()).take())
    for number, condition in ((1, "working"), (2, "paused")):
        tally = Tally(Underway())
        tally.emit(copied(size=1 << 20))
        history.heard(number, tally.take(), condition)
    subject = Subject(Scripted(), history, workers=3)
    found = Reader(page(subject, view(subject)))
    assert "of this process and its 3 workers together" in found.text
    assert found.by_id["text-total-copied"] == "2"
    assert found.by_id["rows-workers"] == "1working02paused03not runningunknown"
    assert "All numbers are of this process," in read().text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_from_outside_is_text(hostile: str) -> None:
    underway = Underway()
    with underway.copying(f"s3://b/{hostile}", f"gs://r/{hostile}", 9 << 20, Counting(0)):
        found = read(
            broken(hostile, message=hostile, hint=hostile),
            settled(Settlement.DEAD_LETTERED, reason=Reason.NOT_JSON, error=hostile),
            Paused(failure(message=hostile), hostile),
            LedgerLost(failure(message=hostile)),
            underway=underway,
            has_ledger=True,
            host=hostile,
            settings=[(hostile, hostile, False)],
            routes=[(hostile, hostile, hostile)],
        )
    clean = read(broken(), has_ledger=True, settings=[("a", "b", False)], routes=[("a", "b", "c")])
    allowed = {"style.css", "script.js", "icon.svg"}
    assert {name for name, _ in found.tags} <= {name for name, _ in clean.tags} | {"progress"}
    assert len(found.all("script")) == 1
    for name, attributes in found.tags:
        assert not any(attribute.startswith("on") or attribute == "style" for attribute in attributes), name
        for link in ("href", "src"):
            target = attributes.get(link)
            assert target is None or target.startswith(("/", "#"))
            assert target is None or not target.startswith("/ui/") or target.removeprefix("/ui/") in allowed


def test_nothing_has_a_name_twice() -> None:
    ids = [attributes["id"] for _, attributes in read(workers=2).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_table_has_heads_for_its_columns_and_rows() -> None:
    found = read(broken(), routes=[("a", "b", "c")], settings=[("a", "b", False)], workers=2)
    heads = found.all("th")
    assert {head["scope"] for head in heads} == {"col", "row"}
    titles = {head.get("data-title") for head in heads if head["scope"] == "row"}
    assert titles == {"Minute", "What", "From", "Variable", "Worker"}


def test_without_the_script_the_page_comes_again_by_itself() -> None:
    (refresh,) = [meta for meta in read().all("meta") if meta.get("http-equiv")]
    assert (refresh["http-equiv"], refresh["content"]) == ("refresh", "10")
