"""The generated source serves just the bytes whose checksum it tells."""

from __future__ import annotations

import os
from pathlib import Path

import google_crc32c
import httpx
import pytest

from bench import crc32c, processes
from bench.certificates import new_authority
from bench.clouds import SOURCE
from bench.generating import generated_objects
from bench.s3_generated import BLOCK, Generated, block

SIZE = 2 * BLOCK + 12345


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 1), (1000, 777), (65_536, 3)])
def test_combined_is_the_crc32c_of_both(sizes: tuple[int, int]) -> None:
    first, second = (os.urandom(size) for size in sizes)
    combined = crc32c.combine(int(google_crc32c.value(first)), int(google_crc32c.value(second)), len(second))
    assert combined == google_crc32c.value(first + second)


@pytest.mark.parametrize("size", [0, 1, 1000, 1001, 1002, 50_000])
def test_repeated_is_the_crc32c_of_what_is_repeated(size: int) -> None:
    unit = os.urandom(1001)
    assert crc32c.of_repeated(unit, size) == google_crc32c.value((unit * 60)[:size])


def test_all_bytes_fit_the_checksum_it_tells() -> None:
    objects, expected = generated_objects({"big": SIZE, "small": 10})
    with processes.generated() as source, httpx.Client(base_url=source.url, trust_env=False) as client:
        source.put(objects)
        answer = client.get(f"/{SOURCE}/big")
        assert expected["big"] == (len(answer.content), google_crc32c.value(answer.content))
        assert answer.headers["x-amz-checksum-crc32c"] == crc32c.encode(expected["big"][1])
        assert client.get(f"/{SOURCE}/small").content == block()[:10]
        assert client.get(f"/{SOURCE}/none").status_code == 404
        assert source.counts() == {"GET": 3}


def test_ranges_parts_and_conditions() -> None:
    content = (block() * 3)[:SIZE]
    generated = Generated(SIZE, {"ETag": '"e-3"'}, part_size=BLOCK)
    with processes.generated() as source, httpx.Client(base_url=source.url, trust_env=False) as client:
        source.put({f"{SOURCE}/o": generated})
        cut = client.get(f"/{SOURCE}/o", headers={"Range": f"bytes={BLOCK - 3}-{BLOCK + 5}"})
        assert (cut.status_code, cut.content) == (206, content[BLOCK - 3 : BLOCK + 6])
        assert cut.headers["Content-Range"] == f"bytes {BLOCK - 3}-{BLOCK + 5}/{SIZE}"
        rest = client.get(f"/{SOURCE}/o", headers={"Range": f"bytes={SIZE - 7}-"})
        assert rest.content == content[-7:]
        part = client.head(f"/{SOURCE}/o?partNumber=3")
        assert (part.headers["Content-Length"], part.headers["x-amz-mp-parts-count"]) == ("12345", "3")
        assert client.get(f"/{SOURCE}/o", headers={"If-Match": '"other"'}).status_code == 412


def test_tls_with_an_authority_that_only_its_clients_trust(tmp_path: Path) -> None:
    authority = new_authority(tmp_path)
    objects, expected = generated_objects({"o": 100_000})
    with processes.generated(authority=authority) as source:
        source.put(objects)
        with httpx.Client(verify=processes.trusting(authority.bundle), trust_env=False) as client:
            assert len(client.get(f"{source.url}/{SOURCE}/o").content) == expected["o"][0]
        with httpx.Client(trust_env=False) as client, pytest.raises(httpx.ConnectError):
            client.get(f"{source.url}/{SOURCE}/o")
