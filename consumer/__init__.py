"""Cross-Cloud Replicator: every S3 object that an event names, proved and visible in Google Cloud Storage."""

from __future__ import annotations

__version__ = "0.1.0"
