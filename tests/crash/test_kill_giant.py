"""`kill -9` and SIGTERM while a giant object is copied in parts: each moment reached by a gate."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator

import pytest

from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import NoToken
from consumer.adapters.gcs_compose import GcsComposer
from consumer.adapters.http import HttpClient
from consumer.names import is_temporary
from consumer.parallel import LONGEST_COPY_SECONDS
from consumer.sweep import SWEPT_AFTER_SECONDS, sweep
from tests.acceptance.command import Command, Launcher
from tests.acceptance.stack import Aws, Site, eventually, moto_server, site_of
from tests.doubles.recorder import Recorder
from tests.doubles.strict_gcs import ALL_PERMISSIONS, BucketRules, Fault, Gate

pytestmark = pytest.mark.timeout(400)

MIB = 1024 * 1024
KEY = "giant"
BODY = os.urandom(48 * MIB + 5)
PARTS = 4
PATIENCE = 150.0


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with moto_server() as server:
        yield server


@pytest.fixture
def site(aws: Aws) -> Iterator[Site]:
    with site_of(aws) as site:
        yield site


def environment(site: Site, **more: str) -> dict[str, str]:
    return site.env(
        LOG_LEVEL="DEBUG",
        PARALLEL_THRESHOLD_MIB="32",
        SQS_VISIBILITY_TIMEOUT_SECONDS="2",
        PYTHONPATH=os.environ.get("PYTHONPATH"),
        **more,
    )


def put(site: Site) -> None:
    site.put(KEY, BODY, ChecksumAlgorithm="CRC32C")


def temporaries(site: Site) -> list[str]:
    return [name for name in site.gcs.objects(site.destination) if is_temporary(name)]


def killed_at(site: Site, launch: Launcher, fault: Fault, gate: Gate) -> None:
    site.gcs.inject(fault)
    daemon = launch.daemon(environment(site))
    put(site)
    assert gate.wait_reached(PATIENCE)
    daemon.end()
    gate.open()


def arrives(site: Site, launch: Launcher) -> Command:
    daemon = launch.daemon(environment(site))
    eventually(site.is_empty, "the object arrives", limit=PATIENCE)
    assert site.replica(KEY) == BODY
    return daemon


def swept(site: Site, after_seconds: float) -> list[str]:
    """The temporary objects that a sweep leaves, made so many seconds from now."""

    async def run() -> None:
        async with HttpClient() as http:
            destination = GcsDestination(
                http, NoToken(), Recorder(), bucket=site.destination, endpoint=site.gcs.url
            )
            composer = GcsComposer(
                destination.client, Recorder(), bucket=site.destination, endpoint=site.gcs.url
            )
            await sweep(composer, Recorder(), lambda: time.time() + after_seconds)

    asyncio.run(run())
    return temporaries(site)


def test_what_a_killed_copy_leaves_is_swept_once_it_is_old_and_never_before(
    site: Site, launch: Launcher
) -> None:
    gate = Gate()
    killed_at(site, launch, Fault("compose", hold=gate, cut=True), gate)
    left = temporaries(site)
    assert len(left) == PARTS
    assert site.gcs.history(site.destination, KEY) == ()

    daemon = arrives(site, launch)
    # The next copy removed its own parts, and those alone: for all it knows another pod works with the others.
    assert temporaries(site) == left
    assert [state.size for state in site.gcs.history(site.destination, KEY)] == [len(BODY)]
    (line,) = daemon.lines("object copied")
    assert line["verification"] == "checksum"

    assert swept(site, LONGEST_COPY_SECONDS) == left
    assert swept(site, SWEPT_AFTER_SECONDS + 60) == []
    assert site.replica(KEY) == BODY


def test_a_copy_killed_with_its_composition_done_is_found_and_not_made_again(
    site: Site, launch: Launcher
) -> None:
    gate = Gate()
    killed_at(site, launch, Fault("compose", at="answer", hold=gate, cut=True), gate)
    stored = site.gcs.object(site.destination, KEY)
    assert stored is not None
    assert stored.data == BODY

    daemon = arrives(site, launch)

    assert daemon.lines("object already replicated")
    assert len(site.gcs.history(site.destination, KEY)) == 1
    assert len(temporaries(site)) == PARTS
    assert swept(site, SWEPT_AFTER_SECONDS + 60) == []


def test_temporary_objects_are_in_the_standard_class(site: Site, launch: Launcher) -> None:
    """Whatever the bucket's own class became meanwhile: any other is charged for being deleted early."""
    gate = Gate()
    site.gcs.inject(
        Fault(
            "resumable_start",
            run=lambda gcs: gcs.set_rules(site.destination, BucketRules(storage_class="ARCHIVE")),
        )
    )
    killed_at(site, launch, Fault("compose", hold=gate, cut=True), gate)
    stored = site.gcs.objects(site.destination)
    assert {stored[name].attributes.storage_class for name in temporaries(site)} == {"STANDARD"}


def test_a_part_upload_that_is_killed_shows_nothing(site: Site, launch: Launcher) -> None:
    gate = Gate()
    fault = Fault("resumable_put", at="body", after_bytes=5 * MIB, hold=gate, cut=True, times=None)
    killed_at(site, launch, fault, gate)
    assert site.gcs.history(site.destination, KEY) == ()
    site.gcs.clear_faults()
    arrives(site, launch)
    # The last part is too small to be held: it may have been there before the kill.
    assert [name for name in temporaries(site) if not name.endswith("/0003-1")] == []
    assert len(temporaries(site)) <= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_in_mid_copy_leaves_nothing_behind(
    site: Site, launch: Launcher, number: signal.Signals
) -> None:
    gate = Gate()
    # The tail of one part: others are there by then, or on their way.
    site.gcs.inject(Fault("resumable_put", at="commit", hold=gate, skip=4))
    daemon = launch.daemon(environment(site, DRAIN_TIMEOUT_SECONDS="0.5"))
    put(site)
    assert gate.wait_reached(PATIENCE)
    daemon.signal(number)
    try:
        assert daemon.wait() == 0
    finally:
        gate.open()
    assert temporaries(site) == []
    assert site.gcs.history(site.destination, KEY) == ()
    assert sum(site.depth().values()) == 1
    arrives(site, launch)


RULES = {
    "retention": BucketRules(retention_seconds=3600),
    "hold": BucketRules(default_event_based_hold=True),
    "class": BucketRules(storage_class="NEARLINE"),
}


@pytest.mark.parametrize("rule", RULES)
def test_where_temporary_objects_would_stay_it_is_one_stream_and_the_check_says_so(
    site: Site, launch: Launcher, rule: str
) -> None:
    site.gcs.set_rules(site.destination, RULES[rule])
    put(site)
    daemon = arrives(site, launch)
    assert site.gcs.count("compose") == 0
    assert set(site.gcs.objects(site.destination)) == {KEY}
    said = [line["detail"] for line in daemon.lines("start-up check", check="GCS")]
    assert [detail for detail in said if "over one stream" in detail]


def test_a_bucket_that_may_not_be_asked_for_its_rules_is_tried_and_used(site: Site, launch: Launcher) -> None:
    site.gcs.permissions = ALL_PERMISSIONS - {"storage.buckets.get"}
    put(site)
    daemon = arrives(site, launch)
    assert site.gcs.count("compose") == 1
    assert set(site.gcs.objects(site.destination)) == {KEY}
    assert not [line for line in daemon.lines("start-up check") if "over one stream" in line["detail"]]


def test_events_of_temporary_objects_are_ignored(site: Site, launch: Launcher) -> None:
    """A source that is itself written by such a program."""
    launch.daemon(environment(site))
    site.put(".cross-cloud-replicator/parts/0123/0001-1", b"part")
    eventually(site.is_empty, "the event is settled")
    assert site.replicas() == {}
    assert site.dead_letters() == []
