"""structlog without Rich, which it imports for a console renderer of its own: half a second and 9 MiB for nothing."""

from __future__ import annotations

import sys

__all__ = ["structlog"]

_is_hidden = "rich" not in sys.modules
if _is_hidden:
    sys.modules["rich"] = None  # type: ignore[assignment]  # how Python spells "not importable"
try:
    import structlog
finally:
    if _is_hidden:
        del sys.modules["rich"]
