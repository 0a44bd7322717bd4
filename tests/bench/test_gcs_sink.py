"""The sink refuses what Google Cloud Storage refuses, shows nothing before that, and counts every request once."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import google_crc32c
import httpx
import pytest

from bench import crc32c, processes
from bench.clouds import DESTINATION
from bench.gcs_sink import Sink
from bench.http_server import Reply, Request

BODY = b"some bytes"
RIGHT = crc32c.encode(int(google_crc32c.value(BODY)))
WRONG = crc32c.encode(1)
KIB_256 = 256 * 1024


class Client:
    """Asks the sink without a wire between."""

    def __init__(self) -> None:
        self.sink = Sink("b")

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        **headers: str,
    ) -> Reply:
        told = {name.replace("_", "-"): value for name, value in {"host": "h", **headers}.items()}
        receiver = self.sink.receive(Request(method, path, dict(query or {}), told))
        for start in range(0, len(body), 100_000):
            receiver.feed(body[start : start + 100_000])
        return receiver.end()

    def multipart(self, resource: Mapping[str, Any], body: bytes = BODY, **query: str) -> Reply:
        raw = b"--xx\r\nContent-Type: application/json\r\n\r\n" + json.dumps(resource).encode()
        raw += b"\r\n--xx\r\nContent-Type: text/plain\r\n\r\n" + body + b"\r\n--xx--\r\n"
        return self.ask(
            "POST",
            "/upload/storage/v1/b/b/o",
            {"uploadType": "multipart", **query},
            raw,
            content_type='multipart/related; boundary="xx"',
        )

    def session(self, resource: Mapping[str, Any], **query: str) -> str:
        """The upload id of a new session."""
        reply = self.ask(
            "POST",
            "/upload/storage/v1/b/b/o",
            {"uploadType": "resumable", **query},
            json.dumps(resource).encode(),
        )
        assert reply.status == 200
        return reply.headers["Location"].rpartition("upload_id=")[2]

    def put(self, upload_id: str, told: str, body: bytes = b"", **headers: str) -> Reply:
        query = {"uploadType": "resumable", "upload_id": upload_id}
        return self.ask("PUT", "/upload/storage/v1/b/b/o", query, body, content_range=told, **headers)


@pytest.fixture
def client() -> Client:
    return Client()


class TestOneRequest:
    def test_what_is_right_is_shown_with_its_size_and_crc32c(self, client: Client) -> None:
        md5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
        reply = client.multipart({"name": "a/ü", "crc32c": RIGHT, "md5Hash": md5, "metadata": {"k": "v"}})
        told = json.loads(reply.body)
        assert (reply.status, told["size"], told["crc32c"]) == (200, "10", RIGHT)
        stat = client.ask("GET", "/storage/v1/b/b/o/a%2F%C3%BC")
        assert json.loads(stat.body) == told
        assert client.sink.counts == {"create": 1, "stat": 1}

    @pytest.mark.parametrize("declared", [{"crc32c": WRONG}, {"md5Hash": "AAAAAAAAAAAAAAAAAAAAAA=="}])
    def test_a_wrong_hash_in_the_metadata_is_refused_and_nothing_is_shown(
        self, client: Client, declared: dict[str, str]
    ) -> None:
        assert client.multipart({"name": "a", **declared}).status == 400
        assert client.sink.objects == {}
        assert client.sink.counts == {"create": 1}

    def test_a_body_that_lost_a_byte_is_refused(self, client: Client) -> None:
        assert client.multipart({"name": "a", "crc32c": RIGHT}, BODY[:-1]).status == 400

    def test_a_body_that_holds_the_boundary_is_kept_whole(self, client: Client) -> None:
        body = b"1\r\n--xx\r\n\r\n2\r\n--x"
        assert client.multipart({"name": "a"}, body).status == 200
        assert client.sink.objects["a"].size == len(body)

    def test_generation_0_means_absent(self, client: Client) -> None:
        assert client.multipart({"name": "a"}, ifGenerationMatch="0").status == 200
        first = client.sink.objects["a"]
        assert client.multipart({"name": "a"}, b"other", ifGenerationMatch="0").status == 412
        assert client.sink.objects["a"] is first
        assert (
            client.multipart({"name": "a"}, b"other", ifGenerationMatch=str(first.generation)).status == 200
        )
        assert client.multipart({"name": "a"}, ifGenerationMatch=str(first.generation)).status == 412

    def test_another_bucket_is_not_there(self, client: Client) -> None:
        assert client.ask("GET", "/storage/v1/b/other/o/a").status == 404


class TestSession:
    BODY = bytes(range(256)) * 2048  # 512 KiB
    HASH = "crc32c=" + crc32c.encode(int(google_crc32c.value(BODY)))
    SIZE = len(BODY)

    def head(self, client: Client, **query: str) -> str:
        upload_id = client.session({"name": "a"}, **query)
        reply = client.put(upload_id, f"bytes 0-{KIB_256 - 1}/{self.SIZE}", self.BODY[:KIB_256])
        assert (reply.status, reply.headers["Range"]) == (308, f"bytes=0-{KIB_256 - 1}")
        return upload_id

    def commit(self, client: Client, upload_id: str, start: int = KIB_256, **headers: str) -> Reply:
        told = f"bytes {start}-{self.SIZE - 1}/{self.SIZE}"
        return client.put(upload_id, told, self.BODY[start:], **headers)

    def test_nothing_is_shown_before_the_commit(self, client: Client) -> None:
        upload_id = self.head(client)
        assert client.sink.objects == {}
        assert self.commit(client, upload_id, x_goog_hash=self.HASH).status == 200
        assert client.sink.objects["a"].size == self.SIZE
        assert client.sink.counts == {"session start": 1, "session part": 1, "session commit": 1}

    def test_a_wrong_hash_at_the_commit_is_refused_for_good(self, client: Client) -> None:
        upload_id = self.head(client)
        assert self.commit(client, upload_id, x_goog_hash=f"crc32c={WRONG}").status == 400
        assert client.sink.objects == {}
        assert self.commit(client, upload_id, x_goog_hash=self.HASH).status == 410

    def test_bytes_that_come_twice_count_once(self, client: Client) -> None:
        upload_id = self.head(client)
        assert self.commit(client, upload_id, start=1000, x_goog_hash=self.HASH).status == 200

    def test_a_gap_is_refused(self, client: Client) -> None:
        upload_id = self.head(client)
        assert self.commit(client, upload_id, start=KIB_256 + 1).status == 400
        assert client.sink.objects == {}

    def test_fewer_bytes_than_told_are_refused(self, client: Client) -> None:
        upload_id = self.head(client)
        told = f"bytes {KIB_256}-{self.SIZE - 1}/{self.SIZE}"
        assert client.put(upload_id, told, self.BODY[KIB_256:-1]).status == 400
        assert client.sink.objects == {}

    def test_a_part_ends_at_a_multiple_of_256_kib(self, client: Client) -> None:
        upload_id = client.session({"name": "a"})
        assert client.put(upload_id, "bytes 0-99/1000", b"x" * 100).status == 400

    def test_a_question_tells_how_far_it_got(self, client: Client) -> None:
        upload_id = client.session({"name": "a"})
        reply = client.put(upload_id, f"bytes */{self.SIZE}")
        assert (reply.status, reply.headers) == (308, {})
        upload_id = self.head(client)
        assert client.put(upload_id, "bytes */*").headers == {"Range": f"bytes=0-{KIB_256 - 1}"}
        assert client.sink.counts["session query"] == 2

    def test_clients_that_know_no_308_are_told_in_a_header(self, client: Client) -> None:
        upload_id = client.session({"name": "a"})
        reply = client.put(
            upload_id, f"bytes 0-{KIB_256 - 1}/*", self.BODY[:KIB_256], x_guploader_no_308="yes"
        )
        assert (reply.status, reply.headers["X-Http-Status-Code-Override"]) == (200, "308")

    def test_the_precondition_is_looked_at_again_at_the_commit(self, client: Client) -> None:
        upload_id = self.head(client, ifGenerationMatch="0")
        client.multipart({"name": "a"})
        assert self.commit(client, upload_id).status == 412
        assert client.sink.objects["a"].size == len(BODY)

    def test_a_cancelled_session_is_gone(self, client: Client) -> None:
        upload_id = self.head(client)
        query = {"upload_id": upload_id}
        assert client.ask("DELETE", "/upload/storage/v1/b/b/o", query).status == 499
        assert self.commit(client, upload_id).status == 410


class TestObjects:
    def test_a_composed_object_has_the_crc32c_of_the_whole(self, client: Client) -> None:
        for name, body in (("1", b"some "), ("2", b"bytes")):
            client.multipart({"name": name}, body)
        document = {"sourceObjects": [{"name": "1"}, {"name": "2"}], "destination": {"crc32c": RIGHT}}
        compose = "/storage/v1/b/b/o/a%2Fb/compose"
        reply = client.ask("POST", compose, {"ifGenerationMatch": "0"}, json.dumps(document).encode())
        assert (reply.status, json.loads(reply.body)["crc32c"]) == (200, RIGHT)
        assert client.sink.objects["a/b"].size == len(BODY)
        document["destination"] = {"crc32c": WRONG}
        assert client.ask("POST", compose, body=json.dumps(document).encode()).status == 400

    def test_compose_looks_at_the_generations_of_its_sources_and_takes_32_at_most(
        self, client: Client
    ) -> None:
        client.multipart({"name": "1"})
        wrong = {"sourceObjects": [{"name": "1", "objectPreconditions": {"ifGenerationMatch": 1}}]}
        assert client.ask("POST", "/b/b/o/a/compose", body=json.dumps(wrong).encode()).status == 412
        many = {"sourceObjects": [{"name": "1"}] * 33}
        assert client.ask("POST", "/b/b/o/a/compose", body=json.dumps(many).encode()).status == 400

    def test_deletes_look_at_the_generation(self, client: Client) -> None:
        client.multipart({"name": "a"})
        generation = client.sink.objects["a"].generation
        where = "/storage/v1/b/b/o/a"
        assert client.ask("DELETE", where, {"ifGenerationMatch": str(generation + 1)}).status == 412
        assert client.ask("DELETE", where, {"ifGenerationMatch": str(generation)}).status == 204
        assert client.ask("DELETE", where).status == 404

    def test_lists_by_prefix_and_delimiter(self, client: Client) -> None:
        for name in ("p/1", "p/q/2", "p/q/3", "other"):
            client.multipart({"name": name})
        reply = client.ask("GET", "/storage/v1/b/b/o", {"prefix": "p/", "delimiter": "/"})
        told = json.loads(reply.body)
        assert [one["name"] for one in told["items"]] == ["p/1"]
        assert told["prefixes"] == ["p/q/"]

    def test_what_the_bench_asks_is_not_counted(self, client: Client) -> None:
        client.multipart({"name": "a"})
        told = json.loads(client.ask("GET", "/bench/state").body)
        assert (told["counts"], told["objects"]["a"][:2]) == (
            {"create": 1},
            [len(BODY), google_crc32c.value(BODY)],
        )
        client.ask("POST", "/bench/reset")
        assert (client.sink.objects, client.sink.counts) == ({}, {})


def test_the_process_checks_what_comes_over_the_wire() -> None:
    where = f"/upload/storage/v1/b/{DESTINATION}/o?uploadType=media&name="
    with processes.sink() as sink, httpx.Client(base_url=sink.url, trust_env=False) as client:
        pieces = iter([b"some ", b"bytes"])  # without a length: in chunks
        good = client.post(f"{where}a", content=pieces, headers={"x-goog-hash": f"crc32c={RIGHT}"})
        bad = client.post(f"{where}b", content=BODY, headers={"x-goog-hash": f"crc32c={WRONG}"})
        assert (good.status_code, bad.status_code) == (200, 400)
        assert {name: (one.size, one.crc32c) for name, one in sink.objects().items()} == {
            "a": (len(BODY), google_crc32c.value(BODY))
        }
        assert sink.counts() == {"create": 2}
        assert sink.visible_at("a") is not None
        assert sink.visible_at("b") is None


def test_a_delay_goes_before_each_request_but_not_before_those_of_the_bench() -> None:
    with processes.sink(delay_ms=50) as sink, httpx.Client(base_url=sink.url, trust_env=False) as client:
        client.get("/bench/state")
        answer = client.get(f"/storage/v1/b/{DESTINATION}/o/a")
        assert answer.status_code == 404
        assert answer.elapsed.total_seconds() >= 0.05
