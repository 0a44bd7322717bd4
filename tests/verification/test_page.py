"""docs/verification.md names a test for what it claims: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "verification.md"
NAMED = re.compile(r"`(test_\w+\.py)?(?:::(test_\w+))?`")


def test_every_test_that_the_page_names_is_there() -> None:
    file, found = "", 0
    for named_file, test in NAMED.findall(PAGE.read_text(encoding="utf-8")):
        if not named_file and not test:
            continue
        file = named_file or file  # "::test" alone stands for the file named last
        source = (HERE / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file}::{test}"
        found += 1
    assert found > 20
