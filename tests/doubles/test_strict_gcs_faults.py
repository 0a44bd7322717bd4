"""The strict GCS double does wrong exactly what it was asked to, and nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator

import aiohttp
import pytest

from .gcs_wire import Wire, crc32c
from .strict_gcs import QUANTUM, Fault, Gate, StrictGcs, StrictGcsThread

pytestmark = pytest.mark.anyio


async def test_status(gcs: StrictGcs, wire: Wire) -> None:
    gcs.put("b", "x", b"1")
    gcs.inject(
        Fault("stat", status=503, retry_after=7, headers={"X-Extra": "y"}, times=2),
        Fault("stat", status=429, reason="rateLimitExceeded"),
        Fault("delete", status=500, body=b"<html>"),
    )
    replies = [await wire.stat("x") for _ in range(4)]
    assert [reply.status for reply in replies] == [503, 503, 429, 200]
    assert (replies[0].headers["Retry-After"], replies[0].headers["X-Extra"]) == ("7", "y")
    assert (replies[0].reason, replies[2].reason) == ("backendError", "rateLimitExceeded")
    assert len(gcs.pending_faults()) == 1
    assert (await wire.delete("x")).body == b"<html>"
    assert gcs.pending_faults() == ()
    assert [record.fault is not None for record in gcs.requests] == [True, True, True, False, True]


async def test_bytes_are_spoiled_or_cut_on_their_way_out(gcs: StrictGcs, wire: Wire) -> None:
    gcs.put("b", "x", b"0123456789")
    path = wire.path("x", alt="media")
    gcs.inject(Fault("download", answer_corrupt_at=2), Fault("download", answer_cut_at=4))
    assert (await wire.send("GET", path)).body == b"0133456789"
    with pytest.raises(aiohttp.ClientPayloadError):
        await wire.send("GET", path)
    assert (await wire.send("GET", path)).body == b"0123456789"
    assert [record.status for record in gcs.requests] == [200, 0, 200]


async def test_matching(gcs: StrictGcs, wire: Wire) -> None:
    gcs.put("b", "x", b"1")
    gcs.inject(Fault(name="y", status=500, times=None), Fault(("stat", "delete"), skip=1, status=502))
    assert [(await wire.stat("x")).status for _ in range(3)] == [200, 502, 200]
    assert [(await wire.stat("y")).status for _ in range(2)] == [500, 500]
    gcs.clear_faults()
    assert (await wire.stat("y")).status == 404
    gcs.inject(Fault(method="DELETE", bucket="other", status=500), Fault(method="DELETE", status=501))
    assert (await wire.stat("x")).status == 200
    assert (await wire.delete("x")).status == 501


async def test_a_name_only_in_the_body_is_matched(gcs: StrictGcs, wire: Wire) -> None:
    gcs.inject(Fault("multipart", name="x", status=503), Fault("multipart", skip=1, status=500))
    assert (await wire.upload("y", b"1")).status == 200
    assert (await wire.upload("y", b"1")).status == 500
    assert (await wire.upload("x", b"1")).status == 503
    assert (await wire.upload("x", b"1")).status == 200


async def test_cut_at_start(gcs: StrictGcs, wire: Wire) -> None:
    gcs.inject(Fault("multipart", cut=True))
    with pytest.raises(aiohttp.ClientError):
        await wire.upload("x", b"1")
    assert gcs.history("b", "x") == ()
    assert [(record.status, record.bytes_in) for record in gcs.requests] == [(0, 0)]


async def test_cut_in_the_body_persists_whole_quanta(gcs: StrictGcs, wire: Wire) -> None:
    data = bytes(range(256)) * 1024 * 4
    session = await wire.session("x")
    gcs.inject(Fault("resumable_put", at="body", after_bytes=2 * QUANTUM + 5, cut=True))
    with pytest.raises(aiohttp.ClientError):
        await wire.chunk(session, f"0-{len(data) - 1}/{len(data)}", data)
    assert gcs.requests[-1].bytes_in == 2 * QUANTUM + 5
    asked = await wire.chunk(session, f"*/{len(data)}")
    assert (asked.status, asked.headers["Range"]) == (308, f"bytes=0-{2 * QUANTUM - 1}")
    assert gcs.history("b", "x") == ()
    done = await wire.chunk(session, f"{2 * QUANTUM}-{len(data) - 1}/{len(data)}", data[2 * QUANTUM :])
    assert (done.status, done.document["crc32c"]) == (200, crc32c(data))


async def test_status_in_the_body(gcs: StrictGcs, wire: Wire) -> None:
    data = bytes(3 * QUANTUM)
    session = await wire.session("x")
    gcs.inject(Fault("resumable_put", at="body", after_bytes=QUANTUM, status=503))
    assert (await wire.chunk(session, f"0-{len(data) - 1}/{len(data)}", data)).status == 503
    assert (await wire.chunk(session, "*/*")).headers["Range"] == f"bytes=0-{QUANTUM - 1}"


async def test_a_lost_answer(gcs: StrictGcs, wire: Wire) -> None:
    gcs.inject(Fault("multipart", at="answer", cut=True), Fault("delete", at="answer", status=503))
    with pytest.raises(aiohttp.ClientError):
        await wire.upload("x", b"1", ifGenerationMatch=0)
    assert gcs.object("b", "x") is not None
    assert (await wire.upload("x", b"1", ifGenerationMatch=0)).status == 412
    assert (await wire.delete("x")).status == 503
    assert gcs.object("b", "x") is None


async def test_a_lost_answer_of_a_session(gcs: StrictGcs, wire: Wire) -> None:
    session = await wire.session("x", ifGenerationMatch=0)
    gcs.inject(Fault("resumable_put", at="answer", cut=True))
    with pytest.raises(aiohttp.ClientError):
        await wire.chunk(session, "0-3/4", b"data")
    asked = await wire.chunk(session, "*/4")
    assert (asked.status, asked.document["size"]) == (200, "4")
    assert len(gcs.history("b", "x")) == 1


async def test_cut_before_the_commit(gcs: StrictGcs, wire: Wire) -> None:
    session = await wire.session("x")
    gcs.inject(Fault("resumable_put", at="commit", cut=True))
    with pytest.raises(aiohttp.ClientError):
        await wire.chunk(session, f"0-{QUANTUM + 3}/{QUANTUM + 4}", bytes(QUANTUM + 4))
    assert gcs.history("b", "x") == ()
    asked = await wire.chunk(session, f"*/{QUANTUM + 4}")
    assert (asked.status, asked.headers["Range"]) == (308, f"bytes=0-{QUANTUM - 1}")


async def test_losing_a_race_between_start_and_commit(gcs: StrictGcs, wire: Wire) -> None:
    gcs.inject(Fault("multipart", at="commit", run=lambda double: double.put("b", "x", b"theirs")))
    assert (await wire.upload("x", b"ours", ifGenerationMatch=0)).status == 412
    assert [state.crc32c for state in gcs.history("b", "x")] == [crc32c(b"theirs")]


async def test_hold_and_open(gcs: StrictGcs, wire: Wire) -> None:
    gate = Gate()
    gcs.inject(Fault("multipart", at="commit", hold=gate))
    async with asyncio.TaskGroup() as group:
        upload = group.create_task(wire.upload("x", b"1"))
        await gate.reached()
        assert gcs.object("b", "x") is None
        assert not upload.done()
        gate.open()
    assert upload.result().status == 200
    await gate.reached()


async def test_hold_on_a_plain_event(gcs: StrictGcs, wire: Wire) -> None:
    event = asyncio.Event()
    gcs.inject(Fault("stat", hold=event, delay=0.001, status=500))
    async with asyncio.TaskGroup() as group:
        stat = group.create_task(wire.stat("x"))
        event.set()
    assert stat.result().status == 500


async def test_a_newer_request_takes_a_session_over(gcs: StrictGcs, wire: Wire) -> None:
    data = bytes(range(256)) * 1024 * 3
    session = await wire.session("x")
    gate = Gate()
    gcs.inject(Fault("resumable_put", at="body", after_bytes=QUANTUM + 1, hold=gate))
    async with asyncio.TaskGroup() as group:
        old = group.create_task(_error_of(wire.chunk(session, f"0-{len(data) - 1}/{len(data)}", data)))
        await gate.reached()
        asked = await wire.chunk(session, "*/*")
        assert asked.headers["Range"] == f"bytes=0-{QUANTUM - 1}"
        gate.open()
    assert isinstance(old.result(), aiohttp.ClientError)
    assert gcs.open_sessions().popitem()[1] == QUANTUM
    done = await wire.chunk(session, f"{QUANTUM}-{len(data) - 1}/{len(data)}", data[QUANTUM:])
    assert (done.status, done.document["crc32c"]) == (200, crc32c(data))


async def _error_of(sending: object) -> BaseException | None:
    try:
        await sending  # type: ignore[misc]
    except aiohttp.ClientError as error:
        return error
    return None


async def test_a_client_that_goes_away(gcs: StrictGcs, wire: Wire) -> None:
    session = await wire.session("x")
    read, stuck = Gate(), asyncio.Event()
    read.open()
    gcs.inject(Fault("resumable_put", at="body", after_bytes=QUANTUM, hold=read))

    async def body() -> AsyncIterator[bytes]:
        yield bytes(QUANTUM)
        await stuck.wait()

    size = 2 * QUANTUM
    headers = {"Content-Range": f"bytes 0-{size - 1}/{size}", "Content-Length": str(size)}
    sending = asyncio.create_task(wire.send("PUT", session, body(), headers))
    await read.reached()
    sending.cancel()
    await asyncio.wait([sending])
    assert (await wire.chunk(session, "*/*")).headers["Range"] == f"bytes=0-{QUANTUM - 1}"
    assert gcs.history("b", "x") == ()


async def test_corruption_is_caught_by_a_hash_and_passes_without(gcs: StrictGcs, wire: Wire) -> None:
    data = bytes(QUANTUM + 5)
    for name, hashes, status in (("checked", f"crc32c={crc32c(data)}", 400), ("blind", None, 200)):
        gcs.inject(Fault("resumable_put", corrupt_at=QUANTUM + 1, slow_read=0.0001))
        reply = await wire.chunk(
            await wire.session(name), f"0-{len(data) - 1}/{len(data)}", data, hashes=hashes
        )
        assert reply.status == status
    assert gcs.history("b", "checked") == ()
    blind = gcs.object("b", "blind")
    assert blind is not None
    assert [i for i, byte in enumerate(blind.data) if byte] == [QUANTUM + 1]


@pytest.mark.parametrize("status", [404, 410])
async def test_expired_session(gcs: StrictGcs, wire: Wire, status: int) -> None:
    session = await wire.session("x")
    gcs.inject(Fault("resumable_put", expire_session=404 if status == 404 else 410))
    assert (await wire.chunk(session, "0-3/4", b"data")).status == status
    assert (await wire.chunk(session, "*/*")).status == status
    assert gcs.object("b", "x") is None


async def test_stopping_does_not_wait_for_what_is_held() -> None:
    gate = Gate()
    async with asyncio.timeout(30):
        async with StrictGcs() as gcs:
            wire = Wire(gcs.url)
            gcs.create_bucket("b")
            gcs.inject(Fault("stat", hold=gate))
            stat = asyncio.create_task(_error_of(wire.stat("x")))
            await gate.reached()
        assert isinstance(await stat, aiohttp.ClientError)
        await wire.close()


def test_from_another_thread() -> None:
    gate = Gate()
    statuses: list[int] = []
    with StrictGcsThread() as gcs:
        gcs.create_bucket("b")
        gcs.put("b", "x", b"1")
        gcs.inject(Fault("stat", hold=gate))

        def stat() -> None:
            with urllib.request.urlopen(f"{gcs.url}/storage/v1/b/b/o/x") as response:
                statuses.append(response.status)

        client = threading.Thread(target=stat)
        client.start()
        assert gate.wait_reached()
        assert statuses == []
        gate.open()
        client.join(timeout=30)
        assert statuses == [200]
        port = int(gcs.url.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
