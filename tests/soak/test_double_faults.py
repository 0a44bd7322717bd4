"""The strict double as a process that does wrong now and then."""

from __future__ import annotations

import httpx

from bench.clouds import DESTINATION, strict_double


def test_it_does_wrong_now_and_then_and_right_in_between() -> None:
    # As a client that never gives up: every fault passes.
    right = wrong = 0
    with (
        strict_double("--fault-seconds", "0.001", "--seed", "7") as url,
        httpx.Client(trust_env=False) as client,
    ):
        for _ in range(50_000):
            try:
                answer = client.post(
                    f"{url}/upload/storage/v1/b/{DESTINATION}/o",
                    params={"uploadType": "multipart"},
                    headers={"Content-Type": "multipart/related; boundary=b"},
                    content=b'--b\r\nContent-Type: application/json\r\n\r\n{"name": "x"}\r\n'
                    b"--b\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 5000 + b"\r\n--b--\r\n",
                )
            except httpx.TransportError:
                wrong += 1
                continue
            right += answer.status_code == 200
            wrong += answer.status_code in (429, 500, 503)
            if right > 20 and wrong > 5:
                break
    assert right > 20
    assert wrong > 5


def test_it_does_right_when_nobody_asked_for_faults() -> None:
    with strict_double() as url, httpx.Client(trust_env=False) as client:
        answers = [
            client.post(
                f"{url}/upload/storage/v1/b/{DESTINATION}/o",
                params={"uploadType": "media", "name": "x"},
                content=b"x",
            )
            for _ in range(50)
        ]
    assert {answer.status_code for answer in answers} == {200}
