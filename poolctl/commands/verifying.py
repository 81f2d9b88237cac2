"""Tries a recommendation before it is told: the whole fleet in the model, and on a throw-away server where asked.

Decides how much is tried: all that was asked for, or what fits into a second or two when nobody asked.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from poolctl.commands.interrupts import catch_interrupts
from poolctl.commands.recommendation import RecommendRequest
from poolctl.errors import BadInput

if TYPE_CHECKING:
    from poolctl.scenario.run import Run, Summary
    from poolctl.sizing.figures import Figures
    from poolctl.sizing.recommendation import Recommendation
    from poolctl.sizing.verify import Trial, Verification

UNASKED_SHARE = 1 / 3
"""Of a run's length where nobody asked for it: its p99 then rests on 200 acquires and not on 600."""
SHORTEST = 5.0
"""Seconds of virtual time."""
UNASKED_TIME, ASKED_TIME = 1.5, 60.0
"""Seconds after which no more runs are waited for."""

LIVE_TIME = 5.0
LEAST_LIVE_SHARE, LIVE_WAIT_SLACK = 0.9, 2.5
"""Of the acquires offered, and of the wait target, that a short run on a busy machine must keep to."""
MOST_LIVE_RATE, MOST_LIVE_CONNECTIONS, MOST_LIVE_PODS = 2_000.0, 200, 16
"""What this machine can play by itself, beside the server."""


def verified(
    asked: RecommendRequest, answer: "Recommendation", figures: "Figures", *, color: str, quiet: bool
) -> tuple["Verification | None", str]:
    """What the runs say, or why there are none. ``figures``: with their defaults filled in. Raises PoolctlError."""
    if answer.is_refused:
        return None, ""
    if asked.verify == "none":
        return None, "Not tried: --no-verify"
    if asked.verify == "unasked" and not (asked.is_measuring or asked.sweep is not None):
        return None, "Not tried: --verify runs it in virtual time, the whole fleet at its largest included"
    from poolctl.sizing.verify import plan_trials

    is_asked = asked.verify != "unasked"
    kind = asked.stacks[0] if asked.stacks else "database/sql"
    planned = plan_trials(figures, answer, kind)
    if not is_asked:
        planned = tuple(_shortened(trial) for trial in planned)
    if not planned:
        return None, "Not tried: the load is not known; give --arrival-rate and --hold-time"
    from poolctl.sizing.verify import judge

    seconds = ASKED_TIME if is_asked else UNASKED_TIME
    deadline = time.monotonic() + seconds
    # The recommended size is what must not be missing, so it comes first.
    ordered = sorted(planned, key=lambda trial: trial.max_open != answer.recommendation.max_open)
    runs = list(_runs(ordered, deadline))
    if not any(trial.moment == "steady" and not trial.is_current for trial, _ in runs):
        return None, f"Not tried: a run of this fleet takes more than {seconds:.0f} s; --verify waits for it"
    notes = [f"{len(planned) - len(runs)} runs were not waited for"] if len(runs) < len(planned) else []
    live = None
    if asked.verify == "live":
        live, note = _live(answer, planned, color, quiet)
        notes.append(note)
    target = figures.wait_target.value if figures.wait_target is not None else 0.05
    found = judge(answer, runs, wait_target=target, notes=notes)
    return (found if live is None else _with_live(found, live, _chosen(answer, planned), target)), ""


def _with_live(found: "Verification", live: "Summary", trial: "Trial", wait_target: float) -> "Verification":
    """The model's word and the real server's: a few seconds of it rest on too few acquires to judge a p99 closely."""
    from poolctl.sizing.verify import summarize_trial

    outcome = replace(summarize_trial(trial, live), moment="live")
    failures = list(found.failures)
    if outcome.throughput < LEAST_LIVE_SHARE * outcome.offered_rate:
        failures.append(
            f"a real server served {outcome.throughput:.0f} of {outcome.offered_rate:.0f} acquires a second"
        )
    if outcome.wait_p99 > LIVE_WAIT_SLACK * wait_target:
        failures.append(f"on a real server its p99 wait was {outcome.wait_p99 * 1000:.3g} ms")
    if outcome.refused:
        failures.append(f"a real server refused {outcome.refused} acquires")
    moments = (*found.moments, outcome)
    return replace(found, moments=moments, failures=tuple(failures), passed=not failures, engine="live")


def _runs(planned: "list[Trial]", deadline: float) -> "Iterator[tuple[Trial, Summary]]":
    from poolctl.engines.batch import run_many

    with catch_interrupts() as interrupts:
        stop = lambda: interrupts() or time.monotonic() > deadline  # noqa: E731
        for result in run_many([trial.scenario for trial in planned], summary_of, interval=1.0, stop=stop):
            if result.kept is not None:
                yield planned[result.number], result.kept
        interrupts.run_is_over()
        if interrupts.asked:
            raise KeyboardInterrupt


def summary_of(run: "Run") -> "Summary":
    return run.summary


def _chosen(answer: "Recommendation", planned: "tuple[Trial, ...]") -> "Trial":
    most = answer.recommendation.max_open
    return next(t for t in planned if t.moment == "steady" and t.max_open == most and not t.is_current)


def _shortened(trial: "Trial") -> "Trial":
    """The same in a part of its time, with what happens in it at the same parts of it."""
    scenario = trial.scenario
    duration = scenario.load.duration or SHORTEST
    share = max(SHORTEST, duration * UNASKED_SHARE) / duration
    events = tuple(replace(event, at=event.at * share, overlap=event.overlap * share) for event in scenario.events)
    load = replace(scenario.load, duration=duration * share)
    return replace(trial, scenario=replace(scenario, load=load, events=events))


def _live(
    answer: "Recommendation", planned: "tuple[Trial, ...]", color: str, quiet: bool
) -> tuple["Summary | None", str]:
    """The recommended size on a throw-away server, if this machine can play the fleet; else None, and why not."""
    from poolctl.engines.live.engine import check_scenario, run_on
    from poolctl.engines.live.live_servers import ThrowAwayServers
    from poolctl.report.progress import Bounds, live_view
    from poolctl.report.screen import open_screen
    from poolctl.scenario.scenario import Distribution

    scenario = _chosen(answer, planned).scenario
    load, connections = scenario.load, scenario.pool.max_open * scenario.load.instances
    rate = (load.rate or 0.0) * load.instances
    if rate > MOST_LIVE_RATE or connections > MOST_LIVE_CONNECTIONS or load.instances > MOST_LIVE_PODS:
        return None, (
            f"Not tried on a real server: {load.instances} pods with {connections} connections and {rate:,.0f} "
            "requests a second are more than this machine plays beside one"
        )
    played = replace(load, duration=LIVE_TIME, drain=LIVE_TIME, hold_outside=Distribution("constant", 0.0))
    scenario = replace(scenario, load=played)
    try:
        check_scenario(scenario)
    except BadInput as error:
        return None, f"Not tried on a real server: {error.message}"
    screen = open_screen(sys.stderr, color)  # type: ignore[arg-type]
    with (
        ThrowAwayServers() as servers,
        catch_interrupts() as interrupts,
        live_view(screen, "verifying", Bounds(), quiet=quiet) as view,
    ):
        run = run_on(servers.serve, scenario, view, stop=interrupts)
        interrupts.run_is_over()
    return run.summary, f"The recommended size also ran {LIVE_TIME:.0f} s on a throw-away PostgreSQL"
