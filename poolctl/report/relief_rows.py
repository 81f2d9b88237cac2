"""A relief plan, and what came of it, in sentences and rows. Pure: no layout, no color.

Decides what a person reads before ending somebody's work. Every foreign name in it is neutralized here.
"""

from collections.abc import Iterator

from poolctl.api.results import ReliefResult
from poolctl.diagnose.live.relief import ReliefPlan, ReliefStep, Spared
from poolctl.report.inspection_rows import Table
from poolctl.report.inspection_words import NAME_LIMIT, counted
from poolctl.report.verdict import SENTENCE_LIMIT
from poolctl.safe_text import neutralize
from poolctl.units import format_count

MOST_STEPS = 40
MOST_SPARED = 6
NOT_ALLOWED = "the role that looked may not end other roles' backends: GRANT pg_signal_backend to it, or use another"


def relief_headline(plan: ReliefPlan, relieved: ReliefResult | None = None) -> str:
    """What the plan comes to, in one sentence."""
    if not plan.steps:
        return "Relief: no backend should be ended"
    so_far = "" if relieved is not None else "; none has been ended"
    return (
        f"Relief: {counted(len(plan.steps), 'backend')} to end, in this order, which frees "
        f"{counted(plan.frees, 'slot')}{so_far}"
    )


def step_table(plan: ReliefPlan) -> Table:
    shown = plan.steps[:MOST_STEPS]
    rows = tuple(
        (str(number), str(step.pid), format_count(step.frees), who(step), neutralize(step.why, SENTENCE_LIMIT))
        for number, step in enumerate(shown, 1)
    )
    rest = len(plan.steps) - len(shown)
    more = f"... and {format_count(rest)} more: see the SQL, or --json" if rest else ""
    return Table("", ("", "pid", "frees", "who", "why"), rows, more)


def who(step: ReliefStep) -> str:
    names = [step.application or "-", step.user or "?", *([step.client] if step.client else [])]
    return ", ".join(neutralize(name, NAME_LIMIT) for name in names)


def relief_notes(plan: ReliefPlan) -> tuple[tuple[str, str], ...]:
    """What else there is to know: a label and a sentence a line."""
    return tuple(_notes(plan))


def statements_of(plan: ReliefPlan) -> tuple[str, ...]:
    return tuple(step.sql for step in plan.steps)


def relieved_lines(relieved: ReliefResult) -> tuple[str, ...]:
    """What really came of it."""
    ended = sum(ending.outcome == "ended" for ending in relieved.endings)
    lines = [f"{format_count(ended)} of {counted(len(relieved.endings), 'backend')} ended"]
    if relieved.freed is not None and relieved.used_before is not None and relieved.used_after is not None:
        free = f"{counted(relieved.freed, 'slot')} came free" if relieved.freed > 0 else "others took the slots at once"
        used = f"{format_count(relieved.used_before)} used before, {format_count(relieved.used_after)} now"
        lines[0] += f"; {free} ({used})"
    told = {
        "signalled": "was told to end and is still there",
        "gone": "had ended by itself",
        "another": "is another backend by now, and was left alone",
        "refused": "could not be ended",
    }
    for ending in relieved.endings:
        if ending.outcome != "ended":
            reason = f": {neutralize(ending.reason, SENTENCE_LIMIT)}" if ending.reason else ""
            lines.append(f"{ending.pid} {told[ending.outcome]}{reason}")
    return tuple(lines)


def _notes(plan: ReliefPlan) -> Iterator[tuple[str, str]]:
    if plan.steps and not plan.may_signal:
        yield "Allowed", NOT_ALLOWED
    # Somebody looks for the names of applications; the server's own processes have none.
    ordered = sorted(plan.spared, key=lambda spared: not spared.application)
    for spared in ordered[:MOST_SPARED]:
        yield "Spared", _spared(spared)
    rest = ordered[MOST_SPARED:]
    if rest:
        pids = sum(len(spared.pids) for spared in rest)
        yield "Spared", f"... and {counted(pids, 'more backend')}: see --json"
    for sentence in plan.undecided:
        yield "Decide", neutralize(sentence, SENTENCE_LIMIT)


def _spared(spared: Spared) -> str:
    of = neutralize(spared.application, NAME_LIMIT) or "-"
    user = f", user {neutralize(spared.user, NAME_LIMIT)}" if spared.user else ""
    return f"{counted(len(spared.pids), 'backend')} of {of}{user}: {neutralize(spared.reason, SENTENCE_LIMIT)}"
