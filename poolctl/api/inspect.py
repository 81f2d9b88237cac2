"""Inspection of live systems, or of a recording: sampled, diagnosed, and relieved on request.

Decides how long is long enough, what counts as an answer, and what to do when no source answers. Leaves the sampling
to ``observe`` and the verdict to ``diagnose``.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from poolctl.api.answers import check_answered, has_answered, stop_without_answer
from poolctl.api.progress import Interruption, Progress, never
from poolctl.api.record import open_recording
from poolctl.api.requests import InspectFields, InspectRequest, Targets, make_request
from poolctl.api.results import InspectResult, ReliefResult
from poolctl.api.watch import replay_ring, watch
from poolctl.errors import Interrupted, NoPrivilege

if TYPE_CHECKING:
    from poolctl.diagnose.live.relief import ReliefPlan
    from poolctl.observe.host import Host
    from poolctl.observe.postgres import Postgres
    from poolctl.observe.sampler import Sampler
    from poolctl.observe.snapshot import Observation, Snapshot

    Keep = Callable[[Snapshot], None]

SERVICE_HOST_EVERY = 30.0
"""Seconds between samples of this host by a service: reading every process costs more than all the rest."""

EARLY_SAMPLES = 2
"""The second follows the first at once, and shows what moves: a verdict that can be certain by then, is."""

SHORT_INTERVAL = 0.7
"""Seconds between samples of a short inspection. Applications and timers come back after round times (0.5 s, 1 s,
5 s): samples a second apart would meet them at the same moment again and again."""

START_SHARE = 1 / 3
"""Share of the default window that poolctl's own start may take: on a busy machine it takes seconds, and the result
is due all the same. A window that the user chose begins with the first sample."""

SHORT_INSPECTION = 60.0
"""Seconds. In a longer one the sampler's own interval gives enough samples."""


def inspect(
    request: InspectRequest | str | None = None,
    /,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] = never,
    began: float | None = None,
    **fields: Unpack[InspectFields],
) -> InspectResult:
    """Sample live systems or read a recording, and diagnose what is wrong.

    ``request``: an InspectRequest, or a connection string; ``fields`` are the fields of an InspectRequest. ``stop`` is
    called 20 times a second: True ends the sampling, and the result says so. ``began``: the instant of the monotonic
    clock from which the default window counts, None for now.
    Raises BadInput; CannotConnect if no source answers; CannotDo if the recording cannot be read or written;
    NoPrivilege if the role may not end backends; Interrupted if ``stop`` came before the first sample.
    """
    if isinstance(request, str):
        request = InspectRequest(conninfo=request)
    request = make_request(InspectRequest, request, fields)
    request.check()
    progress = progress or Progress()
    if request.replay is not None:
        result = _replay(request, progress, stop)
        return _add_plan(result) if request.relief else result
    evidence = _read_files(request, progress)
    if evidence is not None and request.has_only_evidence:
        check_answered(evidence, is_named=False)
        _record_evidence(evidence, request)
        result = _diagnose(evidence, request)
        return _add_plan(result) if request.relief else result
    is_service = request.is_service
    host_every = SERVICE_HOST_EVERY if is_service else 0.0
    with open_systems(request.targets, emergency=request.emergency, host_every=host_every, is_patient=is_service) as (
        sampler,
        postgres,
    ):
        result = _sample(request, sampler, progress, stop, time.monotonic() if began is None else began)
        if evidence is not None:
            result = _diagnose(add_evidence(result.observation, evidence), request, interrupted=result.interrupted)
        if request.relief:
            result = _add_plan(result)
        if request.execute and not result.interrupted:
            result = _relieve(result, postgres, progress, stop)
        return result


@contextmanager
def open_systems(
    targets: Targets, *, emergency: bool = False, host_every: float = 0.0, is_patient: bool = False
) -> Iterator[tuple["Sampler", "Postgres | None"]]:
    """Open the systems of ``targets`` for the length of a ``with``; the host is sampled each ``host_every`` seconds.
    ``is_patient``: a server that is away is tried again for days, each 5 s at most.

    Raises BadInput for a connection string that cannot be read.
    """
    from poolctl.observe.connection import find_address
    from poolctl.observe.pgbouncer import PgBouncer
    from poolctl.observe.pgpool import Pgpool
    from poolctl.observe.pool_metrics import PoolMetrics, parse_names
    from poolctl.observe.postgres import Postgres
    from poolctl.observe.sampler import Sampler

    address, port = find_address(targets.conninfo) if targets.conninfo is not None else ("", None)
    postgres = None
    if targets.conninfo is not None:
        postgres = Postgres(targets.conninfo, emergency=emergency, is_patient=is_patient)
    bouncers = [PgBouncer(conninfo) for conninfo in targets.pgbouncers]
    pgpools = [Pgpool(conninfo) for conninfo in targets.pgpools]
    poolers: list[PgBouncer | Pgpool] = [*bouncers, *pgpools]
    pools = [PoolMetrics(place, names=parse_names(targets.pool_stats_map)) for place in targets.pool_stats]
    with Sampler(
        postgres,
        bouncers=bouncers,
        pgpools=pgpools,
        pools=pools,
        host=partial(
            _open_host,
            address,
            port,
            [pooler.port for pooler in poolers if pooler.port is not None],
            {pool.source.target: pool.endpoint for pool in pools if pool.endpoint is not None},
            host_every,
        ),
    ) as sampler:
        yield sampler, postgres


def _open_host(
    address: str, port: int | None, pooler_ports: list[int], scraped: dict[str, tuple[str, int]], every: float
) -> "Host":
    # Called in the sampler's own thread: psutil takes a while to import.
    from poolctl.observe.host import Host

    return Host(address, port, pooler_ports=pooler_ports, scraped=scraped, every=every)


def _read_files(request: InspectRequest, progress: Progress) -> "Observation | None":
    """Read files of evidence and the history of a Prometheus as one observation; None without either."""
    history = _read_history(request) if request.prometheus is not None else None
    if not request.evidence:
        return history
    from poolctl.observe.evidence.read import read_evidence

    try:
        evidence = read_evidence(
            request.evidence,
            prefix=request.log_line_prefix,
            since=request.since,
            until=request.until,
            names=request.pool_stats_map,
            progress=progress.show_reading,
        )
    finally:
        progress.end_reading()
    return evidence if history is None else add_evidence(history, evidence)


def _read_history(request: InspectRequest) -> "Observation":
    from poolctl.observe.evidence import history

    assert request.prometheus is not None
    stretch = history.plan_range(request.since, request.until, request.step, history.LAST_HOUR, time.time())
    return history.read_history(
        history.HistoryQuery(request.prometheus, request.match, request.pool_stats_map), stretch
    )


def add_evidence(live: "Observation", evidence: "Observation") -> "Observation":
    """Return what was sampled together with what the evidence says, as one observation.

    Figures of pools and poolers in the evidence count for every sample; backends only where no live server shows any.
    """
    last = evidence.last
    has_server = bool(live.samples)
    # The history of a Prometheus goes before what is sampled now; its servers may be others.
    is_history = any(source.kind == "prometheus" for source in evidence.sources)
    earlier = tuple(
        replace(snapshot, server=None)
        for snapshot in (evidence.snapshots if is_history else ())
        if snapshot.at < live.first.at and (snapshot.pools or snapshot.bouncers)
    )
    snapshots = earlier + tuple(
        replace(
            snapshot,
            server=snapshot.server if has_server else last.server,
            bouncers=(*snapshot.bouncers, *last.bouncers),
            pgpools=(*snapshot.pgpools, *last.pgpools),
            pools=(*snapshot.pools, *last.pools),
        )
        for snapshot in live.snapshots
    )
    return replace(
        live,
        snapshots=snapshots,
        server=live.server or evidence.server,
        sources=(*live.sources, *evidence.sources),
        log=evidence.log,
    )


def _replay(request: InspectRequest, progress: Progress, stop: Callable[[], bool]) -> InspectResult:
    from poolctl.observe.recording import read_recording

    assert request.replay is not None
    if Path(request.replay).is_dir():
        return replay_ring(Path(request.replay), request, progress, stop)
    observation, note = read_recording(Path(request.replay))
    if note:
        progress.warn(note)
    return _diagnose(observation, request, replayed=str(request.replay))


def _sample(
    request: InspectRequest, sampler: "Sampler", progress: Progress, stop: Callable[[], bool], began: float
) -> InspectResult:
    interruption = Interruption(stop, progress)
    with open_recording(request, sampler, progress) as keep:
        if request.watch:
            return watch(request, sampler, keep, interruption, progress)
        observation = _observe(request, sampler, keep, interruption, progress, began)
        interrupted = interruption.end()
        if interrupted and not observation.snapshots:
            raise Interrupted("interrupted before the first sample")
        check_answered(observation, is_named=request.is_named)
        return _diagnose(observation, request, interrupted=interrupted)


def _observe(
    request: InspectRequest,
    sampler: "Sampler",
    keep: "Keep",
    interruption: Interruption,
    progress: Progress,
    began: float,
) -> "Observation":
    planned = request.planned
    assert planned is not None
    with progress.show_sampling(planned) as view:
        is_shown = False

        def receive(snapshot: "Snapshot") -> None:
            nonlocal is_shown
            keep(snapshot)
            observation = sampler.observation
            if not is_shown and has_answered(observation) and len(observation.snapshots) <= EARLY_SAMPLES:
                result = _diagnose(observation, request)
                worst = result.findings[0]
                if worst.severity == "critical" and worst.confidence == "certain":
                    view.so_far(result)
                    is_shown = True

        return sampler.observe(
            planned,
            interval=SHORT_INTERVAL if planned <= SHORT_INSPECTION else None,
            stop=stop_without_answer(sampler, interruption),
            on_snapshot=receive,
            began=None if request.duration is not None else max(began, time.monotonic() - START_SHARE * planned),
        )


def _diagnose(
    observation: "Observation", request: InspectRequest, *, interrupted: bool = False, replayed: str = ""
) -> InspectResult:
    from poolctl.diagnose.live.diagnose import diagnose
    from poolctl.observe.recording import hide_all_literals

    shown = observation if request.show_literals else hide_all_literals(observation)
    planned = None if replayed or request.has_only_evidence else request.planned
    return InspectResult(shown, diagnose(shown), planned, interrupted, replayed)


def _record_evidence(evidence: "Observation", request: InspectRequest) -> None:
    """Write what was read to the file of ``request.record``, if there is one. Raises CannotDo."""
    if request.record is None:
        return
    from poolctl.observe.recording import RecordingWriter

    with RecordingWriter(Path(request.record), show_literals=request.show_literals) as recorder:
        for snapshot in evidence.snapshots:
            recorder.write(snapshot, evidence)


def _add_plan(result: InspectResult) -> InspectResult:
    from poolctl.diagnose.live.relief import plan_relief

    return replace(result, relief=plan_relief(result.observation, result.diagnosis))


def _relieve(
    result: InspectResult, postgres: "Postgres | None", progress: Progress, stop: Callable[[], bool]
) -> InspectResult:
    """End the backends of the plan one after the other, if the user confirms, and count what really became free.

    The statement that ends a backend checks its identity and its fault again. Raises NoPrivilege.
    """
    plan: ReliefPlan | None = result.relief
    progress.show_plan(result)
    if plan is None or not plan.steps or postgres is None:
        return result
    if not plan.may_signal:
        raise NoPrivilege(
            "the role that poolctl connects as may not end backends of other roles",
            hint="GRANT pg_signal_backend to it, or let another role run the SQL that --relief prints",
        )
    if not progress.confirm_relief(result):
        return result
    before = _count_clients(postgres)
    endings = []
    interruption = Interruption(stop, progress)
    for step in plan.steps:
        if interruption():
            break
        endings.append(postgres.end_backend(step.pid, step.started_at, still=step.still, action=step.action))
    interrupted = interruption.end()
    relieved = ReliefResult(tuple(endings), before, _count_clients(postgres))
    return replace(result, relieved=relieved, interrupted=interrupted)


def _count_clients(postgres: "Postgres") -> int | None:
    sample = postgres.sample()
    return None if sample is None else len(sample.clients)
