"""All faults of the table."""

from __future__ import annotations

from tests.faults.scenarios import gcs, s3, sqs

ROWS = (*s3.ROWS, *gcs.ROWS, *sqs.ROWS)
