"""What a live run teaches the model, so that both run the same scenario on the same machine.

Decides which measured times replace the scenario's guesses. What the load does to the pool is left to the model:
nothing that it is meant to predict is handed to it.
"""

from dataclasses import replace
from math import sqrt

from poolctl.scenario.histogram import Times
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Distribution, Scenario
from poolctl.units import format_duration

FEW = 5
"""Openings below which their median says nothing of how they scatter."""

WIDEST = 3.0
"""Largest coefficient of variation: one opening that met a restart must not make all others short."""


def calibrate(scenario: Scenario, live: Run) -> tuple[Scenario, tuple[str, ...]]:
    """``scenario`` with what ``live`` measured, and sentences that say what was changed.

    Openings take what they took live, to the pooler where one stands between. Cores are those of the machine, for a
    throw-away server; a load of pg_sleep needs none, and gets no limit.
    """
    database, notes = scenario.database, []
    opening = live.summary.connect_time
    if opening.count:
        distribution = _lognormal(opening)
        scatter = f", cv {distribution.cv:.2g}" if distribution.kind == "lognormal" else ""
        notes.append(
            f"the model's openings are {distribution.kind} with the mean of the live ones, "
            f"{format_duration(distribution.mean)}{scatter}"
        )
        if database.via == "none":
            work = min(database.connect_cpu, distribution.mean)
            database = replace(database, connect_time=distribution, connect_cpu=work)
        else:
            database = replace(database, pooler_connect_time=distribution)
    cores = live.summary.server.cores if live.summary.server else None
    if scenario.load.query == "sleep":
        database = replace(database, cores=None)
        notes.append("the model's server has cores without limit, since pg_sleep needs none")
    elif cores is not None:
        database = replace(database, cores=cores)
        notes.append(f"the model's server has the {cores} cores of this machine")
    return replace(scenario, database=database), tuple(notes)


def _lognormal(times: Times) -> Distribution:
    """From mean and median, whose ratio is exp(sigma^2 / 2) in a lognormal distribution, so 1 + cv^2 is its square.
    The deviation itself is not measured, and one long opening would spoil it."""
    if times.count < FEW or times.p50 <= 0 or times.mean <= times.p50:
        return Distribution("constant", times.mean)
    cv = sqrt((times.mean / times.p50) ** 2 - 1.0)
    return Distribution("lognormal", times.mean, min(cv, WIDEST))
