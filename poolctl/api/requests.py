"""The requests of ``simulate()``, ``inspect()`` and ``recommend()``, as frozen data, and what contradicts in them.

Decides which values go together and what stands for a value that is not given. Messages spell a field as the option
of the command line, which is the field's name with dashes unless the table ``OPTIONS`` says otherwise.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from poolctl.api.figures import has_figures, has_load_or_capacity
from poolctl.api.results import Engine
from poolctl.diagnose.finding import Severity
from poolctl.errors import BadInput
from poolctl.sizing.figures import Figures
from poolctl.units import format_duration

SAMPLING_TIME = 3.0
"""Seconds that ``inspect`` samples by default: long enough to see what moves and what does not."""
MEASURING_TIME = 60.0
"""Seconds that ``recommend`` measures by default."""
SWEEP_TIME = 180.0
"""Seconds that a sweep takes by default, at most."""
LEAST_INTERVAL = 0.001
"""Seconds between two rows of a timeline at least: more rows than that show nothing, and fill the memory."""
DEFAULT_MIX = "mixed"
"""The built-in load of a sweep that is given no statements."""

ENGINES: tuple[Engine, ...] = ("live", "model", "both")
Verify = Literal["model", "live", "none", "default"]

Request = TypeVar("Request")

OPTIONS = {
    "conninfo": "CONNINFO",
    "pgbouncers": "--pgbouncer",
    "pgpools": "--pgpool",
    "duration": "--for",
    "since": "--from",
    "until": "--to",
    "sweeps": "--sweep",
    "assignments": "--set",
    "pids": "--pid",
    "stacks": "--for-stack",
}
"""Fields that the command line spells in another way."""

_NAMING = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGDATABASE")
"""The variables of libpq that choose a server."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The systems to sample. ``conninfo`` None: no PostgreSQL; "": the one that libpq finds by itself."""

    conninfo: str | None
    pgbouncers: tuple[str, ...] = ()
    pgpools: tuple[str, ...] = ()
    pool_stats: tuple[str, ...] = ()
    pool_stats_map: tuple[str, ...] = ()
    """The user's own names of figures, each ``in_use=my_pool_busy,max_open=my_pool_size``."""


@dataclass(frozen=True, slots=True)
class SimulateRequest:
    """What ``simulate()`` runs.

    ``scenario``: a TOML file, None for the built-in scenario. ``engine`` None: "live", or "model" for a sweep and
    replications. ``leak`` True and False add and remove a leak, None keeps the scenario's own. ``assignments``: each
    ``section.key=value``. ``duration`` (seconds) and ``seed`` None: the scenario's own. ``target``: the server to use
    instead of a throw-away one. ``interval``: seconds between rows of the timeline.
    ``on``: where a sweep, replications or the instances of a live load run: ``local``, ``local:N`` (not a live load),
    or the address of a Dask scheduler. ``per_worker``: the most instances of a worker there; None: each gets as many as
    the others. ``sandbox_listen``: the address where those workers reach the throw-away server; None: the scenario's.
    """

    scenario: Path | str | None = None
    engine: Engine | None = None
    leak: bool | None = None
    leak_every: int | None = None
    leak_shape: str | None = None
    compare: str | None = None
    sweeps: tuple[str, ...] = ()
    replications: int | None = None
    assignments: tuple[str, ...] = ()
    duration: float | None = None
    seed: int | None = None
    target: str | None = None
    allow_exhaustion: bool = False
    port: int | None = None
    keep: bool = False
    interval: float = 0.1
    on: str = "local"
    per_worker: int | None = None
    sandbox_listen: str | None = None

    @property
    def is_batch(self) -> bool:
        """True for many model runs, of which only the numbers are kept."""
        return bool(self.sweeps) or self.replications is not None

    @property
    def is_on_cluster(self) -> bool:
        """True if the instances of a live load run on the workers of a Dask cluster."""
        return self.on.startswith(("tcp:", "tls:")) and not self.is_batch

    @property
    def chosen_engine(self) -> Engine:
        return self.engine or ("model" if self.is_batch else "live")

    def check(self) -> None:
        """Refuse values that contradict each other. Raises BadInput."""
        if self.chosen_engine not in ENGINES:
            raise BadInput(
                f"--engine {self.chosen_engine}: must be one of {', '.join(ENGINES)}",
                hint="live: a real server; model: virtual time; both: one after the other",
            )
        if not self.interval >= LEAST_INTERVAL:
            least = format_duration(LEAST_INTERVAL)
            raise BadInput(f"--interval {format_duration(self.interval)}: must be {least} or more")
        many = "--sweep" if self.sweeps else "--replications"
        if self.is_batch and self.chosen_engine != "model":
            raise BadInput(
                f"{many} goes with --engine model: in real time each run would take as long as its load",
                hint="leave --engine out, or compare a few values live with --compare key=value,value",
            )
        if self.sweeps and self.replications is not None:
            raise BadInput(
                "--sweep and --replications: give one of the two", hint="--sweep load.seed=1..10 varies the seed"
            )
        self._check_place()
        if self.compare is not None and (self.is_batch or self.chosen_engine == "both"):
            other = many if self.is_batch else "--engine both"
            raise BadInput(f"--compare and {other}: give one of the two")
        if self.chosen_engine == "model":
            given = {
                "--target": self.target is not None,
                "--allow-exhaustion": self.allow_exhaustion,
                "--port": self.port is not None,
                "--keep": self.keep,
                "--per-worker": self.per_worker is not None,
                "--sandbox-listen": self.sandbox_listen is not None,
            }
            for option in (option for option, is_given in given.items() if is_given):
                raise BadInput(
                    f"{option} is about a server, and --engine model needs none", hint="--engine live, or both"
                )

    def _check_place(self) -> None:
        if self.on != "local":
            from poolctl.engines.cluster.place import parse_place

            parse_place(self.on)
        if self.on != "local" and not self.is_batch and (self.chosen_engine == "model" or not self.is_on_cluster):
            raise BadInput(
                f"--on {self.on} goes with --sweep, --replications and recommend --verify; a live load takes the "
                "address of a Dask scheduler",
                hint="leave --on out, or give --on tcp://scheduler:8786",
            )
        if self.is_on_cluster:
            if self.target is not None and self.sandbox_listen is not None:
                raise BadInput("--target and --sandbox-listen: give one of the two")
            return
        for option, value in (("--per-worker", self.per_worker), ("--sandbox-listen", self.sandbox_listen)):
            if value is not None:
                raise BadInput(f"{option} is about a live load on a cluster", hint="add --on tcp://scheduler:8786")


@dataclass(frozen=True, slots=True)
class InspectRequest:
    """What ``inspect()`` samples, and for how long.

    ``conninfo`` None: the server of libpq's environment; no PostgreSQL if only poolers are named and the environment
    names none. ``duration``: seconds, from the first sample on; None: 3 s from the start of the call, or, with
    ``watch``, until stopped. ``record``: the file that keeps every snapshot. ``replay``: the recording, or the
    folder of a service, to diagnose instead of live systems. ``evidence``: pastes, exports and logs; with nothing else
    named, nothing is contacted.
    ``log_line_prefix``: of PostgreSQL's logs among them, "" infers it. ``since`` and ``until``: leave out lines of logs
    before and after, in seconds since the epoch, or since midnight when below a day; None: all.
    ``prometheus``: URL of a Prometheus whose history from ``since`` (None: an hour) to ``until`` (None: now) is read,
    every ``step`` seconds (None: as fine as is useful), of the series that ``match`` selects.
    ``relief``: also plan which backends to end; ``execute``: end them, if ``Progress.confirm_relief`` agrees.
    ``emergency``: take a reserved slot if no other is free.
    ``keep``: with ``watch``, ``record`` is a folder of recordings, of the newest samples of so many seconds in at most
    ``keep_size`` bytes (None: 1 GB). ``interval``: seconds between samples, None: 1 s, as a service 5 s.
    ``on_finding``: with ``watch``, ``Progress.report_finding`` is called when a finding of that severity begins, gets
    worse or ends. With it, with ``keep`` or if it is ``unattended``, the view goes on whether or not a source answers.
    """

    conninfo: str | None = None
    pgbouncers: tuple[str, ...] = ()
    pgpools: tuple[str, ...] = ()
    pool_stats: tuple[str, ...] = ()
    pool_stats_map: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    log_line_prefix: str = ""
    since: float | None = None
    until: float | None = None
    prometheus: str | None = None
    step: float | None = None
    match: str = ""
    duration: float | None = None
    watch: bool = False
    record: Path | str | None = None
    replay: Path | str | None = None
    show_literals: bool = False
    relief: bool = False
    execute: bool = False
    emergency: bool = False
    keep: float | None = None
    keep_size: int | None = None
    interval: float | None = None
    on_finding: Severity | None = None
    unattended: bool = False

    @property
    def is_service(self) -> bool:
        """True if it runs unattended: no source that is away ends it."""
        return self.unattended or self.keep is not None or self.on_finding is not None

    @property
    def targets(self) -> Targets:
        targets = find_targets(self.conninfo, self.pgbouncers, self.pgpools, self.pool_stats)
        return replace(targets, pool_stats_map=self.pool_stats_map)

    @property
    def is_named(self) -> bool:
        """True if the request itself names a system, not only libpq's environment."""
        return _is_named(self)

    @property
    def planned(self) -> float | None:
        """Seconds of sampling; None: until stopped."""
        if self.duration is not None:
            return self.duration
        return None if self.watch else SAMPLING_TIME

    @property
    def has_only_evidence(self) -> bool:
        """True if no server, pooler or application is to be contacted: there is evidence, and none of them is named."""
        return bool(self.evidence or self.prometheus) and not self.is_named

    def check(self) -> None:
        """Refuse values that contradict each other. Raises BadInput."""
        if self.log_line_prefix and not self.evidence:
            raise BadInput("--log-line-prefix is about logs", hint="name them with --evidence FILE")
        _check_history(self, has_logs=bool(self.evidence))
        if self.has_only_evidence:
            for name in ("watch", "duration", "execute", "emergency"):
                if getattr(self, name):
                    raise BadInput(
                        f"{spell(name)} needs a live server, and --evidence alone contacts nothing",
                        hint=f"name the server, or leave {spell(name)} out",
                    )
        if self.replay is not None:
            if self.is_named:
                raise BadInput("--replay reads a recording, and connects to nothing", hint="leave the server out")
            if self.evidence or self.prometheus:
                other = "--evidence" if self.evidence else "--prometheus"
                raise BadInput(f"--replay and {other}: give one of the two")
            for name in ("duration", "watch", "record", "execute", "emergency"):
                if getattr(self, name):
                    raise BadInput(
                        f"{spell(name)} does not go with --replay, which connects to nothing",
                        hint=f"leave {spell(name)} out",
                    )
        self._check_watch()
        if self.execute and not self.relief:
            raise BadInput(
                "--execute goes with --relief", hint="--relief alone shows what would be ended, and ends nothing"
            )

    def _check_watch(self) -> None:
        for name in ("keep", "on_finding", "interval"):
            if getattr(self, name) is not None and not self.watch:
                raise BadInput(f"{spell(name)} goes with --watch", hint=f"add --watch, or leave {spell(name)} out")
        if self.keep is not None and self.record is None:
            raise BadInput("--keep needs a folder for the recordings", hint="--record DIR")
        if self.keep is None and self.record is not None and Path(self.record).is_dir():
            raise BadInput(
                f"--record {self.record}: this is a folder", hint="name a file, or add --watch --keep 24h for a ring"
            )
        if self.keep is not None and self.record is not None and Path(self.record).is_file():
            raise BadInput(f"--record {self.record}: with --keep it names a folder, and this is a file")
        if self.on_finding is not None and (self.relief or self.execute):
            raise BadInput("--on-finding and --relief: give one of the two", hint="a service ends no backend")


@dataclass(frozen=True, slots=True)
class SweepLoad:
    """What a sweep runs: SQL statements, scripts in pgbench's language, or a built-in ``mix``.

    ``mix`` None: the built-in "mixed", unless there are statements or scripts. ``seconds``: the sweep ends by then.
    """

    queries: tuple[str, ...] = ()
    scripts: tuple[Path, ...] = ()
    mix: str | None = None
    seconds: float = SWEEP_TIME

    @property
    def chosen_mix(self) -> str | None:
        return self.mix or (None if self.queries or self.scripts else DEFAULT_MIX)

    def check(self) -> None:
        """Refuse loads that contradict each other, and scripts that are not there. Raises BadInput."""
        if self.mix and (self.queries or self.scripts):
            raise BadInput("--mix and statements of your own: give one of the two")
        for path in self.scripts:
            if not path.is_file():
                raise BadInput(f"--script {path}: there is no such file", hint="give a script in pgbench's language")


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """What ``recommend()`` measures, is given, sweeps and tries.

    ``figures``: given by hand, and stronger than measured ones; see ``read_figures``. ``conninfo`` None: as in
    InspectRequest, but no server is sampled if the figures, a recording or a sweep are enough. ``duration``: seconds
    of measuring, None for a minute. ``application``: whose pools, None for those of the largest application.
    ``verify``: "default" tries the result in the model if something was measured; ``on``: where, as in
    SimulateRequest. ``stacks``: names of libraries and poolers whose configuration is written.
    ``prometheus``: URL of a Prometheus, of whose history the busiest half hour is measured, between ``since`` (None: a
    week ago) and ``until`` (None: now).
    """

    figures: Figures = field(default_factory=Figures)
    conninfo: str | None = None
    pgbouncers: tuple[str, ...] = ()
    pgpools: tuple[str, ...] = ()
    pool_stats: tuple[str, ...] = ()
    pool_stats_map: tuple[str, ...] = ()
    duration: float | None = None
    application: str | None = None
    pids: tuple[int, ...] = ()
    process: str | None = None
    recording: Path | str | None = None
    prometheus: str | None = None
    since: float | None = None
    until: float | None = None
    step: float | None = None
    match: str = ""
    sweep: SweepLoad | None = None
    verify: Verify = "default"
    on: str = "local"
    stacks: tuple[str, ...] = ()
    seed: int = 1

    @property
    def is_named(self) -> bool:
        """True if the request itself names a system, not only libpq's environment."""
        return _is_named(self)

    @property
    def targets(self) -> Targets | None:
        """The systems to sample; None: none.

        The server of libpq's environment is meant only if nothing else says what the load or the capacity is.
        """
        has_file = self.recording is not None or self.prometheus is not None
        has_source = has_file or self.sweep is not None or has_load_or_capacity(self.figures)
        if not self.is_named and (has_source or not names_server(os.environ)):
            return None
        targets = find_targets(self.conninfo, self.pgbouncers, self.pgpools, self.pool_stats)
        return replace(targets, pool_stats_map=self.pool_stats_map)

    @property
    def is_measuring(self) -> bool:
        return self.recording is not None or self.prometheus is not None or self.targets is not None

    @property
    def measures_load(self) -> bool:
        """False if a server is sampled only for its limits, before a sweep of it."""
        return self.duration is not None or self.sweep is None

    def check(self) -> None:
        """Refuse values that contradict each other, and a request with nothing to size from. Raises BadInput."""
        if self.recording is not None and self.is_named:
            raise BadInput(
                "--recording reads what inspect --record kept, and samples no server", hint="give one of them"
            )
        _check_history(self, has_logs=False)
        if self.prometheus is not None and (self.recording is not None or self.is_named or self.duration is not None):
            raise BadInput(
                "--prometheus reads what was kept, and samples no server",
                hint="leave the server, --recording and --for out; limits go as figures: --max-connections 200",
            )
        if self.recording is not None and self.duration is not None:
            raise BadInput("--for does not go with --recording, which is as long as it is", hint="leave --for out")
        if self.on != "local" and self.verify not in ("model", "live"):
            raise BadInput("--on says where --verify runs", hint="add --verify, or leave --on out")
        if self.sweep is not None:
            check_one_sweep(bool(self.figures.sweep))
            self.sweep.check()
        if not self.is_measuring and self.sweep is None and not has_figures(self.figures):
            raise BadInput(
                "nothing to size a pool from: no server, no recording and no figures",
                hint='name a server to measure: poolctl recommend "host=... dbname=...", or give figures: '
                "--arrival-rate 100 --hold-time 8ms --instances 8",
            )


class SimulateFields(TypedDict, total=False):
    """The fields of SimulateRequest as keyword arguments. A string for several stands for one."""

    scenario: Path | str | None
    engine: Engine | None
    leak: bool | None
    leak_every: int | None
    leak_shape: str | None
    compare: str | None
    sweeps: Sequence[str]
    replications: int | None
    assignments: Sequence[str]
    duration: float | None
    seed: int | None
    target: str | None
    allow_exhaustion: bool
    port: int | None
    keep: bool
    interval: float
    on: str
    per_worker: int | None
    sandbox_listen: str | None


class InspectFields(TypedDict, total=False):
    """The fields of InspectRequest as keyword arguments."""

    conninfo: str | None
    pgbouncers: Sequence[str]
    pgpools: Sequence[str]
    pool_stats: Sequence[str]
    pool_stats_map: Sequence[str]
    evidence: Sequence[str]
    log_line_prefix: str
    since: float | None
    until: float | None
    prometheus: str | None
    step: float | None
    match: str
    duration: float | None
    watch: bool
    record: Path | str | None
    replay: Path | str | None
    show_literals: bool
    relief: bool
    execute: bool
    emergency: bool
    keep: float | None
    keep_size: int | None
    interval: float | None
    on_finding: Severity | None
    unattended: bool


class RecommendFields(TypedDict, total=False):
    """The fields of RecommendRequest as keyword arguments; ``figures`` may be a mapping for ``read_figures``."""

    figures: Figures | Mapping[str, Any]
    conninfo: str | None
    pgbouncers: Sequence[str]
    pgpools: Sequence[str]
    pool_stats: Sequence[str]
    pool_stats_map: Sequence[str]
    duration: float | None
    application: str | None
    pids: Sequence[int]
    process: str | None
    recording: Path | str | None
    prometheus: str | None
    since: float | None
    until: float | None
    step: float | None
    match: str
    sweep: SweepLoad | None
    verify: Verify
    on: str
    stacks: Sequence[str]
    seed: int


def make_request(kind: type[Request], request: Request | None, values: Mapping[str, Any]) -> Request:
    """Make a request of keyword arguments, or ``request`` with these fields changed. Raises TypeError as a call does.

    A string where several are possible stands for one, and a list becomes a tuple: a request stays frozen.
    """
    several = {each.name for each in fields(kind) if str(each.type).startswith("tuple")}  # type: ignore[arg-type]
    changes = {
        name: ((value,) if isinstance(value, str) else tuple(value)) if name in several else value
        for name, value in values.items()
    }
    return kind(**changes) if request is None else replace(request, **changes)  # type: ignore[type-var]


def find_targets(
    conninfo: str | None,
    pgbouncers: tuple[str, ...] = (),
    pgpools: tuple[str, ...] = (),
    pool_stats: tuple[str, ...] = (),
    *,
    environ: Mapping[str, str] | None = None,
) -> Targets:
    """Find what is to be sampled. If only poolers are named, PostgreSQL is not. ``environ`` None: of this process."""
    known = os.environ if environ is None else environ
    if conninfo is None and (pgbouncers or pgpools) and not names_server(known):
        return Targets(None, pgbouncers, pgpools, pool_stats)
    return Targets(conninfo or "", pgbouncers, pgpools, pool_stats)


def check_one_sweep(has_file: bool) -> None:
    """Refuse a file of sweep measurements beside a sweep. Raises BadInput."""
    if has_file:
        raise BadInput("--sweep and --sweep-file: give one of the two", hint="the file holds an earlier sweep")


def names_server(environ: Mapping[str, str]) -> bool:
    """Return True if libpq's environment names a server."""
    return any(environ.get(name) for name in _NAMING)


def spell(name: str) -> str:
    """Spell a field as the command line does."""
    return OPTIONS.get(name, "--" + name.replace("_", "-"))


def _check_history(request: InspectRequest | RecommendRequest, *, has_logs: bool) -> None:
    """Refuse bounds and selectors without a history that they are about. Raises BadInput."""
    if request.prometheus is not None:
        return
    for name in ("since", "until"):
        if getattr(request, name) is not None and not has_logs:
            raise BadInput(
                f"{spell(name)} is about logs and histories", hint="name them with --evidence FILE, or --prometheus URL"
            )
    for name in ("step", "match"):
        if getattr(request, name):
            raise BadInput(f"{spell(name)} is about the history of a Prometheus", hint="name it with --prometheus URL")


def _is_named(request: InspectRequest | RecommendRequest) -> bool:
    return bool(request.conninfo or request.pgbouncers or request.pgpools or request.pool_stats)
