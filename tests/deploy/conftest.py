"""What the tests of the image share: one image, as its steps take their time."""

from __future__ import annotations

import pytest

from tests.deploy.image_root import Image, build


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(tmp_path_factory.mktemp("image"))
