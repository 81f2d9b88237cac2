"""Runs that the model cut off because they could never have ended: what in the scenario is to blame."""

from poolctl.diagnose.finding import Finding
from poolctl.diagnose.run.facts import Facts
from poolctl.diagnose.words import plural
from poolctl.units import format_count, format_duration


def endless_load(facts: Facts) -> Finding | None:
    """The load made requests without any time passing. Threshold: the model cut the run off for it, so certain."""
    if facts.run.cut_off != "standstill":
        return None
    summary = facts.summary
    return Finding(
        code="endless-load",
        severity="critical",
        confidence="certain",
        layer="application",
        summary=f"The load cannot end: {plural(summary.offered, 'request')} followed each other "
        f"at {format_duration(facts.ended_at)} without any time passing",
        evidence={
            "offered": summary.offered,
            "acquired": summary.acquired,
            "hold_mean": facts.scenario.load.hold.mean,
            "think_mean": facts.scenario.load.think.mean,
            "error_pause": facts.scenario.load.error_pause,
            "threshold": "half a million events at one instant",
        },
        remedy="Give the load a hold or a think above 0, and an error_pause where acquires fail at once; or give "
        "arrivals by rate.",
    )


def endless_queue(facts: Facts) -> Finding | None:
    """More requests came than are served and none gives up. Threshold: the model cut the run off, so certain."""
    if facts.run.cut_off != "queue":
        return None
    summary = facts.summary
    return Finding(
        code="endless-queue",
        severity="critical",
        confidence="certain",
        layer="application",
        summary=f"The queue grows for ever: {format_count(summary.offered_rate)} requests a second come, "
        f"{format_count(summary.throughput)} are served, and none of {format_count(summary.unfinished)} gives up",
        evidence={
            "offered_rate": summary.offered_rate,
            "throughput": summary.throughput,
            "unfinished": summary.unfinished,
            "wait_time_max": summary.wait_time.max,
            "threshold": "a quarter of a million requests waiting",
        },
        remedy=f"Set {facts.native('acquire_timeout')}, so that requests give up before the queue is older than its "
        "answers are worth, and treat what makes them wait.",
    )
