"""Recommendation of pool sizes: figures that were measured and given, a sweep, the arithmetic, and a trial.

Decides that a given figure replaces a measured one, and that a finding about the database or the application comes
before any size. Leaves the arithmetic to ``sizing`` and the configuration to ``stacks``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from poolctl.api.figures import read_figures, with_overrides
from poolctl.api.progress import Progress, never
from poolctl.api.requests import RecommendFields, RecommendRequest, make_request
from poolctl.api.results import FleetResult, RecommendResult

if TYPE_CHECKING:
    from poolctl.api.measure import Measurement
    from poolctl.api.sweep import SweepMeasurement
    from poolctl.sizing.figures import Figures


def recommend(
    request: RecommendRequest | str | None = None,
    /,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = never,
    **fields: Unpack[RecommendFields],
) -> RecommendResult:
    """Recommend how large each process's pool should be, or refuse and say what is wrong instead.

    ``request``: a RecommendRequest, or a connection string; ``fields`` are the fields of a RecommendRequest, where
    ``figures`` may be a mapping: ``figures={"arrival_rate": 150, "hold_time": 0.008, "instances": 8}``. ``stop`` ends
    the measurement or the sweep, and the result says so.
    Raises BadInput; CannotConnect if no source answers; CannotDo and its kinds; Interrupted if ``stop`` came before
    there was anything to recommend from.
    """
    if isinstance(request, str):
        request = RecommendRequest(conninfo=request)
    values: dict[str, Any] = dict(fields)
    if isinstance(values.get("figures"), Mapping):
        values["figures"] = read_figures(values["figures"])
    request = make_request(RecommendRequest, request, values)
    request = replace(request, stacks=find_stacks(request.stacks))
    request.check()
    return _recommend(request, progress or Progress(), stop)


def check_fleet(path: Path | str) -> FleetResult:
    """Check whether all services of a fleet file fit the limits of their server, at the worst moment of a deploy.

    Raises BadInput for a file that cannot be used.
    """
    from poolctl.sizing.fleet import load_fleet
    from poolctl.sizing.fleet_check import check_fleet

    return FleetResult(check_fleet(load_fleet(Path(path))))


def find_stacks(names: tuple[str, ...]) -> tuple[str, ...]:
    """Find the stacks of these names, each once. Raises BadInput for a name that is not known."""
    from poolctl.stacks import find_stack

    return tuple(dict.fromkeys(find_stack(name).name for name in names))


def _recommend(request: RecommendRequest, progress: Progress, stop: Callable[[], bool]) -> RecommendResult:
    from poolctl.sizing.defaults import fill_defaults
    from poolctl.sizing.recommend import add_diagnosis, drop_moot_findings, recommend, reject_unverified
    from poolctl.stacks.advice import write_configs

    if request.on != "local":
        from poolctl.engines.cluster.place import check_place

        # Now: a minute of measuring would be lost to an address without a scheduler.
        check_place(request.on, stop=stop, note=progress.show_wait)
    measurement = _measure(request, progress, stop)
    sweep = _sweep(request, progress, stop)
    given = request.figures
    figures = given if measurement is None else with_overrides(measurement.figures, given)
    figures = _drop_false_alarm(figures)
    if sweep is not None:
        figures = figures.with_(sweep=sweep.points)
    recommendation = recommend(figures, seed=request.seed)
    figures, _ = fill_defaults(figures)
    if measurement is not None:
        recommendation = add_diagnosis(recommendation, figures, measurement.refusing, measurement.findings)
    verification, unverified = None, ""
    if not (measurement is not None and measurement.interrupted):
        from poolctl.api.verify import verify

        verification, unverified = verify(request, recommendation, figures, progress, stop)
    if verification is not None and not verification.passed:
        recommendation = reject_unverified(recommendation, verification)
    recommendation = drop_moot_findings(recommendation)
    configs, note = write_configs(recommendation, figures, request.stacks)
    return RecommendResult(
        recommendation=recommendation,
        figures=figures,
        configs=configs,
        verification=verification,
        unverified=unverified,
        notes=(
            *(measurement.notes if measurement is not None else ()),
            *(sweep.notes if sweep is not None else ()),
            *filter(None, [note]),
        ),
        sources=measurement.sources if measurement is not None else (),
        application=measurement.application if measurement is not None else None,
        planned=measurement.planned if measurement is not None else None,
        interrupted=(measurement is not None and measurement.interrupted) or (sweep is not None and sweep.interrupted),
        seed=request.seed,
    )


def _measure(request: RecommendRequest, progress: Progress, stop: Callable[[], bool]) -> "Measurement | None":
    if not request.is_measuring:
        return None
    from poolctl.api.measure import measure

    return measure(request, progress, stop)


def _sweep(request: RecommendRequest, progress: Progress, stop: Callable[[], bool]) -> "SweepMeasurement | None":
    if request.sweep is None:
        return None
    from poolctl.api.sweep import run_sweep

    return run_sweep(request, progress, stop)


def _drop_false_alarm(figures: "Figures") -> "Figures":
    """Forget that the pool was full, if it is as large as its workers can fill: they need no larger one."""
    workers, now = figures.workers, figures.current_max_open
    each = figures.connections_per_request.count if figures.connections_per_request is not None else 1
    if workers is None or now is None or now.value < workers.value * each:
        return figures
    return figures.with_(censored_share=None)
