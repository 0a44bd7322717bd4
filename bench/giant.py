"""One giant object, over one stream and over several: time, CPU of the program's own process, and peak RSS.

    python -m bench.giant --gib 2 --throttle 64 --streams 1 8

The source gives each connection no more than `--throttle` MiB/s (0: as fast as it can), as S3 does; the destination is
the strict double of the tests, which checks CRC32C and keeps no bytes. Both are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Final

import google_crc32c
from aiohttp import web

MIB: Final = 1024 * 1024
BLOCK: Final = bytes(range(256)) * (4 * MIB // 256)
PIECE: Final = 256 * 1024


class Source:
    """`ports` of S3 that a reader of one object needs: HEAD, GET, Range; every connection at its own limited pace."""

    def __init__(self, size: int, bytes_per_second: int) -> None:
        self._size = size
        self._pace = bytes_per_second
        crc = 0
        for start in range(0, size, len(BLOCK)):
            crc = google_crc32c.extend(crc, BLOCK[: min(len(BLOCK), size - start)])
        self._headers = {
            "ETag": '"opaque"',
            "Content-Type": "application/octet-stream",
            "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
            "x-amz-checksum-crc32c": base64.b64encode(crc.to_bytes(4, "big")).decode(),
            "x-amz-checksum-type": "FULL_OBJECT",
        }

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.count("/") < 2 or "probe" in request.path:
            code = "NoSuchKey" if request.path.count("/") > 1 else "NoSuchBucket"
            return web.Response(status=404, text=f"<Error><Code>{code}</Code></Error>")
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        first, last, status = 0, self._size - 1, 200
        headers = dict(self._headers)
        if span:
            status, first = 206, int(span[1])
            last = int(span[2]) if span[2] else last
            headers = {name: headers[name] for name in ("ETag", "Last-Modified", "Content-Type")}
            headers["Content-Range"] = f"bytes {first}-{last}/{self._size}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = last + 1 - first
        await response.prepare(request)
        if request.method == "GET":
            with suppress(ConnectionError):  # a reader that wants no more
                await self._send(response, first, last + 1)
        return response

    async def _send(self, response: web.StreamResponse, position: int, end: int) -> None:
        started, sent, view = time.monotonic(), 0, memoryview(BLOCK)
        while position < end:
            offset = position % len(BLOCK)
            piece = view[offset : offset + min(PIECE, end - position)]
            await response.write(bytes(piece))
            position += len(piece)
            sent += len(piece)
            if self._pace:
                ahead = sent / self._pace - (time.monotonic() - started)
                if ahead > 0.005:
                    await asyncio.sleep(ahead)


async def _serve(size: int, bytes_per_second: int) -> None:
    runner = web.ServerRunner(web.Server(Source(size, bytes_per_second).serve, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def started(stack: ExitStack, *arguments: str) -> str:
    """A child process that prints its URL; ended with the stack."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def one_run(source: str, gcs: str, streams: int, key: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds, and peak RSS in MiB of one `consumer replicate`."""
    env = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "S3_ENDPOINT_URL": source,
        "STORAGE_EMULATOR_HOST": gcs,
        "GCS_BUCKET_NAME": "replica",
        "PARALLEL_THRESHOLD_MIB": "32",
        "PARALLEL_STREAMS": str(streams),
        "PYTHONPATH": str(Path.cwd()),
    }
    command = Path(sys.executable).with_name("consumer")
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        process = subprocess.Popen(
            [str(command), "replicate", f"s3://bucket/{key}"], env=env | {"HOME": folder}, cwd=folder
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--throttle", type=int, default=64, help="MiB/s of each connection; 0: no limit")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size, pace = int(arguments.gib * 1024) * MIB, arguments.throttle * MIB
    if arguments.serve:
        asyncio.run(_serve(size, pace))
    with ExitStack() as stack:
        source = started(
            stack, "bench.giant", "--serve", f"--gib={arguments.gib}", f"--throttle={arguments.throttle}"
        )
        gcs = started(stack, "tests.doubles.strict_gcs", "--bucket", "replica", "--discard")
        # Interleaved, so that what else the machine does falls on all alike.
        runs: dict[int, list[tuple[float, float, float]]] = {streams: [] for streams in arguments.streams}
        for number in range(arguments.runs):
            for streams in arguments.streams:
                runs[streams].append(one_run(source, gcs, streams, f"giant-{number}-{streams}"))
    print(
        f"{arguments.gib} GiB, {arguments.throttle or 'no limit of'} MiB/s per connection, medians of {arguments.runs}"
    )
    for streams, measured in runs.items():
        seconds, cpu, rss = (median(values) for values in zip(*measured, strict=True))
        print(
            f"{streams:2} streams: {seconds:6.1f} s, {size / MIB / seconds:6.0f} MiB/s, "
            f"{cpu / arguments.gib:5.2f} CPU-s per GiB, {rss:5.0f} MiB RSS"
        )


if __name__ == "__main__":
    main()
