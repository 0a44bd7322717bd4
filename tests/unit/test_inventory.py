"""S3 Inventory: which manifests are taken, and which rows of which files count."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consumer.errors import ConfigurationError, ReplicatorError
from consumer.inventory import Manifest, parse_manifest, rows

URI = "s3://lists/one/daily/2026-11-01T01-00Z/manifest.json"
CSV = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
PARQUET = (
    "message s3.inventory {  required binary bucket (STRING);  required binary key (STRING);  "
    "optional binary version_id (STRING);  optional boolean is_latest;  optional boolean is_delete_marker;  "
    "optional int64 size;  optional int64 last_modified_date (TIMESTAMP(MILLIS,true));  "
    "optional binary e_tag (STRING);  optional binary storage_class (STRING);}"
)


def manifest(schema: str = CSV, kind: str = "CSV", **more: Any) -> bytes:
    files = [{"key": "one/data/1.csv.gz", "size": 1, "MD5checksum": "0" * 32}]
    document = {"sourceBucket": "one", "destinationBucket": "arn:aws:s3:::lists", "version": "2016-11-30"}
    document |= {"creationTimestamp": "1761955200000", "fileFormat": kind, "fileSchema": schema}
    return json.dumps({**document, "files": files, **more}).encode()


def read(found: Manifest, path: Path, after: int = 0) -> list[tuple[int, str]]:
    return [(row, entry.key) for batch in rows(found, path, after) for row, entry in batch if entry.key]


def csv_file(folder: Path, lines: list[list[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(lines)
    path = folder / "file.csv.gz"
    path.write_bytes(gzip.compress(text.getvalue().encode()))
    return path


def line(key: str, latest: str = "true", marker: str = "false", size: str = "3") -> list[str]:
    return ["one", key, "v1", latest, marker, size, "2026-11-01T00:00:00.500Z", "0" * 32, "STANDARD"]


class TestManifest:
    def test_what_it_tells(self) -> None:
        found = parse_manifest(URI, manifest())
        assert (found.source_bucket, found.format, found.taken) == ("one", "CSV", 1761955200)
        assert found.columns[:2] == ["Bucket", "Key"]
        assert [file.key for file in found.files] == ["one/data/1.csv.gz"]

    def test_parquet_has_its_columns_in_a_schema(self) -> None:
        found = parse_manifest(URI, manifest(PARQUET, "Parquet"))
        assert {"Key", "Size", "LastModifiedDate", "ETag", "IsLatest", "IsDeleteMarker"} <= set(found.columns)

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (manifest(kind="ORC"), "ORC, which is not read: let S3 write CSV or Parquet"),
            (manifest(kind="XML"), "is of the format 'XML'"),
            (manifest("Bucket, Key, Size"), "has no column LastModifiedDate, ETag"),
            (manifest(files=[{"key": "k", "size": 1, "MD5checksum": ""}]), "names a file without its MD5"),
            (b"{}", "is no manifest"),
            (b"[]", "is no manifest"),
            (b"\x00", "is no manifest"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, body: bytes, said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            parse_manifest(URI, body)


class TestRows:
    def test_the_latest_that_are_no_delete_markers(self, tmp_path: Path) -> None:
        path = csv_file(
            tmp_path,
            [
                line("a%20key+and%2Bmore%C3%B6"),
                line("old", latest="false"),
                line("deleted", marker="true", size=""),
                line("folder%2F", size="0"),
            ],
        )
        assert read(parse_manifest(URI, manifest()), path) == [(1, "a key and+moreö"), (4, "folder/")]

    def test_what_an_entry_tells(self, tmp_path: Path) -> None:
        ((_, entry),) = next(iter(rows(parse_manifest(URI, manifest()), csv_file(tmp_path, [line("k")]), 0)))
        at = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp())
        assert (entry.size, entry.revision, entry.modified, entry.metadata) == (3, "0" * 32, at, None)

    def test_it_goes_on_behind_a_row(self, tmp_path: Path) -> None:
        path = csv_file(tmp_path, [line(f"{number:04}") for number in range(2500)])
        found = parse_manifest(URI, manifest())
        assert read(found, path, 2400) == [(number + 1, f"{number:04}") for number in range(2400, 2500)]
        batches = list(rows(found, path, 0))
        assert [len(batch) for batch in batches] == [1000, 1000, 500]
        assert batches[-1][-1][0] == 2500

    def test_parquet_row_group_by_row_group(self, tmp_path: Path) -> None:
        count = 2500
        moment = datetime(2026, 11, 1, 0, 0, 0, 500_000, tzinfo=UTC)
        table = pa.table(
            {
                "bucket": ["one"] * count,
                "key": [f"a+b%20/{number:04}" for number in range(count)],
                "is_latest": [number != 7 for number in range(count)],
                "is_delete_marker": [number == 8 for number in range(count)],
                "size": [None if number == 8 else number for number in range(count)],
                "last_modified_date": pa.array([moment] * count, pa.timestamp("ms", "UTC")),
                "e_tag": [None if number == 8 else "0" * 32 for number in range(count)],
            }
        )
        path = tmp_path / "file.parquet"
        pq.write_table(table, path, row_group_size=600)
        found = parse_manifest(URI, manifest(PARQUET, "Parquet"))
        wanted = [(number + 1, f"a+b%20/{number:04}") for number in range(count) if number not in (7, 8)]
        assert read(found, path) == wanted
        assert read(found, path, 1234) == [row for row in wanted if row[0] > 1234]
        ((_, entry), *_) = next(iter(rows(found, path, 0)))
        assert entry.modified == int(moment.timestamp())

    @pytest.mark.parametrize("body", [b"not gzip", gzip.compress(mtime=0, data=b'"one","k"\n')])
    def test_a_file_that_is_none_is_no_empty_one(self, tmp_path: Path, body: bytes) -> None:
        path = tmp_path / "file"
        path.write_bytes(body)
        with pytest.raises(ReplicatorError, match="a file of the inventory cannot be read"):
            read(parse_manifest(URI, manifest()), path)
