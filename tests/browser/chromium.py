"""How the provisioned Chromium is started: with nothing but what it was provisioned with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from tests.emulators.provision import provisioned_folder

_FONTS: Final = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{folder}/fonts</dir><cachedir>{cache}</cachedir></fontconfig>"""


def chromium_options(scratch: Path) -> dict[str, Any]:
    """What Playwright's `launch` is to be called with. Raises RuntimeError when the browser is not provisioned."""
    folder = provisioned_folder("chromium")
    fonts = scratch / "fonts.conf"
    fonts.write_text(_FONTS.format(folder=folder, cache=scratch), encoding="utf-8")
    return {
        "executable_path": folder / "chromium",
        # The tests may run as root, for whom it has no sandbox; it shows nothing but the tests' own pages.
        "args": ["--headless=shell", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        "env": {
            "HOME": str(scratch),
            "PATH": os.environ.get("PATH", os.defpath),
            "LD_LIBRARY_PATH": str(folder / "lib"),
            "FONTCONFIG_FILE": str(fonts),
        },
    }
