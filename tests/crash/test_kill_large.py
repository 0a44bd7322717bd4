"""`kill -9` in the middle of large uploads: each moment reached by a gate, none by chance of timing.

The strict double of GCS keeps every state that a reader could ever have seen of a name.
"""

from __future__ import annotations

import base64
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import google_crc32c
import pytest

from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import DeadLetter, Site, eventually, moto_server, site_of
from tests.crash.queue_door import Door
from tests.doubles.strict_gcs import Fault, Gate, RequestRecord

pytestmark = pytest.mark.timeout(400)

MIB = 1024 * 1024
PATIENCE = 150.0
"""Seconds for what takes two on an idle machine."""
VISIBILITY_SECONDS = 12
"""Long enough for leases to outlast a machine that is busy with other things."""


@dataclass
class Source:
    """The source bucket, and all that each of its keys ever held."""

    site: Site
    states: dict[str, list[bytes]] = field(default_factory=dict)

    def put(self, key: str, body: bytes) -> None:
        """A new state, which notifies the queue."""
        self.states.setdefault(key, []).append(body)
        self.site.put(key, body)

    def seen(self, key: str) -> list[int]:
        """Which of the key's states readers of the destination could have seen, in that order; the first is 1.

        Fails when there was anything else to be seen: a part, a mixture, nothing where something had been.
        """
        fingerprints = [(len(body), _crc32c(body)) for body in self.states[key]]
        history = self.site.gcs.history(self.site.destination, key)
        return [1 + fingerprints.index((state.size, state.crc32c)) for state in history]

    def is_equal(self, key: str) -> bool:
        return self.site.replica(key) == self.states[key][-1]

    def generation(self, key: str) -> int | None:
        stored = self.site.gcs.object(self.site.destination, key)
        return None if stored is None else stored.generation


def _crc32c(body: bytes) -> str:
    return base64.b64encode(google_crc32c.value(body).to_bytes(4, "big")).decode()


def environment(site: Site, **more: str) -> dict[str, str]:
    # A copy of the tree, broken on purpose, is tested by way of PYTHONPATH.
    return site.env(LOG_LEVEL="DEBUG", PYTHONPATH=os.environ.get("PYTHONPATH"), **more)


# --- one kill, at every moment at once ----------------------------------------------------------------------------

IN_MID_HEAD = "killed in mid head"
REPLACING = "killed in mid head of a new state"
BEFORE_COMMIT = "killed between head and commit"
ARRIVES_FIRST = "killed with the commit on its way, which arrives before the next daemon"
ARRIVES_LAST = "killed with the commit on its way, which arrives after the next daemon's"
OVERTAKEN = "killed with the commit on its way, which arrives when the source has moved on"
UNANSWERED = "killed after the commit, before its answer"
UNDELETED = "killed between commit and delete of the message"
UPLOADS = (IN_MID_HEAD, REPLACING, BEFORE_COMMIT, ARRIVES_FIRST, ARRIVES_LAST, OVERTAKEN, UNANSWERED)
COMMITTED = (UNANSWERED, UNDELETED, ARRIVES_FIRST)
"""Visible before the second daemon starts: all that it has to do is to find that out."""
POISON_UNSENT = "not a notification, killed before its dead letter is sent"
POISON_SENT = "not a notification, killed between dead letter and delete"
MESSAGES = len(UPLOADS) + len((UNDELETED, POISON_SENT, POISON_UNSENT))


def commit_fault(key: str, **more: object) -> Fault:
    """Hits the commit of a large object: its session's second PUT."""
    return Fault(operation="resumable_put", name=key, skip=1, **more)  # type: ignore[arg-type]


def faults(gates: dict[str, Gate]) -> dict[str, Fault]:
    def head(key: str, after_bytes: int) -> Fault:
        return Fault(operation="resumable_put", name=key, at="body", after_bytes=after_bytes, hold=gates[key])

    return {
        IN_MID_HEAD: head(IN_MID_HEAD, 5 * MIB),
        REPLACING: head(REPLACING, 7 * MIB + 1),
        BEFORE_COMMIT: commit_fault(BEFORE_COMMIT, at="start", hold=gates[BEFORE_COMMIT]),
        ARRIVES_FIRST: commit_fault(ARRIVES_FIRST, at="commit", hold=gates[ARRIVES_FIRST]),
        ARRIVES_LAST: commit_fault(ARRIVES_LAST, at="commit", hold=gates[ARRIVES_LAST]),
        OVERTAKEN: commit_fault(OVERTAKEN, at="commit", hold=gates[OVERTAKEN]),
        UNANSWERED: commit_fault(UNANSWERED, at="answer", hold=gates[UNANSWERED]),
    }


@dataclass
class Aftermath:
    """What was to be seen at the kill, and what became of it."""

    source: Source
    first: Command
    second: Command
    seen_at_the_kill: dict[str, list[int]]
    waiting_at_the_kill: int
    letters_at_the_kill: list[DeadLetter]
    part_uploads: list[int]
    generations: dict[str, int | None]
    """Before the second daemon began."""
    late_commits: dict[str, RequestRecord]
    letters: list[DeadLetter]


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    with ExitStack() as stack:
        aws = stack.enter_context(moto_server())
        site = stack.enter_context(site_of(aws))
        door = stack.enter_context(Door(aws.url))
        launch = stack.enter_context(Launcher(tmp_path_factory.mktemp("killed")))
        gates = {key: Gate() for key in UPLOADS}
        for gate in gates.values():
            stack.callback(gate.open)
        env = environment(
            site,
            SQS_ENDPOINT_URL=door.url,
            SQS_QUEUE_URL=door.through(site.queue_url),
            SQS_VISIBILITY_TIMEOUT_SECONDS=str(VISIBILITY_SECONDS),
        )
        yield _killed_and_started_again(site, door, launch, gates, env)


def _killed_and_started_again(
    site: Site, door: Door, launch: Launcher, gates: dict[str, Gate], env: dict[str, str]
) -> Aftermath:
    source = Source(site)
    first = launch.daemon(env)
    source.put(REPLACING, b"the first state")
    eventually(site.is_empty, "the first state is replicated")

    held = faults(gates)
    site.gcs.inject(*held.values())
    door.shut("DeleteMessageBatch")
    door.shut("SendMessage", containing=POISON_UNSENT)
    site.send(POISON_UNSENT)
    site.send(POISON_SENT)
    for number, key in enumerate((*UPLOADS, UNDELETED)):
        source.put(key, os.urandom(9 * MIB + number))
    eventually(
        lambda: all(gate.wait_reached(0.05) or source.is_equal(key) for key, gate in gates.items()),
        "every upload stands at its moment, or went past it",
        limit=PATIENCE,
    )
    eventually(lambda: door.held("SendMessage"), "a dead letter is about to be sent")
    eventually(lambda: len(handles(door.held("DeleteMessageBatch"))) >= 2, "two deletes are about to be sent")
    # Whatever takes long keeps its message, at whichever moment it stands.
    eventually(lambda: len(extended(door)) >= MESSAGES, "every lease is extended")
    first.end()

    at_the_kill = {key: source.seen(key) for key in source.states}
    part_uploads = list(site.gcs.open_sessions().values())
    waiting, letters = sum(site.depth().values()), site.dead_letters()
    door.reopen()
    for key in (IN_MID_HEAD, REPLACING, BEFORE_COMMIT, ARRIVES_FIRST, UNANSWERED):
        gates[key].open()
    eventually(lambda: source.is_equal(ARRIVES_FIRST), "the commit that was on its way arrives")
    source.put(OVERTAKEN, os.urandom(10 * MIB))
    generations = {key: source.generation(key) for key in source.states}

    second = launch.daemon(env)
    come_back(site, extended(door))
    eventually(site.is_empty, "the second daemon empties the queue", limit=PATIENCE)
    late = {}
    for key in (ARRIVES_LAST, OVERTAKEN):
        gates[key].open()
        if gates[key].wait_reached(0):  # else it was committed otherwise, and the tests below say so
            late[key] = eventually(partial(answered, site, held[key]), "the late commit is answered")
    return Aftermath(
        source,
        first,
        second,
        at_the_kill,
        waiting,
        letters,
        part_uploads,
        generations,
        late,
        site.dead_letters(),
    )


def handles(entries: Iterable[dict[str, Any]]) -> set[str]:
    """The receipts of messages that these entries of batches name."""
    return {entry["ReceiptHandle"] for entry in entries}


def extended(door: Door) -> set[str]:
    """The receipts whose lease was extended: a message that goes back for a while has another visibility timeout."""
    return handles(
        entry
        for entry in door.passed("ChangeMessageVisibilityBatch")
        if entry["VisibilityTimeout"] == VISIBILITY_SECONDS
    )


def come_back(site: Site, receipts: Iterable[str]) -> None:
    """What the dead still hold becomes visible, as it would by itself a while later."""
    for receipt in receipts:
        site.aws.sqs.change_message_visibility(
            QueueUrl=site.queue_url, ReceiptHandle=receipt, VisibilityTimeout=0
        )


def answered(site: Site, fault: Fault) -> RequestRecord | None:
    """The request that this fault held, once it has its answer."""
    return next((request for request in site.gcs.requests if request.fault is fault), None)


def test_nothing_is_visible_before_its_commit(aftermath: Aftermath) -> None:
    seen = aftermath.seen_at_the_kill
    for key in (IN_MID_HEAD, BEFORE_COMMIT, ARRIVES_FIRST, ARRIVES_LAST, OVERTAKEN):
        assert seen[key] == [], key
    assert seen[REPLACING] == [1]
    assert seen[UNANSWERED] == seen[UNDELETED] == [1]
    # The kill did come in the middle: the store held parts of uploads.
    assert len(aftermath.part_uploads) == 6
    assert all(aftermath.part_uploads)


def test_no_message_is_deleted_before_its_work_is_done(aftermath: Aftermath) -> None:
    assert aftermath.waiting_at_the_kill == MESSAGES


def test_every_object_arrives(aftermath: Aftermath) -> None:
    assert [key for key in aftermath.source.states if not aftermath.source.is_equal(key)] == []
    assert aftermath.source.site.is_empty()


def test_readers_saw_whole_states_in_order_and_each_once(aftermath: Aftermath) -> None:
    expected = {key: [1] for key in aftermath.source.states} | {REPLACING: [1, 2], OVERTAKEN: [2]}
    assert {key: aftermath.source.seen(key) for key in expected} == expected


def test_what_was_committed_is_found_and_not_written_again(aftermath: Aftermath) -> None:
    for key in COMMITTED:
        assert aftermath.source.generation(key) == aftermath.generations[key], key
        uri = f"s3://{aftermath.source.site.bucket}/{key}"
        assert aftermath.second.lines("object already replicated", source=uri), key
        assert not aftermath.second.lines("object copied", source=uri), key


@pytest.mark.parametrize("key", [ARRIVES_LAST, OVERTAKEN])
def test_a_commit_of_the_dead_that_comes_too_late_is_refused(aftermath: Aftermath, key: str) -> None:
    assert aftermath.late_commits[key].status == 412


def test_dead_letters_are_sent_before_the_delete(aftermath: Aftermath) -> None:
    assert [letter.body for letter in aftermath.letters_at_the_kill] == [POISON_SENT]
    ids = {}
    for body in (POISON_SENT, POISON_UNSENT):
        letters = [letter for letter in aftermath.letters if letter.body == body]
        # Sent twice rather than never; whoever reads them can tell by the id of the message.
        (ids[body],) = {letter.attributes["ReplicatorMessageId"] for letter in letters}
    assert {letter.body for letter in aftermath.letters} == ids.keys()
    assert len(set(ids.values())) == 2


def test_the_second_daemon_finds_nothing_unforeseen(aftermath: Aftermath) -> None:
    for command in (aftermath.first, aftermath.second):
        assert not command.lines(reason="unexpected")
        errors = [line["event"] for line in command.lines(level="error")]
        assert set(errors) <= {"message dead-lettered"}


# --- kill after kill ----------------------------------------------------------------------------------------------

SIZES_MIB = (9, 11, 17, 40)
KILLS = 3


def test_large_uploads_survive_kill_after_kill(launch: Launcher, tell: Callable[[str], None]) -> None:
    """Kills at random offsets of several uploads at once, with new states of the source in between."""
    seed = os.environ.get("KILL_SEED") or str(random.randrange(10**6))
    chance = random.Random(seed)
    with moto_server() as aws, site_of(aws) as site:
        source = Source(site)
        env = environment(site, SQS_VISIBILITY_TIMEOUT_SECONDS="2")
        for size in SIZES_MIB:
            source.put(f"large/{size}", chance.randbytes(size * MIB))
        parts: list[int] = []
        for _ in range(KILLS):
            parts += _kill_in_mid_upload(source, launch("run", env=env), chance)
            changed = f"large/{chance.choice(SIZES_MIB)}"
            source.put(changed, chance.randbytes(len(source.states[changed][0]) - 1))
        launch.daemon(env)
        eventually(site.is_empty, f"the queue is empty (seed {seed})", limit=PATIENCE)
        assert [key for key in source.states if not source.is_equal(key)] == [], seed
        for key, states in source.states.items():
            seen = source.seen(key)
            assert seen == sorted(set(seen)), (seed, key)
            assert seen[-1] == len(states), (seed, key)
        assert site.dead_letters() == []
        mib = ", ".join(f"{part / MIB:.1f}" for part in sorted(parts))
        tell(f"large uploads, seed {seed}: {KILLS} kills with {len(parts)} uploads at {mib} MiB")


def _kill_in_mid_upload(source: Source, daemon: Command, chance: random.Random) -> list[int]:
    """Kills it once three uploads stand at offsets of their own; returns how far each of them got, in bytes."""
    site = source.site
    unequal = [key for key in source.states if not source.is_equal(key)]
    gates = []
    for key in chance.sample(unequal, min(3, len(unequal))):
        gates.append(Gate())
        after = chance.randrange(MIB, len(source.states[key][-1]) - MIB)
        site.gcs.inject(
            Fault(operation="resumable_put", name=key, at="body", after_bytes=after, hold=gates[-1])
        )
    try:
        eventually(
            lambda: all(gate.wait_reached(0.05) for gate in gates) or site.is_empty(),
            "the uploads are under way",
            limit=PATIENCE,
        )
        parts = [persisted for persisted in site.gcs.open_sessions().values() if persisted]
        daemon.end()
        assert sum(site.depth().values()) >= len(gates), "messages are gone before their objects are there"
    finally:
        site.gcs.clear_faults()
        for gate in gates:
            gate.open()
    site.gcs.expire_sessions()  # of the dead
    return parts
