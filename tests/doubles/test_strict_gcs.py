"""The strict GCS double keeps the rules it claims: each with a case that passes and one that is refused."""

from __future__ import annotations

import base64
import contextlib
import gc
import gzip
import hashlib
import json
import re
import socket
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions as api_exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from tests.acceptance.stack import eventually

from .gcs_wire import BOUNDARY, Wire, crc32c, multipart
from .strict_gcs import QUANTUM, Attributes, BucketRules, ObservedState, StrictGcs, StrictGcsThread

pytestmark = pytest.mark.anyio

WRONG = crc32c(b"something else")


class TestBuckets:
    async def test_create_and_get(self, gcs: StrictGcs, wire: Wire) -> None:
        created = await wire.send("POST", "/storage/v1/b?project=p", b'{"name": "new-bucket"}')
        assert (created.status, created.document["kind"]) == (200, "storage#bucket")
        assert (await wire.send("GET", "/storage/v1/b/new-bucket")).document["name"] == "new-bucket"
        again = await wire.send("POST", "/storage/v1/b?project=p", b'{"name": "new-bucket"}')
        assert (again.status, again.reason) == (409, "conflict")
        assert (await wire.send("POST", "/storage/v1/b?project=p", b'{"name": "Upper"}')).status == 400

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/storage/v1/b/missing"),
            ("GET", "/storage/v1/b/missing/o"),
            ("GET", "/storage/v1/b/missing/o/x"),
            ("DELETE", "/storage/v1/b/missing/o/x"),
            ("GET", "/storage/v1/b/missing/iam/testPermissions?permissions=storage.objects.get"),
            ("POST", "/upload/storage/v1/b/missing/o?uploadType=media&name=x"),
            ("POST", "/upload/storage/v1/b/missing/o?uploadType=resumable&name=x"),
        ],
    )
    async def test_missing_bucket(self, wire: Wire, method: str, path: str) -> None:
        reply = await wire.send(method, path)
        assert (reply.status, reply.reason) == (404, "notFound")
        assert reply.document["error"]["message"] == "The specified bucket does not exist."

    async def test_permissions_are_answered_and_enforced(self, gcs: StrictGcs, wire: Wire) -> None:
        path = "/storage/v1/b/b/iam/testPermissions?" + "&".join(
            f"permissions=storage.objects.{verb}" for verb in ("create", "delete")
        )
        assert len((await wire.send("GET", path)).document["permissions"]) == 2
        gcs.permissions.discard("storage.objects.delete")
        assert (await wire.send("GET", path)).document["permissions"] == ["storage.objects.create"]
        assert (await wire.upload("x", b"1")).status == 200
        for refused in (await wire.delete("x"), await wire.upload("x", b"2")):
            assert (refused.status, refused.reason) == (403, "forbidden")
        gcs.permissions = set()
        assert "permissions" not in (await wire.send("GET", path)).document
        assert (await wire.upload("y", b"1")).status == 403

    async def test_token(self, gcs: StrictGcs, wire: Wire) -> None:
        gcs.require_token = "secret"
        without = await wire.stat("x")
        assert (without.status, without.reason) == (401, "required")
        wrong = await wire.send("GET", wire.path("x"), headers={"Authorization": "Bearer old"})
        assert (wrong.status, wrong.reason) == (401, "authError")
        right = await wire.send("GET", wire.path("x"), headers={"Authorization": "Bearer secret"})
        assert right.status == 404


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "a/b",
            "../x",
            "a/../b",
            "//",
            "/",
            "#",
            "?",
            "a+b",
            "a b",
            "%2F",
            "%",
            "ü/日本",
            "\t",
            "...",
            "a/.",
            "x" * 1024,
        ],
    )
    async def test_exact(self, gcs: StrictGcs, wire: Wire, name: str) -> None:
        by_metadata = await wire.upload(name, b"1")
        assert by_metadata.document["name"] == name
        by_query = await wire.send("POST", wire.upload_path(uploadType="media", name=name), b"22")
        assert by_query.document["name"] == name
        session = await wire.session(name)
        assert (await wire.chunk(session, "0-2/3", b"333")).document["name"] == name
        assert list(gcs.objects("b")) == [name]
        assert (await wire.stat(name)).document["size"] == "3"
        assert (await wire.delete(name)).status == 204
        assert gcs.objects("b") == {}

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a\nb", "a\rb", ".well-known/acme-challenge/x", "x" * 1025, "ü" * 513]
    )
    async def test_forbidden(self, gcs: StrictGcs, wire: Wire, name: str) -> None:
        assert (await wire.upload(name, b"1")).status == 400
        assert (await wire.start(name)).status == 400
        assert (await wire.send("POST", wire.upload_path(uploadType="media", name=name), b"1")).status == 400
        assert gcs.objects("b") == {}

    async def test_a_raw_slash_is_another_resource(self, gcs: StrictGcs, wire: Wire) -> None:
        gcs.put("b", "a/b", b"1")
        assert (await wire.send("GET", "/storage/v1/b/b/o/a%2Fb")).status == 200
        assert (await wire.send("GET", "/storage/v1/b/b/o/a/b")).status == 404

    async def test_not_utf8(self, wire: Wire) -> None:
        assert (await wire.send("GET", "/storage/v1/b/b/o/%ff")).status == 400

    async def test_missing_name(self, wire: Wire) -> None:
        reply = await wire.send("POST", wire.upload_path(uploadType="media"), b"1")
        assert (reply.status, reply.reason) == (400, "required")


class TestResource:
    async def test_fields(self, gcs: StrictGcs, wire: Wire) -> None:
        metadata = {
            "contentType": "text/css",
            "contentEncoding": "gzip",
            "contentLanguage": "de",
            "contentDisposition": "inline",
            "cacheControl": "no-store",
            "metadata": {"Key": "välue"},
        }
        written = (await wire.upload("x/y", b"data", metadata)).document
        document = (await wire.stat("x/y")).document
        assert document == written
        assert document | metadata == document
        assert re.fullmatch(r"\d{16}", document["generation"])
        expected = {
            "kind": "storage#object",
            "id": f"b/x/y/{document['generation']}",
            "name": "x/y",
            "bucket": "b",
            "metageneration": "1",
            "size": "4",
            "crc32c": crc32c(b"data"),
            "md5Hash": base64.b64encode(hashlib.md5(b"data").digest()).decode(),
            "storageClass": "STANDARD",
        }
        assert document | expected == document
        assert {"etag", "timeCreated", "updated"} <= document.keys()

    async def test_generations_only_grow(self, gcs: StrictGcs) -> None:
        generations = [gcs.put("b", f"x{i % 2}", b"").generation for i in range(100)]
        assert generations == sorted(set(generations))

    async def test_custom_metadata_limit(self, gcs: StrictGcs, wire: Wire) -> None:
        exactly = {"metadata": {"k": "v" * (8 * 1024 - 1)}}
        too_much = {"metadata": {"k": "v" * (8 * 1024)}}
        assert (await wire.upload("x", b"", exactly)).status == 200
        for refused in (await wire.upload("y", b"", too_much), await wire.start("y", too_much)):
            assert (refused.status, refused.reason) == (400, "invalid")
        assert gcs.object("b", "y") is None
        assert (await wire.upload("y", b"", {"metadata": {"k": 1}})).status == 400

    async def test_content_type(self, gcs: StrictGcs, wire: Wire) -> None:
        path = wire.upload_path(uploadType="media", name="x")
        assert (await wire.send("POST", path, b"", {"Content-Type": "a/b"})).document["contentType"] == "a/b"
        clash = multipart({"name": "x", "contentType": "a/b"}, b"").replace(
            b"Content-Type: a/b", b"Content-Type: c/d"
        )
        content_type = {"Content-Type": f"multipart/related; boundary={BOUNDARY}"}
        refused = await wire.send("POST", wire.upload_path(uploadType="multipart"), clash, content_type)
        assert (refused.status, refused.reason) == (400, "invalid")

    async def test_patch(self, gcs: StrictGcs, wire: Wire) -> None:
        old = gcs.put("b", "x", b"1", metadata={"a": "1", "b": "2"})
        change = json.dumps({"metadata": {"a": None, "c": "3"}, "cacheControl": "no-store"}).encode()
        path = wire.path("x", ifGenerationMatch=old.generation, ifMetagenerationMatch=1)
        changed = (await wire.send("PATCH", path, change)).document
        assert changed["metadata"] == {"b": "2", "c": "3"}
        assert (changed["generation"], changed["metageneration"]) == (str(old.generation), "2")
        assert (await wire.send("PATCH", path, change)).reason == "conditionNotMet"
        assert (await wire.send("PATCH", wire.path("absent"), change)).status == 404


class TestReading:
    async def test_media_and_ranges(self, gcs: StrictGcs, wire: Wire) -> None:
        gcs.put("b", "x", b"0123456789")
        for path in (wire.path("x", alt="media"), "/download" + wire.path("x", alt="media")):
            whole = await wire.send("GET", path)
            assert (whole.status, whole.body) == (200, b"0123456789")
            assert f"crc32c={crc32c(b'0123456789')}" in whole.headers["X-Goog-Hash"]
            for header, body in (("2-4", b"234"), ("8-", b"89"), ("8-99", b"89"), ("-3", b"789")):
                part = await wire.send("GET", path, headers={"Range": f"bytes={header}"})
                assert (part.status, part.body) == (206, body)
            assert (await wire.send("GET", path, headers={"Range": "bytes=10-"})).status == 416

    async def test_media_says_what_it_is_of(self, gcs: StrictGcs, wire: Wire) -> None:
        gcs.set_rules("b", BucketRules(versioned=True))
        old = gcs.put("b", "x", b"old")
        gcs.change("b", "x", {"metadata": {"a": "1"}})
        new = gcs.put("b", "x", b"new one")
        live = await wire.send("GET", wire.path("x", alt="media"))
        assert (live.body, live.headers["X-Goog-Generation"]) == (b"new one", str(new.generation))
        assert live.headers["X-Goog-Stored-Content-Length"] == "7"
        assert live.headers["X-Goog-Stored-Content-Encoding"] == "identity"
        kept = await wire.send("GET", wire.path("x", alt="media", generation=old.generation))
        assert (kept.body, kept.headers["X-Goog-Metageneration"]) == (b"old", "2")
        absent = await wire.send("GET", wire.path("x", alt="media", generation=1))
        assert (absent.status, absent.body) == (404, b"No such object: b/x")
        changed = await wire.send("GET", wire.path("x", alt="media", ifMetagenerationMatch=2))
        assert changed.status == 412
        assert not changed.body.startswith(b"{")

    async def test_gzip_is_unpacked_for_who_does_not_take_it(self, gcs: StrictGcs, wire: Wire) -> None:
        packed = gzip.compress(b"unpacked" * 100)
        path, part, plain = (
            wire.path("x", alt="media"),
            {"Range": "bytes=0-3"},
            {"Accept-Encoding": "identity"},
        )
        for cache_control, names in ((None, ("x", "y")), ("no-transform", ("y",))):
            attributes = Attributes(content_encoding="gzip", cache_control=cache_control)
            for name in names:
                gcs.put("b", name, packed, attributes=attributes)
        gcs.put("b", "z", b"no gzip", attributes=Attributes(content_encoding="gzip"))
        for headers in ({}, part):
            unpacked = await wire.send("GET", path, headers=headers | plain)
            assert (unpacked.status, unpacked.body) == (200, b"unpacked" * 100)
            assert "Content-Length" not in unpacked.headers
            assert "Content-Encoding" not in unpacked.headers
            assert unpacked.headers["X-Goog-Stored-Content-Encoding"] == "gzip"
            assert f"crc32c={crc32c(packed)}" in unpacked.headers["X-Goog-Hash"]
        taken = await wire.send("GET", path, headers=part | {"Accept-Encoding": "gzip"})
        assert (taken.status, taken.body, taken.headers["Content-Encoding"]) == (206, packed[:4], "gzip")
        assert (await wire.send("GET", wire.path("y", alt="media"), headers=plain)).body == packed
        assert (await wire.send("GET", wire.path("z", alt="media"), headers=plain)).body == b"no gzip"

    async def test_generation_and_conditions(self, gcs: StrictGcs, wire: Wire) -> None:
        generation = gcs.put("b", "x", b"1").generation
        assert (await wire.stat("x", generation=generation)).status == 200
        assert (await wire.stat("x", generation=generation - 1)).status == 404
        assert (await wire.stat("x", ifGenerationMatch=generation)).status == 200
        assert (await wire.stat("x", ifGenerationMatch=0)).reason == "conditionNotMet"
        assert (await wire.stat("x", ifGenerationNotMatch=0)).status == 200
        assert (await wire.stat("x", ifGenerationNotMatch=generation)).status == 304
        assert (await wire.stat("x", ifGenerationMatch="one")).status == 400
        absent = await wire.stat("absent")
        assert (absent.status, absent.document["error"]["message"]) == (404, "No such object: b/absent")

    async def test_list(self, gcs: StrictGcs, wire: Wire) -> None:
        for name in ("c", "a/1", "a/2", "ä", "b", "a"):
            gcs.put("b", name, b"")

        async def names(**query: object) -> list[str]:
            return [item["name"] for item in (await wire.listing(**query)).document.get("items", [])]

        assert await names() == ["a", "a/1", "a/2", "b", "c", "ä"]
        assert await names(prefix="a/") == ["a/1", "a/2"]
        assert await names(startOffset="b") == ["b", "c", "ä"]
        assert await names(prefix="none") == []
        folders = (await wire.listing(delimiter="/")).document
        assert folders["prefixes"] == ["a/"]
        assert [item["name"] for item in folders["items"]] == ["a", "b", "c", "ä"]

    async def test_list_pages(self, gcs: StrictGcs, wire: Wire) -> None:
        for name in ("a", "b/1", "b/2", "b/3", "c", "d"):
            gcs.put("b", name, b"")
        seen: list[str] = []
        query: dict[str, Any] = {"maxResults": 1, "delimiter": "/"}
        while True:
            page = (await wire.listing(**query)).document
            seen += page.get("prefixes", []) + [item["name"] for item in page.get("items", [])]
            if "nextPageToken" not in page:
                break
            query["pageToken"] = page["nextPageToken"]
        assert seen == ["a", "b/", "c", "d"]


class TestPreconditionsOfWrites:
    async def test_generation_match(self, gcs: StrictGcs, wire: Wire) -> None:
        first = (await wire.upload("x", b"1", ifGenerationMatch=0)).document["generation"]
        refused = await wire.upload("x", b"2", ifGenerationMatch=0)
        assert (refused.status, refused.reason) == (412, "conditionNotMet")
        assert (await wire.start("x", ifGenerationMatch=0)).status == 412
        second = (await wire.upload("x", b"3", ifGenerationMatch=first)).document["generation"]
        assert int(second) > int(first)
        assert (await wire.upload("x", b"4", ifGenerationMatch=first)).status == 412
        assert (await wire.upload("absent", b"4", ifGenerationMatch=first)).status == 412
        assert [state.generation for state in gcs.history("b", "x")] == [int(first), int(second)]

    async def test_other_conditions(self, gcs: StrictGcs, wire: Wire) -> None:
        generation = gcs.put("b", "x", b"1").generation
        assert (await wire.upload("x", b"2", ifGenerationNotMatch=generation)).status == 412
        assert (await wire.upload("x", b"2", ifMetagenerationMatch=2)).status == 412
        assert (await wire.upload("absent", b"2", ifGenerationNotMatch=0)).status == 412
        assert (await wire.upload("x", b"2", ifGenerationNotMatch=0, ifMetagenerationMatch=1)).status == 200

    async def test_of_a_session_again_at_the_commit(self, gcs: StrictGcs, wire: Wire) -> None:
        session = await wire.session("x", ifGenerationMatch=0)
        theirs = gcs.put("b", "x", b"theirs")
        refused = await wire.chunk(session, "0-3/4", b"ours")
        assert (refused.status, refused.reason) == (412, "conditionNotMet")
        assert gcs.object("b", "x") == theirs
        assert (await wire.chunk(session, "*/4")).status == 412

    async def test_delete(self, gcs: StrictGcs, wire: Wire) -> None:
        generation = gcs.put("b", "x", b"1").generation
        assert (await wire.delete("x", ifGenerationMatch=generation - 1)).reason == "conditionNotMet"
        assert (await wire.delete("x", generation=generation - 1)).status == 404
        assert gcs.object("b", "x") is not None
        assert (await wire.delete("x", ifGenerationMatch=generation)).status == 204
        assert (await wire.delete("x")).status == 404
        assert gcs.history("b", "x")[-1] == ObservedState(0)

    async def test_holds(self, gcs: StrictGcs, wire: Wire) -> None:
        gcs.put("b", "x", b"1")
        gcs.hold("b", "x", "retentionPolicyNotMet")
        for refused in (await wire.delete("x"), await wire.upload("x", b"2")):
            assert (refused.status, refused.reason) == (403, "retentionPolicyNotMet")
        gcs.hold("b", "x")
        assert (await wire.delete("x")).reason == "objectUnderActiveHold"
        gcs.release("b", "x")
        assert (await wire.delete("x")).status == 204

    async def test_another_writer_has_rights_of_its_own(self, gcs: StrictGcs, wire: Wire) -> None:
        gcs.permissions = set()
        gcs.hold("b", "x")
        gcs.put("b", "x", b"1")
        gcs.put("b", "x", b"2")
        gcs.remove("b", "x")
        assert [state.size for state in gcs.history("b", "x")] == [1, 1, 0]
        assert (await wire.upload("x", b"3")).status == 403

    async def test_rate_limit(self, gcs: StrictGcs, wire: Wire) -> None:
        now = 100.0
        gcs.clock = lambda: now
        assert (await wire.upload("x", b"1")).status == 200
        assert (await wire.upload("x", b"2")).status == 200
        gcs.rate_limit_per_name = True
        assert (await wire.upload("x", b"3")).status == 200
        refused = await wire.upload("x", b"4")
        assert (refused.status, refused.reason) == (429, "rateLimitExceeded")
        assert (await wire.upload("y", b"4")).status == 200
        now = 101.0
        assert (await wire.upload("x", b"4")).status == 200


class TestHashes:
    async def test_multipart(self, gcs: StrictGcs, wire: Wire) -> None:
        good = {
            "crc32c": crc32c(b"data"),
            "md5Hash": base64.b64encode(hashlib.md5(b"data").digest()).decode(),
        }
        assert (await wire.upload("x", b"data", good)).status == 200
        assert (
            await wire.upload("x", b"data", headers={"X-Goog-Hash": f"crc32c={crc32c(b'data')}"})
        ).status == 200
        bad: list[tuple[dict[str, str], dict[str, str]]] = [
            ({"crc32c": WRONG}, {}),
            ({"md5Hash": base64.b64encode(bytes(16)).decode()}, {}),
            ({}, {"X-Goog-Hash": f"crc32c={WRONG}"}),
            ({}, {"X-Goog-Hash": f"crc32c={crc32c(b'data')},md5={base64.b64encode(bytes(16)).decode()}"}),
            ({"crc32c": "####"}, {}),
            ({}, {"X-Goog-Hash": "sha1=x"}),
        ]
        for metadata, headers in bad:
            refused = await wire.upload("y", b"data", metadata, headers)
            assert (refused.status, refused.reason) == (400, "invalid")
        assert gcs.history("b", "y") == ()

    async def test_message(self, wire: Wire) -> None:
        message = (await wire.upload("x", b"data", {"crc32c": WRONG})).document["error"]["message"]
        assert message == f'Provided CRC32C "{WRONG}" doesn\'t match calculated CRC32C "{crc32c(b"data")}".'

    async def test_media(self, gcs: StrictGcs, wire: Wire) -> None:
        path = wire.upload_path(uploadType="media", name="x")
        assert (await wire.send("POST", path, b"data", {"X-Goog-Hash": f"crc32c={WRONG}"})).status == 400
        assert gcs.object("b", "x") is None
        assert (
            await wire.send("POST", path, b"data", {"X-Goog-Hash": f"crc32c={crc32c(b'data')}"})
        ).status == 200

    async def test_last_request_of_a_session(self, gcs: StrictGcs, wire: Wire) -> None:
        data = bytes(QUANTUM) + b"tail"
        for hashes, status in ((f"crc32c={crc32c(data)}", 200), (f"crc32c={WRONG}", 400)):
            session = await wire.session(f"x{status}")
            assert (await wire.chunk(session, f"0-{QUANTUM - 1}/{len(data)}", data[:QUANTUM])).status == 308
            last = await wire.chunk(session, f"{QUANTUM}-{len(data) - 1}/{len(data)}", b"tail", hashes=hashes)
            assert last.status == status
        assert gcs.history("b", "x400") == ()
        assert (await wire.chunk(session, f"*/{len(data)}")).status == 410
        assert (await wire.chunk(session, f"0-{len(data) - 1}/{len(data)}", data)).status == 410
        assert list(gcs.objects("b")) == ["x200"]

    async def test_metadata_of_a_session(self, gcs: StrictGcs, wire: Wire) -> None:
        session = await wire.session("x", {"crc32c": WRONG})
        assert (await wire.chunk(session, "0-3/4", b"data")).status == 400
        assert gcs.object("b", "x") is None
        session = await wire.session("x", {"crc32c": crc32c(b"data")})
        assert (await wire.chunk(session, "0-3/4", b"data")).status == 200


GOOD = multipart({"name": "x"}, b"data")


class TestMultipart:
    @pytest.mark.parametrize("boundary", [BOUNDARY, f'"{BOUNDARY}"', f"{BOUNDARY}; charset=x"])
    async def test_good(self, gcs: StrictGcs, wire: Wire, boundary: str) -> None:
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        assert (
            await wire.send("POST", wire.upload_path(uploadType="multipart"), GOOD, headers)
        ).status == 200
        stored = gcs.object("b", "x")
        assert stored is not None
        assert stored.data == b"data"

    @pytest.mark.parametrize(
        "data", [b"", b"\r\n", b"\r\n--", b"x--the_boundary--", b"\r\n\r\n", bytes(range(256))]
    )
    async def test_media_is_taken_exactly(self, gcs: StrictGcs, wire: Wire, data: bytes) -> None:
        assert (await wire.upload("x", data)).status == 200
        stored = gcs.object("b", "x")
        assert stored is not None
        assert stored.data == data

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/related", GOOD),
            (f"multipart/form-data; boundary={BOUNDARY}", GOOD),
            ("multipart/related; boundary=other", GOOD),
            (None, GOOD.replace(b"\r\n", b"\n")),
            (None, b"preamble\r\n" + GOOD),
            (None, GOOD.removesuffix(b"--\r\n") + b"\r\n"),
            (None, GOOD + b"epilogue"),
            (None, GOOD[: len(GOOD) // 2]),
            (None, GOOD.replace(b"application/json", b"text/plain")),
            (None, GOOD.replace(b'{"name": "x"}', b'{"name": ')),
            (None, GOOD.replace(b"data", b"data\r\n--the_boundary\r\nContent-Type: a/b\r\n\r\nmore")),
            (None, b""),
        ],
    )
    async def test_malformed(self, gcs: StrictGcs, wire: Wire, content_type: str | None, body: bytes) -> None:
        headers = {"Content-Type": content_type or f"multipart/related; boundary={BOUNDARY}"}
        assert (
            await wire.send("POST", wire.upload_path(uploadType="multipart"), body, headers)
        ).status == 400
        assert gcs.objects("b") == {}

    async def test_upload_type(self, wire: Wire) -> None:
        assert (await wire.send("POST", wire.upload_path(uploadType="other", name="x"), b"1")).status == 404


class TestResumable:
    async def test_in_chunks(self, gcs: StrictGcs, wire: Wire) -> None:
        data = bytes(range(256)) * 1024 * 3 + b"tail"
        session = await wire.session("x", {"metadata": {"k": "v"}})
        empty = await wire.chunk(session, f"*/{len(data)}")
        assert (empty.status, empty.headers.get("Range")) == (308, None)
        first = await wire.chunk(session, f"0-{QUANTUM - 1}/*", data[:QUANTUM])
        assert (first.status, first.headers["Range"]) == (308, f"bytes=0-{QUANTUM - 1}")
        second = await wire.chunk(
            session, f"{QUANTUM}-{3 * QUANTUM - 1}/{len(data)}", data[QUANTUM : 3 * QUANTUM]
        )
        assert (second.status, second.headers["Range"]) == (308, f"bytes=0-{3 * QUANTUM - 1}")
        asked = await wire.chunk(session, "*/*")
        assert (asked.status, asked.headers["Range"]) == (308, f"bytes=0-{3 * QUANTUM - 1}")
        assert gcs.object("b", "x") is None
        assert list(gcs.open_sessions().values()) == [3 * QUANTUM]
        last = await wire.chunk(session, f"{3 * QUANTUM}-{len(data) - 1}/{len(data)}", b"tail")
        assert (last.status, last.document["crc32c"]) == (200, crc32c(data))
        stored = gcs.object("b", "x")
        assert stored is not None
        assert (stored.data, stored.metadata) == (data, {"k": "v"})
        assert len(gcs.history("b", "x")) == 1
        for again in (
            await wire.chunk(session, f"*/{len(data)}"),
            await wire.chunk(session, "*/*"),
            await wire.chunk(session, f"{3 * QUANTUM}-{len(data) - 1}/{len(data)}", b"tail"),
        ):
            assert (again.status, again.document["generation"]) == (200, str(stored.generation))
        assert len(gcs.history("b", "x")) == 1

    async def test_in_one_request(self, gcs: StrictGcs, wire: Wire) -> None:
        for name, content_range in (("a", None), ("b", "0-3/4"), ("c", "0-*/*"), ("d", "0-*/4")):
            assert (await wire.chunk(await wire.session(name), content_range, b"data")).status == 200
        assert {stored.data for stored in gcs.objects("b").values()} == {b"data"}

    async def test_chunked_transfer_encoding(self, gcs: StrictGcs, wire: Wire) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield bytes(QUANTUM)
            yield b"tail"

        size = QUANTUM + 4
        cases = [
            (f"0-{size - 1}/{size}", 200),
            (f"0-{size - 2}/{size - 1}", 400),  # the body goes on
            (f"0-{size}/{size + 1}", 400),  # the last one falls short
            (f"0-{2 * QUANTUM - 1}/*", 400),  # one that is not the last falls short
        ]
        for number, (content_range, status) in enumerate(cases):
            headers = {"Content-Range": f"bytes {content_range}"}
            reply = await wire.send("PUT", await wire.session(f"x{number}"), body(), headers)
            assert reply.status == status, content_range
        assert list(gcs.objects("b")) == ["x0"]

    async def test_a_body_longer_than_its_range_is_never_persisted(self, gcs: StrictGcs, wire: Wire) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield bytes(2 * QUANTUM)

        headers = {"Content-Range": f"bytes 0-{QUANTUM - 1}/{4 * QUANTUM}"}
        assert (await wire.send("PUT", await wire.session("x"), body(), headers)).status == 400
        assert max(gcs.open_sessions().values()) <= QUANTUM
        told = await wire.send("PUT", await wire.session("y"), bytes(2 * QUANTUM), headers)
        assert (told.status, gcs.requests[-1].bytes_in) == (400, 0)

    async def test_zero_bytes(self, gcs: StrictGcs, wire: Wire) -> None:
        for name, content_range in (("a", "*/0"), ("b", None)):
            done = await wire.chunk(await wire.session(name), content_range)
            assert (done.status, done.document["size"]) == (200, "0")

    async def test_all_bytes_held_and_the_size_said_finishes(self, gcs: StrictGcs, wire: Wire) -> None:
        session = await wire.session("x")
        await wire.chunk(session, f"0-{QUANTUM - 1}/*", bytes(QUANTUM))
        wrong = await wire.chunk(session, f"*/{QUANTUM + 1}")
        assert wrong.status == 308
        done = await wire.chunk(session, f"*/{QUANTUM}", hashes=f"crc32c={crc32c(bytes(QUANTUM))}")
        assert (done.status, done.document["size"]) == (200, str(QUANTUM))

    async def test_a_resent_chunk_counts_once(self, gcs: StrictGcs, wire: Wire) -> None:
        data = bytes(range(256)) * 1024 + b"t" * 256 * 1024 + b"tail"
        session = await wire.session("x")
        for _ in range(2):
            sent = await wire.chunk(session, f"0-{QUANTUM - 1}/{len(data)}", data[:QUANTUM])
            assert (sent.status, sent.headers["Range"]) == (308, f"bytes=0-{QUANTUM - 1}")
        done = await wire.chunk(session, f"0-{len(data) - 1}/{len(data)}", data)
        assert (done.status, done.document["crc32c"]) == (200, crc32c(data))

    async def test_refused_ranges(self, gcs: StrictGcs, wire: Wire) -> None:
        session = await wire.session("x")
        assert (await wire.chunk(session, f"0-{QUANTUM - 1}/{QUANTUM * 4}", bytes(QUANTUM))).status == 308
        cases: list[tuple[str, int, int]] = [
            (f"{2 * QUANTUM}-{3 * QUANTUM - 1}/{QUANTUM * 4}", QUANTUM, 503),  # beyond what is persisted
            (f"{QUANTUM}-{QUANTUM + 9}/{QUANTUM * 4}", 10, 400),  # not the last, not a multiple
            (f"{QUANTUM}-{2 * QUANTUM - 1}/{QUANTUM * 5}", QUANTUM, 400),  # another total than before
            (f"{QUANTUM}-{2 * QUANTUM - 1}/{QUANTUM * 4}", 10, 400),  # not what the body has
            (f"{QUANTUM}-{2 * QUANTUM - 1}/{QUANTUM * 4}", 2 * QUANTUM, 400),  # the same
            (f"{QUANTUM}-{4 * QUANTUM}/{QUANTUM * 4}", 10, 400),  # beyond the total
            ("5-4/10", 1, 400),
            ("0-a/10", 1, 400),
            (f"*/{QUANTUM * 4}", 1, 400),  # a query with a body
        ]
        for content_range, length, status in cases:
            reply = await wire.chunk(session, content_range, bytes(length))
            assert reply.status == status, content_range
            assert list(gcs.open_sessions().values()) == [QUANTUM], content_range
        assert gcs.history("b", "x") == ()

    async def test_declared_length(self, wire: Wire) -> None:
        path = wire.upload_path(uploadType="resumable", name="x")
        started = await wire.send("POST", path, b"", {"X-Upload-Content-Length": "4"})
        assert (await wire.chunk(started.headers["Location"], "0-4/5", b"12345")).status == 400
        assert (await wire.chunk(started.headers["Location"], "0-3/4", b"1234")).status == 200

    async def test_cancel(self, gcs: StrictGcs, wire: Wire) -> None:
        session = await wire.session("x")
        assert (await wire.send("DELETE", session)).status == 499
        assert (await wire.chunk(session, "*/4")).status == 499
        assert (await wire.chunk(session, "0-3/4", b"data")).status == 499
        assert gcs.open_sessions() == {}
        assert gcs.object("b", "x") is None

    async def test_unknown_and_expired_sessions(self, gcs: StrictGcs, wire: Wire) -> None:
        unknown = wire.upload_path(uploadType="resumable", upload_id="nobody")
        assert (await wire.chunk(unknown, "*/*")).status == 404
        assert (await wire.chunk(unknown, "0-3/4", b"data")).status == 404
        session = await wire.session("x")
        assert gcs.expire_sessions() == 1
        assert (await wire.chunk(session, "*/*")).status == 410


class TestCompose:
    async def compose(self, wire: Wire, sources: list[dict[str, Any]], **query: object) -> Any:
        path = wire.path("all").replace("/o/all", "/o/all/compose")
        body = json.dumps({"sourceObjects": sources, "destination": {"contentType": "a/b"}}).encode()
        return await wire.send("POST", path + "?" + "&".join(f"{k}={v}" for k, v in query.items()), body)

    async def test_concatenates(self, gcs: StrictGcs, wire: Wire) -> None:
        one, two = gcs.put("b", "1", b"one"), gcs.put("b", "2", b"two")
        sources: list[dict[str, Any]] = [
            {"name": "1", "objectPreconditions": {"ifGenerationMatch": str(one.generation)}},
            {"name": "2", "generation": str(two.generation)},
        ]
        done = await self.compose(wire, sources, ifGenerationMatch=0)
        assert (done.status, done.document["crc32c"]) == (200, crc32c(b"onetwo"))
        assert done.document["componentCount"] == 2
        assert "md5Hash" not in done.document
        assert done.document["contentType"] == "a/b"
        refused = await self.compose(wire, sources, ifGenerationMatch=0)
        assert (refused.status, refused.reason) == (412, "conditionNotMet")
        again = await self.compose(wire, [{"name": "all"}, {"name": "1"}])
        assert (again.document["size"], again.document["componentCount"]) == ("9", 3)

    async def test_sources(self, gcs: StrictGcs, wire: Wire) -> None:
        one = gcs.put("b", "1", b"1")
        stale = {"name": "1", "objectPreconditions": {"ifGenerationMatch": str(one.generation - 1)}}
        assert (await self.compose(wire, [stale])).status == 412
        assert (await self.compose(wire, [{"name": "absent"}])).status == 404
        assert (await self.compose(wire, [])).status == 400
        assert (await self.compose(wire, [{"name": "1"}] * 33)).status == 400
        assert gcs.history("b", "all") == ()
        assert (await self.compose(wire, [{"name": "1"}] * 32)).status == 200


async def test_requests_are_on_record(gcs: StrictGcs, wire: Wire) -> None:
    await wire.upload("a/b", b"data", ifGenerationMatch=0)
    await wire.stat("a/b")
    await wire.stat("absent")
    assert [(r.operation, r.name, r.status) for r in gcs.requests] == [
        ("multipart", "a/b", 200),
        ("stat", "a/b", 200),
        ("stat", "absent", 404),
    ]
    upload = gcs.requests[0]
    assert (upload.query["ifGenerationMatch"], upload.bucket, upload.method) == ("0", "b", "POST")
    assert upload.bytes_in == int(upload.headers["Content-Length"])
    assert gcs.requests[1].raw_path == "/storage/v1/b/b/o/a%2Fb"
    assert (gcs.count("stat"), gcs.count("delete"), gcs.count()) == (2, 0, 3)
    gcs.clear_requests()
    assert (gcs.requests, gcs.count()) == ([], 0)


async def test_discard() -> None:
    async with StrictGcs(discard=True, sha256=True) as gcs:
        gcs.create_bucket("b")
        wire = Wire(gcs.url)
        done = await wire.chunk(await wire.session("x"), "0-3/4", b"data", hashes=f"crc32c={crc32c(b'data')}")
        assert done.document["doubleSha256"] == hashlib.sha256(b"data").hexdigest()
        assert (done.document["crc32c"], "md5Hash" in done.document) == (crc32c(b"data"), False)
        assert (await wire.upload("y", b"data", {"crc32c": WRONG})).status == 400
        assert (await wire.send("GET", wire.path("x", alt="media"))).status == 501
        stored = gcs.object("b", "x")
        assert stored is not None
        with pytest.raises(LookupError):
            _ = stored.data
        await wire.close()


def serve_clients_that_do_not_read() -> None:
    with contextlib.ExitStack() as clients, StrictGcsThread() as gcs:
        gcs.create_bucket("b")
        gcs.put("b", "big", bytes(16 << 20))
        address = ("127.0.0.1", int(gcs.url.rpartition(":")[2]))
        for number in range(20):
            client = clients.enter_context(socket.create_connection(address))
            if number % 2:
                client.sendall(b"GET /storage/v1/b/b/o/big?alt=media HTTP/1.1\r\nHost: gcs\r\n\r\n")
        eventually(lambda: gcs.count("download") == 10, "half of them get something")


def test_nothing_is_left_of_clients_that_did_not_read_their_answers() -> None:
    """What is left would be a warning of the garbage collector, in whichever test is run by then."""
    serve_clients_that_do_not_read()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(warning.message) for warning in told if "transport" in str(warning.message)] == []


class TestOfficialClient:
    """google-cloud-storage accepts the protocol; it runs in this thread, the double in its own."""

    def test_round_trip(self) -> None:
        with StrictGcsThread() as gcs:
            client = Client("p", AnonymousCredentials(), client_options={"api_endpoint": gcs.url})
            bucket = client.create_bucket("bucket")
            data = bytes(range(256)) * 4 * 1024 + b"tail"

            small = bucket.blob("dir/smäll +?#")
            small.metadata = {"k": "v"}
            small.upload_from_string(
                b"small", content_type="text/css", if_generation_match=0, checksum="crc32c"
            )
            with pytest.raises(api_exceptions.PreconditionFailed):
                small.upload_from_string(b"small", content_type="text/css", if_generation_match=0)
            seen = bucket.get_blob("dir/smäll +?#")
            assert (seen.content_type, seen.metadata, seen.size) == ("text/css", {"k": "v"}, 5)

            large = bucket.blob("large", chunk_size=QUANTUM)
            with large.open("wb", if_generation_match=0) as stream:
                stream.write(data)
            assert gcs.count("resumable_put") == 5
            assert bucket.blob("large").download_as_bytes() == data
            assert bucket.blob("large").download_as_bytes(start=3, end=5) == data[3:6]
            assert not bucket.blob("absent").exists()
            assert {blob.name for blob in client.list_blobs("bucket", page_size=1)} == {
                "dir/smäll +?#",
                "large",
            }

            bucket.blob("all").compose([seen, bucket.blob("large")], if_generation_match=0)
            assert bucket.get_blob("all").component_count == 2
            with pytest.raises(api_exceptions.PreconditionFailed):
                bucket.delete_blob("all", if_generation_match=1)
            bucket.delete_blob("all")
            with pytest.raises(api_exceptions.NotFound):
                bucket.delete_blob("all")
            seen.metadata = {"k": "w"}
            seen.patch(if_metageneration_match=1)
            stored = gcs.object("bucket", "dir/smäll +?#")
            assert stored is not None
            assert stored.metadata == {"k": "w"}
            assert bucket.test_iam_permissions(["storage.objects.get"]) == ["storage.objects.get"]
            client.close()


def test_as_a_process() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.doubles.strict_gcs", "--bucket", "bench", "--discard", "--sha256"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            upload = f"{url}/upload/storage/v1/b/bench/o?uploadType=media&name=x"
            with urllib.request.urlopen(urllib.request.Request(upload, b"data", method="POST")) as response:
                document = json.load(response)
            assert document["doubleSha256"] == hashlib.sha256(b"data").hexdigest()
        finally:
            process.terminate()
