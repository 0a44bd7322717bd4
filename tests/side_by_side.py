"""How several processes share the files of tests (`-n`, pytest-xdist)."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


class WholeFiles(LoadFileScheduling):  # type: ignore[misc]  # ships no annotations
    """Whole files, and what ended a process is not begun again.

    pytest-xdist would hand the test that a process died of (which is how a time-out ends it here) to the next one, and
    to one more after that; and it would wait for ever for files that the dead one had finished.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """The test that the process died of, if it did not simply end; the rest of its work goes to the others."""
        begun = self.assigned_work[node]
        left = {scope: tests for scope, tests in begun.items() if not all(tests.values())}
        died_of: str | None = None
        if left:
            scope, tests = next(iter(left.items()))
            died_of = next(name for name, done in tests.items() if not done)
            tests[died_of] = True
            if all(tests.values()):
                del left[scope]
        self.assigned_work[node] = left
        super().remove_node(node)
        return died_of
