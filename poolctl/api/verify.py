"""Trial of a recommendation before it is reported: the whole fleet in the model, and on a throw-away server on request.

Decides how much is tried: all of it on request, else what fits into a second or two.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from poolctl.api.progress import Interruption, Progress
from poolctl.api.requests import RecommendRequest
from poolctl.errors import BadInput, Interrupted

if TYPE_CHECKING:
    from poolctl.scenario.run import Run, Summary
    from poolctl.sizing.figures import Figures
    from poolctl.sizing.recommendation import Recommendation
    from poolctl.sizing.verify import Trial, Verification

DEFAULT_SHARE = 1 / 3
"""Of a run's length by default: its p99 then rests on 200 acquires and not on 600."""
SHORTEST = 5.0
"""Seconds of virtual time."""
DEFAULT_TIME, REQUESTED_TIME = 1.5, 60.0
"""Seconds after which the runs that are not done are dropped."""

LIVE_TIME = 5.0
LEAST_LIVE_SHARE, LIVE_WAIT_SLACK = 0.9, 2.5
"""Of the acquires offered, and of the wait target, that a short run on a busy machine must reach."""
MOST_LIVE_RATE, MOST_LIVE_CONNECTIONS, MOST_LIVE_INSTANCES = 2_000.0, 200, 16
"""What this machine can run by itself, beside the server."""


def verify(
    request: RecommendRequest,
    recommendation: "Recommendation",
    figures: "Figures",
    progress: Progress,
    stop: Callable[[], bool],
) -> tuple["Verification | None", str]:
    """Try the recommendation, and return what the runs show, or None and why there are none.

    ``figures``: with their defaults filled in. Raises PoolctlError, Interrupted among them.
    """
    if recommendation.is_refused:
        return None, ""
    if request.verify == "none":
        return None, "Not tried: --no-verify"
    if request.verify == "default" and not (request.is_measuring or request.sweep is not None):
        return None, "Not tried: --verify runs it in virtual time, the whole fleet at its largest included"
    from poolctl.sizing.verify import judge, plan_trials

    is_requested = request.verify != "default"
    library = request.stacks[0] if request.stacks else "database/sql"
    planned = plan_trials(figures, recommendation, library)
    if not is_requested:
        planned = tuple(_shorten(trial) for trial in planned)
    if not planned:
        return None, "Not tried: the load is not known; give --arrival-rate and --hold-time"
    if stop():
        return None, "Not tried: interrupted"
    seconds = REQUESTED_TIME if is_requested else DEFAULT_TIME
    deadline = time.monotonic() + seconds
    # The recommended size first: a result without it is none.
    ordered = sorted(planned, key=lambda trial: trial.max_open != recommendation.recommendation.max_open)
    # In the order of the trials, whatever the order in which they end: the same result on every machine.
    done = dict(_run_trials(ordered, request.on, deadline, progress, stop))
    runs = [(trial, done[number]) for number, trial in enumerate(ordered) if number in done]
    if not any(trial.moment == "steady" and not trial.is_current for trial, _ in runs):
        return None, f"Not tried: a run of this fleet takes more than {seconds:.0f} s; --verify waits for it"
    dropped = len(planned) - len(runs)
    notes = [f"{dropped} runs took too long and were dropped"] if dropped else []
    live = None
    if request.verify == "live":
        live, note = _run_live(recommendation, planned, progress, stop)
        notes.append(note)
    target = figures.wait_target.value if figures.wait_target is not None else 0.05
    verification = judge(recommendation, runs, wait_target=target, notes=notes)
    if live is not None:
        verification = _add_live(verification, live, _find_steady(recommendation, planned), target)
    return verification, ""


def _add_live(verification: "Verification", live: "Summary", trial: "Trial", wait_target: float) -> "Verification":
    """Add a live run of a few seconds, which has too few acquires to judge a p99 closely."""
    from poolctl.sizing.verify import summarize_trial

    outcome = replace(summarize_trial(trial, live), moment="live")
    failures = list(verification.failures)
    if outcome.throughput < LEAST_LIVE_SHARE * outcome.offered_rate:
        failures.append(
            f"a real server served {outcome.throughput:.0f} of {outcome.offered_rate:.0f} acquires a second"
        )
    if outcome.wait_p99 > LIVE_WAIT_SLACK * wait_target:
        failures.append(f"on a real server the p99 wait was {outcome.wait_p99 * 1000:.3g} ms")
    if outcome.refused:
        failures.append(f"a real server refused {outcome.refused} acquires")
    # What a real server shows beside the model is no matter of a target.
    is_only_late = verification.is_only_late and len(failures) == len(verification.failures)
    return replace(
        verification,
        moments=(*verification.moments, outcome),
        failures=tuple(failures),
        passed=not failures,
        engine="live",
        is_only_late=is_only_late,
    )


def _run_trials(
    planned: "list[Trial]", on: str, deadline: float, progress: Progress, stop: Callable[[], bool]
) -> "Iterator[tuple[int, Summary]]":
    from poolctl.engines.cluster.place import run_at

    interruption = Interruption(stop, progress)

    def is_over() -> bool:
        return interruption() or time.monotonic() > deadline

    scenarios = [trial.scenario for trial in planned]
    with closing(run_at(on, scenarios, take_summary, interval=1.0, stop=is_over, note=progress.show_wait)) as results:
        for result in results:
            if result.kept is not None:
                yield result.number, result.kept
    if interruption.end():
        raise Interrupted("interrupted while the recommendation was tried")


def take_summary(run: "Run") -> "Summary":
    """Keep the numbers of a run. Called in the process that made it, so it has a name at the top."""
    return run.summary


def _find_steady(recommendation: "Recommendation", planned: "tuple[Trial, ...]") -> "Trial":
    most = recommendation.recommendation.max_open
    return next(t for t in planned if t.moment == "steady" and t.max_open == most and not t.is_current)


def _shorten(trial: "Trial") -> "Trial":
    """Shorten a trial to a part of its time; its events keep their place in it."""
    scenario = trial.scenario
    duration = scenario.load.duration or SHORTEST
    share = max(SHORTEST, duration * DEFAULT_SHARE) / duration
    events = tuple(replace(event, at=event.at * share, overlap=event.overlap * share) for event in scenario.events)
    load = replace(scenario.load, duration=duration * share)
    return replace(trial, scenario=replace(scenario, load=load, events=events))


def _run_live(
    recommendation: "Recommendation", planned: "tuple[Trial, ...]", progress: Progress, stop: Callable[[], bool]
) -> tuple["Summary | None", str]:
    """Run the recommended size on a throw-away server; None, and why, if this machine cannot run the fleet."""
    from poolctl.engines.live.engine import check_scenario, run_on
    from poolctl.engines.live.live_servers import ThrowAwayServers
    from poolctl.engines.sandbox import without_libpq_environment
    from poolctl.scenario.scenario import Distribution

    scenario = _find_steady(recommendation, planned).scenario
    load, connections = scenario.load, scenario.pool.max_open * scenario.load.instances
    rate = (load.rate or 0.0) * load.instances
    if rate > MOST_LIVE_RATE or connections > MOST_LIVE_CONNECTIONS or load.instances > MOST_LIVE_INSTANCES:
        return None, (
            f"Not tried on a real server: {load.instances} instances with {connections} connections and {rate:,.0f} "
            "requests a second are more than this machine can run beside one"
        )
    load = replace(load, duration=LIVE_TIME, drain=LIVE_TIME, hold_outside=Distribution("constant", 0.0))
    scenario = replace(scenario, load=load)
    try:
        check_scenario(scenario)
    except BadInput as error:
        return None, f"Not tried on a real server: {error.message}"
    interruption = Interruption(stop, progress)
    with without_libpq_environment(), ThrowAwayServers() as servers, progress.show_run("verifying", None) as view:
        view.phase("starting the server")
        run = run_on(servers.serve, scenario, view, stop=interruption)
        interruption.end()
    return run.summary, f"The recommended size also ran {LIVE_TIME:.0f} s on a throw-away PostgreSQL"
