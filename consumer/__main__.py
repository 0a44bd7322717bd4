"""`python -m consumer` is the `consumer` command."""

from __future__ import annotations

from consumer.cli import main

if __name__ == "__main__":
    main()
