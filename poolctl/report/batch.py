"""What the reports of many runs have in common: what to know before believing them, and how the runs ended."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.text import Text

from poolctl.api.results import Batch
from poolctl.report.screen import STYLES, Screen
from poolctl.safe_text import neutralize
from poolctl.units import format_count

_RANKS = ("CRITICAL", "WARNING", "INFO", "OK", "NO VERDICT")


def print_cautions(screen: Screen, batch: Batch) -> None:
    """What qualifies the numbers, right below the first line."""
    for caution in cautions_of(batch):
        screen.paragraph(Text("! ", style=STYLES["WARNING"]), caution)


def cautions_of(batch: Batch) -> list[str]:
    done, planned = format_count(len(batch.points)), format_count(batch.planned)
    cautions = []
    if batch.interrupted:
        cautions.append(f"INTERRUPTED after {done} of {planned} runs: those are told, and slow ones are missing first")
    for reason, count in Counter(batch.losses).items():
        cautions.append(f"INCOMPLETE: {_runs(count)} lost, {neutralize(reason, 300)}")
    failures = [point.outcome.failure for point in batch.points if point.outcome.failure]
    if failures:
        told = neutralize(failures[0], 300)
        cautions.append(f"{_runs(len(failures))} cut off, and told until then. The first: {told}")
    return cautions


def kernels_of(batch: Batch) -> str:
    """Which kernel made the runs, to follow "model runs": " (compiled kernel)"; "" where that is not known."""
    return f" ({' and '.join(batch.kernels)} kernel)" if batch.kernels else ""


def verdicts_of(batch: Batch) -> str:
    """How the runs ended, worst first: "12 x CRITICAL self-deadlock, 3 x OK"."""
    return ", ".join(f"{format_count(count)} x {verdict}" for verdict, count in ranked(batch).items()) or "no run"


def ranked(batch: Batch) -> Mapping[str, int]:
    """The verdicts with how often each was given, worst first, and then the most frequent first."""
    counts: Sequence[tuple[str, int]] = Counter(point.outcome.verdict for point in batch.points).most_common()
    return dict(sorted(counts, key=lambda item: _rank(item[0])))


def _rank(verdict: str) -> int:
    return next(rank for rank, word in enumerate(_RANKS) if verdict.startswith(word))


def _runs(count: int) -> str:
    return "1 run was" if count == 1 else f"{format_count(count)} runs were"
