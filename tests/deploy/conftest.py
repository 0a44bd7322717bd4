"""What the tests of the image share: one image, as its steps take their time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image_root import Image, build


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    # Not among pytest's folders, which it keeps for three runs: an image has 400 MB.
    with tempfile.TemporaryDirectory(prefix="replicator-image-") as folder:
        yield build(Path(folder))
