"""S3 Inventory as the listing of a bucket that is too big to list: its manifest, and the rows of its files. No network.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html and …/storage-inventory-location.html. Keys
are URL-encoded in CSV and plain in Parquet; the columns are those that the manifest's `fileSchema` names. Of all
versions of an object the latest counts, and nothing when that is a delete marker.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_plus

from consumer.errors import ConfigurationError, Kind, Reason, ReplicatorError
from consumer.listing import Entry

BATCH: Final = 1000
_FORMATS: Final = ("CSV", "Parquet")
_MD5: Final = re.compile(r"[0-9a-f]{32}")
# The names of columns as CSV has them, and as Parquet has.
_COLUMNS: Final = {
    "Bucket": "bucket",
    "Key": "key",
    "IsLatest": "is_latest",
    "IsDeleteMarker": "is_delete_marker",
    "Size": "size",
    "LastModifiedDate": "last_modified_date",
    "ETag": "e_tag",
}
_NEEDED: Final = ("Key", "Size", "LastModifiedDate", "ETag")


@dataclass(frozen=True, slots=True)
class InventoryFile:
    key: str
    size: int
    md5: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one inventory consists of. `columns` are CSV's, in order; `taken` is when it was begun, in seconds."""

    source_bucket: str
    format: str
    columns: Sequence[str]
    files: Sequence[InventoryFile]
    taken: int


def parse_manifest(uri: str, body: bytes) -> Manifest:
    """Raises ConfigurationError that says what cannot be used."""
    try:
        document = json.loads(body)
        source, kind, schema = document["sourceBucket"], document["fileFormat"], document["fileSchema"]
        files = [
            InventoryFile(str(one["key"]), int(one["size"]), str(one["MD5checksum"]).lower())
            for one in document["files"]
        ]
        taken = int(document.get("creationTimestamp", 0)) // 1000
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _problem(uri, "is no manifest of S3 Inventory: give the manifest.json of one day") from error
    if kind == "ORC":
        raise _problem(uri, "is of the format ORC, which is not read: let S3 write CSV or Parquet")
    if kind not in _FORMATS:
        raise _problem(uri, f"is of the format {kind!a}, and {' and '.join(_FORMATS)} are read")
    if any(not _MD5.fullmatch(one.md5) for one in files):
        raise _problem(uri, "names a file without its MD5")
    columns = _columns(str(schema), str(kind))
    lacking = [name for name in _NEEDED if name not in columns]
    if lacking:
        raise _problem(
            uri, f"has no column {', '.join(lacking)}: add the field to the inventory configuration"
        )
    return Manifest(str(source), str(kind), columns, files, taken)


def _columns(schema: str, kind: str) -> list[str]:
    if kind == "CSV":
        return [name.strip() for name in schema.split(",")]
    names = {name: told for told, name in _COLUMNS.items()}
    return [
        names.get(word, word) for word in re.findall(r"(\w+)\s*(?:\([^)]*(?:\([^)]*\))?[^)]*\))?\s*;", schema)
    ]


def rows(manifest: Manifest, path: Path, after: int) -> Iterator[Sequence[tuple[int, Entry]]]:
    """The latest objects of a file that lies here, with the numbers of their rows, from the row behind `after` on.

    Some at once; a batch may be empty. Raises ReplicatorError when the file is not what the manifest says.
    """
    try:
        yield from (_csv_rows if manifest.format == "CSV" else _parquet_rows)(manifest, path, after)
    except (OSError, EOFError, zlib.error, csv.Error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise ReplicatorError(
            Reason.REFUSED,
            f"a file of the inventory cannot be read: {type(error).__name__}: {error}",
            kind=Kind.PERMANENT,
        ) from error


def _csv_rows(manifest: Manifest, path: Path, after: int) -> Iterator[Sequence[tuple[int, Entry]]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        numbered = islice(enumerate(csv.reader(text), 1), after, None)
        while some := list(islice(numbered, BATCH)):
            batch = []
            for number, cells in some:
                told = dict(zip(manifest.columns, cells, strict=True))
                if _is_live(told.get("IsLatest", "true") != "false", told.get("IsDeleteMarker") == "true"):
                    batch.append((number, _entry(unquote_plus(told["Key"], errors="strict"), told)))
            yield batch or [(some[-1][0], _NOTHING)]


def _parquet_rows(manifest: Manifest, path: Path, after: int) -> Iterator[Sequence[tuple[int, Entry]]]:
    parquet = _parquet()
    wanted = [_COLUMNS[name] for name in manifest.columns if name in _COLUMNS and name != "Bucket"]
    names = {column: name for name, column in _COLUMNS.items()}
    number = 0
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            length = file.metadata.row_group(group).num_rows
            if number + length <= after:
                number += length
                continue
            for part in file.iter_batches(BATCH, row_groups=[group], columns=wanted):
                batch, last = [], number
                for row in part.to_pylist():
                    number += 1
                    if number <= after:
                        continue
                    told = {names[column]: value for column, value in row.items()}
                    last = number
                    if _is_live(told.get("IsLatest") is not False, told.get("IsDeleteMarker") is True):
                        batch.append((number, _entry(told["Key"], told)))
                if last > after:
                    yield batch or [(last, _NOTHING)]


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        lacking = "--inventory: is in Parquet, and what reads that is not installed"
        remedy = "install cross-cloud-replicator[inventory], or let S3 write CSV"
        raise ConfigurationError([f"{lacking}; {remedy}"]) from error
    return pyarrow.parquet


def check_readable(manifest: Manifest) -> None:
    """Raises ConfigurationError when what reads its format is not installed."""
    if manifest.format == "Parquet":
        _parquet()


_NOTHING: Final = Entry("", 0, "", 0)
"""Stands where a batch of rows has no object that counts."""


def _is_live(latest: bool, delete_marker: bool) -> bool:
    return latest and not delete_marker


def _entry(key: str, told: Mapping[str, Any]) -> Entry:
    return Entry(
        key, int(told["Size"] or 0), str(told["ETag"] or "").strip('"'), _moment(told["LastModifiedDate"])
    )


def _moment(told: str | datetime) -> int:
    moment = told if isinstance(told, datetime) else datetime.fromisoformat(told)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _problem(uri: str, what: str) -> ConfigurationError:
    return ConfigurationError([f"--inventory: {uri} {what}"])
