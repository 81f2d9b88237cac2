"""One run of the guard command: the reports that came in, their findings, and the JSON document."""

import os
import time
from types import TracebackType
from typing import Any, Self

from poolctl.guard.collector import Collector
from poolctl.guard.guard_findings import find_leaks
from poolctl.guard.guard_text import GuardView
from poolctl.units import plural


class GuardSession:
    """Listens while it is entered. ``threshold``: seconds of a hold that is called an apparent leak."""

    def __init__(self, *, threshold: float) -> None:
        self._threshold = threshold
        self._collector = Collector(threshold=threshold)
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        self._collector.__enter__()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._collector.__exit__(*error)

    def environment(self) -> dict[str, str]:
        """Return the environment of the command, through which the guard follows it and its children."""
        return self._collector.environment()

    def settle(self) -> None:
        """Wait until the last reports have come in."""
        self._collector.settle()

    def view(self, *, is_over: bool = False) -> GuardView:
        """Take what is known now. ``is_over``: the command has ended, whatever processes it left behind."""
        reports = tuple(sorted(self._collector.copy_reports(), key=lambda report: report.pid))
        now = time.monotonic()
        alive = frozenset(report.pid for report in reports if not report.ended and _is_alive(report.pid))
        return GuardView(
            reports,
            find_leaks(reports, now=now, threshold=self._threshold, alive=alive),
            now,
            alive,
            tuple(self._unseen(reports)),
        )

    def document(self, view: GuardView, *, exit_code: int) -> str:
        """Write the JSON document. ``exit_code`` is the command's."""
        from poolctl.guard.guard_document import guard_document

        return guard_document(view, exit_code=exit_code, elapsed=view.now - self._began, threshold=self._threshold)

    def _unseen(self, reports: Any) -> list[str]:
        collector = self._collector
        said = []
        if collector.old_pythons:
            versions = ", ".join(sorted(collector.old_pythons))
            said.append(f"programs on Python {versions}: the guard needs 3.11 or later")
        elif not collector.pythons:
            said.append(
                "no Python started under the guard: the command is another program, or Python ran with -S, -I or -E"
            )
        elif not any(report.libraries for report in reports):
            said.append(
                f"{plural(len(collector.pythons), 'Python process')} ran, and used none of the libraries that the "
                "guard knows"
            )
        killed = [report.pid for report in reports if not report.ended and not _is_alive(report.pid)]
        if killed:
            said.append(
                f"the last half second of {plural(len(killed), 'process')} that ended by a signal "
                f"({', '.join(map(str, killed[:5]))})"
            )
        said += sorted({complaint for report in reports for complaint in report.complaints})
        if collector.forgotten:
            said.append(f"{plural(collector.forgotten, 'process')} that held nothing at its end: too many to remember")
        if collector.unreadable:
            said.append(f"{plural(collector.unreadable, 'report')} that could not be read")
        return said


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
