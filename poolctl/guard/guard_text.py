"""The guard command's report as lines of text: verdict, findings, then where connections were held.

The command prints it beside the output of the program that it ran, so it has no boxes and no colors.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

from poolctl.diagnose.finding import Finding
from poolctl.guard.guard_report import HeldConnection, Line, ProcessReport
from poolctl.guard.text import actor_text, duration, hold_lines, pool_text, site_text, state_text
from poolctl.units import plural

MOST_HELD = 10
MOST_SITES = 5

_LABEL = re.compile(r"(?:Do|Next|acquired|state|by|pool) {2,}")


@dataclass(frozen=True, slots=True)
class GuardView:
    """What one report of the guard command is made of. ``unseen``: what the guard could not see, a sentence each."""

    reports: tuple[ProcessReport, ...]
    findings: tuple[Finding, ...]
    now: float
    alive: frozenset[int] = frozenset()
    unseen: tuple[str, ...] = ()


def report_lines(view: GuardView) -> Iterator[str]:
    """Write the whole report."""
    yield f"poolctl guard: {_verdict(view)}"
    advised: set[str] = set()
    for finding in view.findings:
        yield ""
        yield f"{finding.severity.upper()}  {finding.summary}"
        yield f"{finding.code} ({finding.layer}, {finding.confidence})"
        yield from (f"  {line}" for line in _details(finding, view))
        if finding.severity != "info" and finding.remedy not in advised:
            advised.add(finding.remedy)
            yield f"Do      {finding.remedy}"
        if finding.decide_by:
            yield f"Next    {finding.decide_by}"
    yield from _held_now(view)
    yield from _longest(view)
    for sentence in view.unseen:
        yield ""
        yield f"not seen: {sentence}"


def wrap_line(line: str, width: int) -> list[str]:
    """Break a line of the report between words, for a terminal of ``width`` columns. What follows is indented."""
    if len(line) <= width:
        return [line]
    words = line.lstrip(" ")
    margin = len(line) - len(words)
    label = _LABEL.match(words)
    return wrap(
        words,
        width,
        initial_indent=" " * margin,
        subsequent_indent=" " * (margin + (len(label[0]) if label is not None else 2)),
        # A path or a name stays whole, so that it can be copied from the terminal.
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verdict(view: GuardView) -> str:
    acquired = sum(pool.acquired for report in view.reports for pool in report.pools)
    using = [report for report in view.reports if any(pool.acquired for pool in report.pools)]
    worth = [finding for finding in view.findings if finding.severity != "info"]
    if not using:
        return "saw no connection"
    seen = f"{plural(acquired, 'acquire')} in {plural(len(using), 'process')}"
    if not worth:
        return f"nothing wrong in {seen}"
    return f"{plural(len(worth), 'finding')} in {seen}"


def _details(finding: Finding, view: GuardView) -> Iterator[str]:
    """Show the connection that stands for a leak, as the pytest plugin would."""
    if finding.code not in ("leak", "leak-in-transaction", "leak-or-long-hold"):
        return
    evidence = finding.evidence
    # Two callers of one wrapper are two findings: they differ by the caller, as in _leaks.
    places = [evidence["acquired_at"], *evidence["called_from"][:1]]
    for report in view.reports:
        for held in report.holds:
            is_of_it = held.library == evidence["library"] and [line.place for line in held.site[:2]] == places
            if held.acquired_at is not None and is_of_it:
                yield from hold_lines(held, after=f"{duration(view.now - held.acquired_at)} ago")
                return
    yield f"pool      {pool_text(evidence['library'], str(evidence['pool']), is_pool=True)}"
    yield "state     garbage-collected while it was out: its place in the pool is lost"
    if evidence.get("ending"):
        yield f"in the error path: {evidence['ending']}"


def _held_now(view: GuardView) -> Iterator[str]:
    holds = [(report, held) for report in view.reports if report.pid in view.alive for held in report.holds]
    if not holds:
        return
    groups: dict[tuple[tuple[Line, ...], bool], list[tuple[ProcessReport, HeldConnection]]] = defaultdict(list)
    for report, held in holds:
        groups[(held.site, held.acquired_at is None)].append((report, held))
    yield ""
    yield "held now"
    for (site, is_waiting), group in list(groups.items())[:MOST_HELD]:
        report, held = group[0]
        since = view.now - (held.asked_at if is_waiting else held.acquired_at or view.now)
        what = "waiting" if is_waiting else state_text(held.state, held.statement) or "held"
        who = actor_text(held)
        by = f"process {report.pid}" + (f", {who}" if who else "")
        yield f"  {len(group)} x {site_text(site)}   {what}, longest {duration(since)}   {by}"
    if len(groups) > MOST_HELD:
        yield f"  and at {plural(len(groups) - MOST_HELD, 'more place')}"


def _longest(view: GuardView) -> Iterator[str]:
    total: dict[tuple[Line, ...], list[float]] = {}
    for report in view.reports:
        for figures in report.sites:
            if figures.released:
                seen = total.setdefault(figures.site, [0, 0.0, 0.0, 0.0])
                seen[0] += figures.released
                seen[1] += figures.use_time
                seen[2] = max(seen[2], figures.longest)
                seen[3] += figures.wait_time
    if not total:
        return
    yield ""
    yield "longest holds"
    order: Sequence[tuple[tuple[Line, ...], list[float]]] = sorted(total.items(), key=lambda one: -one[1][2])
    for site, (count, use, longest, wait) in order[:MOST_SITES]:
        waited = f", waited {duration(wait / count)} on average" if wait / count > 0.01 else ""
        yield (
            f"  {duration(longest)}   {site_text(site)}   {plural(int(count), 'hold')}, "
            f"{duration(use / count)} on average{waited}"
        )
