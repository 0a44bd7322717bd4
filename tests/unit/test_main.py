"""What happens before the daemon's own code is there."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Stops the import of everything that `consumer run` is made of, and waits there for a signal.
PROGRAM = """
import sys

class Waits:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("consumer.") and name != "consumer.__main__":
            import signal
            print("importing", name, flush=True)
            while True:
                signal.pause()

sys.meta_path.insert(0, Waits())
sys.argv = ["consumer", "run"]
from consumer.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well_before_it_has_imported_anything(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "importing consumer.process\n"
        process.send_signal(number)
        assert process.wait(60) == 0
