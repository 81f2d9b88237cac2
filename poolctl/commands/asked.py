"""What the command line of ``simulate`` asks for: which engine, which scenarios, and what does not go together."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poolctl.errors import BadInput

if TYPE_CHECKING:
    from poolctl.scenario.scenario import Scenario
    from poolctl.scenario.sweep import Axis, Cell
    from poolctl.scenario.toml import TomlSource
    from poolctl.scenario.variants import NamedValues

ENGINES = ("live", "model", "both")


@dataclass(frozen=True, slots=True)
class SimulateRequest:
    """The command line, as far as it is not about output."""

    scenario: Path | None
    engine: str | None
    leak: bool | None
    leak_every: int | None
    leak_shape: str | None
    compare: str | None
    sweeps: tuple[str, ...]
    replications: int | None
    assignments: tuple[str, ...]
    duration: float | None
    seed: int | None
    target: str | None
    allow_exhaustion: bool
    port: int | None
    keep: bool
    interval: float

    @property
    def is_batch(self) -> bool:
        """Many model runs, of which only the numbers are kept."""
        return bool(self.sweeps) or self.replications is not None

    @property
    def chosen_engine(self) -> str:
        return self.engine or ("model" if self.is_batch else "live")


def check_together(asked: SimulateRequest) -> None:
    """Refuse options that contradict each other. Raises BadInput."""
    many = "--sweep" if asked.sweeps else "--replications"
    if asked.is_batch and asked.chosen_engine != "model":
        raise BadInput(
            f"{many} goes with --engine model: in real time each run would take as long as its load",
            hint="leave --engine out, or compare a few values live with --compare key=value,value",
        )
    if asked.sweeps and asked.replications is not None:
        raise BadInput(
            "--sweep and --replications: give one of the two", hint="--sweep load.seed=1..10 varies the seed"
        )
    if asked.compare is not None and (asked.is_batch or asked.chosen_engine == "both"):
        other = many if asked.is_batch else "--engine both"
        raise BadInput(f"--compare and {other}: give one of the two")
    if asked.chosen_engine == "model":
        given = {
            "--target": asked.target is not None,
            "--allow-exhaustion": asked.allow_exhaustion,
            "--port": asked.port is not None,
            "--keep": asked.keep,
        }
        for option in (option for option, is_given in given.items() if is_given):
            raise BadInput(f"{option} is about a server, and --engine model needs none", hint="--engine live, or both")


def read_values(asked: SimulateRequest) -> "tuple[dict[str, Any], TomlSource]":
    """The scenario file's values with what the options change in them. Raises BadInput."""
    from poolctl.scenario.toml import TomlSource, override, read_toml
    from poolctl.scenario.variants import with_leak, without_leak

    path = asked.scenario or Path(__file__).parent.parent / "default.toml"
    values, text = read_toml(path)
    overridden = override(values, _assignments(asked))
    if asked.leak or ((asked.leak_every or asked.leak_shape) and asked.leak is not False):
        values = with_leak(values, every=asked.leak_every, shape=asked.leak_shape)
    elif asked.leak is False:
        values = without_leak(values)
    return values, TomlSource(str(path), text, overridden)


def read_scenarios(asked: SimulateRequest) -> "list[tuple[NamedValues, Scenario]]":
    """The scenarios to run, each with its name, checked before anything is started. Raises BadInput."""
    from poolctl.scenario.scenario import parse_scenario
    from poolctl.scenario.variants import NamedValues, parse_variants

    values, source = read_values(asked)
    if asked.compare is None:
        variants = [NamedValues(str(values.get("name", "")), values)]
    else:
        variants = parse_variants(values, asked.compare)
    scenarios = [(variant, parse_scenario(variant.values, source)) for variant in variants]
    for _, scenario in scenarios:
        _check_engine(scenario, asked.chosen_engine)
    return scenarios


def read_sweep(asked: SimulateRequest) -> "tuple[tuple[Axis, ...], list[Cell], list[str]]":
    """The axes of the sweep, its cells, and what had to be left out of some. Raises BadInput."""
    from poolctl.scenario.sweep import make_grid, parse_axes

    values, source = read_values(asked)
    axes = parse_axes(asked.sweeps)
    cells, notes = make_grid(values, axes, source)
    for cell in cells:
        _check_engine(cell.scenario, "model")
    return axes, cells, notes


def read_replications(asked: SimulateRequest) -> "list[Scenario]":
    """The scenario once for each derived seed. Raises BadInput."""
    from poolctl.scenario.replications import derive_seed
    from poolctl.scenario.scenario import parse_scenario
    from poolctl.scenario.toml import override

    values, source = read_values(asked)
    first = parse_scenario(values, source)
    _check_engine(first, "model")
    scenarios = [first]
    for number in range(1, asked.replications or 0):
        override(values, [f"load.seed={derive_seed(first.load.seed, number)}"])
        scenarios.append(parse_scenario(values, source))
    return scenarios


def repeat_command(words: Sequence[str], asked: SimulateRequest, seed: int) -> str:
    """The command that does the same again: what was typed, with the seed, and without a password."""
    said = list(words)
    if asked.seed is None:
        said += ["--seed", str(seed)]
    if asked.target is not None:
        from poolctl.engines.live.live_servers import hide_password

        said = [word.replace(asked.target, hide_password(asked.target)) for word in said]
    return shlex.join(["poolctl", *said])


def _check_engine(scenario: "Scenario", engine: str) -> None:
    """Refuse what the chosen engine, or one of the two, cannot do. Raises BadInput."""
    if engine in ("live", "both"):
        from poolctl.engines.live.engine import check_scenario

        check_scenario(scenario)
    if engine in ("model", "both"):
        from poolctl.engines.model.plan import check

        check(scenario)


def _assignments(asked: SimulateRequest) -> list[str]:
    own = list(asked.assignments)
    if asked.duration is not None:
        own.append(f"load.duration={asked.duration}")
    if asked.seed is not None:
        own.append(f"load.seed={asked.seed}")
    return own
