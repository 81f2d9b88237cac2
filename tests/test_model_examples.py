"""The model's examples: each still prints what is kept beside it, and shows what its comment says is to be learned."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from poolctl.engines.model import simulate
from poolctl.pool import LIBRARIES
from poolctl.scenario.scenario import parse_scenario
from poolctl.scenario.toml import TomlSource, override, read_toml

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples" / "model"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.toml"))

pytestmark = pytest.mark.slow


class Ran(NamedTuple):
    printed: str
    runs: dict[str, dict[str, Any]]
    """The JSON document of each variant, by the variant's name."""


Runner = Callable[[str], Ran]


def comment_of(name: str) -> list[str]:
    lines = (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in lines if line.startswith("#")]


def command_of(name: str) -> list[str]:
    (command,) = (line for line in comment_of(name) if line.startswith("poolctl "))
    return shlex.split(command)[1:]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Runs an example's own command, once for all tests that look at it."""
    done: dict[str, Ran] = {}

    def run_once(name: str) -> Ran:
        if name not in done:
            done[name] = _run(name, tmp_path_factory.mktemp("model") / f"{name}.json")
        return done[name]

    return run_once


def _run(name: str, document: Path) -> Ran:
    command = [sys.executable, "-m", "poolctl", *command_of(name), "--output", str(document)]
    plain = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR")}
    finished = subprocess.run(
        command,
        cwd=ROOT,
        env=plain | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    # The command is told at the end, with the option that only this test adds.
    printed = finished.stdout.replace(f" --output {shlex.quote(str(document))}", "")
    return Ran(printed, {run["name"]: run for run in json.loads(document.read_text(encoding="utf-8"))["runs"]})


def codes(run: dict[str, Any]) -> list[str]:
    return [finding["code"] for finding in run["findings"]]


@pytest.mark.parametrize("name", NAMES)
def test_every_example_says_what_it_is_what_to_learn_and_how_to_run_it(name: str) -> None:
    text = " ".join(line for line in comment_of(name) if not line.startswith("poolctl "))

    assert (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")
    assert len(re.findall(r"[.:] [A-Z]|\.$", text)) >= 3
    assert command_of(name)[:3] == ["simulate", "--engine", "model"]
    assert command_of(name)[-1] == f"examples/model/{name}.toml"


@pytest.mark.parametrize("name", NAMES)
def test_every_example_prints_what_is_kept_beside_it(name: str, ran: Runner) -> None:
    kept, printed = EXAMPLES / f"{name}.out", ran(name).printed
    if os.environ.get("POOLCTL_UPDATE_SCREENS"):
        kept.write_text(printed, encoding="utf-8")

    assert printed == kept.read_text(encoding="utf-8"), f"{kept.name} differs"


def test_every_kept_output_belongs_to_an_example() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.out")) == NAMES
    assert len(NAMES) >= 6


def test_bursts_reopen_18_of_20_connections_with_max_idle_2_and_none_with_20(ran: Runner) -> None:
    two, twenty = (ran("burst_max_idle").runs[f"max_idle={count}"]["summary"] for count in (2, 20))

    assert two["acquired"] == twenty["acquired"] == 200
    assert two["connections"]["opened"] == 20 + 9 * 18 == 182
    assert twenty["connections"]["opened"] == 20
    # The first burst finds nothing open in either; of the later ones two requests each find an idle connection.
    assert two["wait_time"]["total"] == pytest.approx(182 * 0.020)
    assert twenty["wait_time"]["total"] == pytest.approx(20 * 0.020)
    assert LIBRARIES["database/sql"].defaults.max_idle == 2


def test_a_limit_that_fits_the_fleet_does_not_fit_the_deploy(ran: Runner) -> None:
    fifteen, nine = (ran("deploy_overlap").runs[f"max_open={count}"] for count in (15, 9))

    assert fifteen["summary"]["server"]["usable"] == 97
    assert max(row["server_connections"] for row in fifteen["timeline"] if row["at"] < 19) == 75
    assert fifteen["summary"]["server"]["peak_connections"] == 97
    # Each refused opening is tried again, so there are more refusals than the 53 connections that found no slot.
    assert fifteen["summary"]["server"]["refused"] >= 150 - 97
    assert codes(fifteen) == ["fleet-over-budget", "slots-exhausted"]
    assert (nine["summary"]["server"]["peak_connections"], nine["summary"]["server"]["refused"]) == (90, 0)
    assert codes(nine) == ["healthy"]


def most_opening(timeline: list[dict[str, Any]], begin: float) -> int:
    return max(int(row["opening"]) for row in timeline if row["at"] > begin)


def test_jitter_spreads_the_openings_that_follow_a_failover_and_not_the_failover(ran: Runner) -> None:
    runs = ran("failover").runs
    none, spread = (runs[f"pool.max_lifetime_jitter={jitter}"] for jitter in ("0s", "30s"))

    for run in (none, spread):
        assert run["summary"]["connections"]["closed"]["error"] == 80
        assert max(row["opening"] for row in run["timeline"] if 30 <= row["at"] < 32) == 80
    assert most_opening(none["timeline"], 45) > 40
    assert most_opening(spread["timeline"], 45) < 10
    assert none["summary"]["wait_time"]["p99"] > 0.1
    assert spread["summary"]["wait_time"]["p99"] < 0.01
    assert most_opening(runs["hikaricp"]["timeline"], 45) < 20


def test_the_libraries_differ_in_jitter_as_the_failover_example_says() -> None:
    assert LIBRARIES["hikaricp"].rules.jitter == (-0.25, 0.0)
    assert LIBRARIES["pgxpool"].rules.jitter == (0.0, 0.0)
    assert LIBRARIES["pgxpool"].defaults.max_lifetime_jitter == 0.0
    assert LIBRARIES["database/sql"].rules.jitter == (0.0, 0.0)
    assert "max_lifetime_jitter" not in LIBRARIES["database/sql"].keys


def test_the_storm_comes_back_every_lifetime_with_database_sql() -> None:
    values, text = read_toml(EXAMPLES / "failover.toml")
    override(values, ["pool.kind=database/sql", "pool.max_idle=20", "load.duration=70s"])
    done = simulate(parse_scenario(values, TomlSource("failover.toml", text)))

    assert max(point.opening for point in done.timeline if 59 < point.at < 63) > 40


def test_as_many_connections_as_nested_holders_deadlock_and_one_more_does_not(ran: Runner) -> None:
    eight, nine, sixteen = (ran("nested_deadlock").runs[f"max_open={count}"] for count in (8, 9, 16))

    assert codes(eight) == ["self-deadlock"]
    assert eight["summary"]["unfinished"] == 8
    # It worked for a second, and after that nobody acquired anything.
    acquired = {round(row["at"], 1): row["acquired"] for row in eight["timeline"]}
    assert acquired[1.0] > 100
    assert {count for at, count in acquired.items() if at > 2} == {eight["summary"]["acquired"]}
    assert (eight["summary"]["leaked"], eight["summary"]["errors"]) == (0, [])
    for free in (nine, sixteen):
        assert codes(free) == ["healthy"]
        assert free["summary"]["unfinished"] == 0
    assert nine["summary"]["queued"]["count"] > 1000
    assert sixteen["summary"]["queued"]["count"] == 0


def test_retries_at_once_multiply_the_attempts_and_backoff_serves_every_request(ran: Runner) -> None:
    runs = ran("retry_storm").runs
    never, at_once, later = (
        runs[name]["summary"] for name in ("load.retries=0", "load.retry_backoff=0s", "load.retry_backoff=500ms")
    )

    arrived = never["offered"]
    lost = [arrived - each["acquired"] for each in (never, at_once, later)]
    assert at_once["timed_out"] == pytest.approx(6 * never["timed_out"], rel=0.1)
    assert lost[1] == pytest.approx(0.8 * lost[0], rel=0.05)
    assert lost[2] == 0
    assert lost[0] > 1000


def test_a_timeout_ends_the_queue_with_its_cause(ran: Runner) -> None:
    runs = ran("slow_query").runs
    patient, limited = (runs[f"acquire_timeout={limit}"]["summary"] for limit in ("off", "1s"))

    assert (patient["timed_out"], patient["unfinished"]) == (0, 0)
    assert 17 <= patient["wait_time"]["max"] < 18
    assert patient["recovered_at"] == pytest.approx(25 + 9, abs=0.5)
    assert limited["wait_time"]["max"] == pytest.approx(1.0)
    assert limited["timed_out"] == pytest.approx(limited["offered"] / 8, rel=0.02)
    assert limited["recovered_at"] == pytest.approx(25 + 1.3, abs=0.2)


def test_497_of_a_thousand_pods_take_every_slot_and_pgbouncer_needs_a_few(ran: Runner) -> None:
    direct, pooled = (ran("thousand_pods").runs[f"via={via}"] for via in ("none", "pgbouncer"))

    # One connection in each of 497 pods: what arrives at those pods is served, and nothing else is.
    assert direct["summary"]["connections"]["opened"] == 497
    assert direct["summary"]["acquired"] == pytest.approx(0.497 * direct["summary"]["offered"], rel=0.02)
    assert direct["summary"]["timed_out"] == direct["summary"]["offered"] - direct["summary"]["acquired"]
    assert direct["summary"]["server"]["peak_connections"] == 497
    assert codes(direct)[0] == "fleet-over-budget"
    assert pooled["summary"]["acquired"] == pooled["summary"]["offered"] > 30_000
    assert pooled["summary"]["connections"]["opened"] == 30_000
    assert pooled["summary"]["server"]["peak_connections"] < 64
    assert codes(pooled) == ["healthy"]
