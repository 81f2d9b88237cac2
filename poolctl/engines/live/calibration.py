"""Measurements of a live run for the model, so that both run the same scenario on the same machine.

Decides which measured times replace the scenario's estimates. The model gets nothing that it has to predict, such as
what the load does to the pool.
"""

from dataclasses import replace
from math import sqrt

from poolctl.scenario.histogram import Times
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Distribution, Scenario
from poolctl.units import format_duration

FEW = 5
"""With fewer openings, their median says nothing about how their times vary."""

WIDEST = 3.0
"""Largest coefficient of variation, so that one opening during a restart does not make all others short."""


def calibrate(scenario: Scenario, live: Run) -> tuple[Scenario, tuple[str, ...]]:
    """Return ``scenario`` with the times that ``live`` measured, and a sentence for each change.

    Openings take as long as in the live run; with a pooler, those are openings to the pooler. The server has the cores
    of the machine if it is a throw-away server, and no limit if the load is pg_sleep, which needs no core.
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
    """Fit a lognormal distribution to mean and median.

    In a lognormal distribution mean / median is exp(sigma^2 / 2), and 1 + cv^2 is exp(sigma^2), the square of that.
    The standard deviation is not used: it is not measured, and one long opening would distort it.
    """
    if times.count < FEW or times.p50 <= 0 or times.mean <= times.p50:
        return Distribution("constant", times.mean)
    cv = sqrt((times.mean / times.p50) ** 2 - 1.0)
    return Distribution("lognormal", times.mean, min(cv, WIDEST))
