"""Files that a person or a program wrote wrongly: each is read, or refused in one line, within seconds.

A case is a good file with a few random changes, the same for the same seed. A hundred of each kind run here, and
thousands with ``-m slow``.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import poolctl
from poolctl.engines.model import simulate
from poolctl.errors import PoolctlError
from poolctl.observe.pool_metrics import PoolMetrics
from poolctl.scenario.scenario import load_scenario

ROOT = Path(__file__).parents[1]
SCENARIOS = [
    file
    for file in sorted(ROOT.glob("examples/**/*.toml"))
    if not file.name.startswith("fleet") and 'query = "' not in file.read_text()
]
FLEETS = sorted(ROOT.glob("examples/fleet*.toml"))
RECORDINGS = sorted(ROOT.glob("tests/recordings/*.jsonl"), key=lambda file: file.stat().st_size)[:6]
SWEEPS = sorted(ROOT.glob("examples/*.csv"))

POOL_FIGURES = [
    'db_client_connection_count{pool_name="a",state="used"} 5\n'
    'db_client_connection_count{pool_name="a",state="idle"} 1\n'
    'db_client_connection_max{pool_name="a"} 10\ndb_client_connection_pending_requests{pool_name="a"} 3\n',
    '# TYPE hikaricp_connections_active gauge\nhikaricp_connections_active{pool="x"} 4\nhikaricp_connections_max 10\n'
    'hikaricp_connections_pending{pool="x"} 1.0e1 1700000000000\n',
    json.dumps({"max_open": 10, "in_use": 3, "idle": 2, "waiting": 0, "acquire_count": 17}),
    json.dumps({"MaxOpenConnections": 10, "OpenConnections": 5, "InUse": 5, "Idle": 0, "WaitCount": 7}),
    "Pool size: 5  Connections in pool: 1 Current Overflow: 2 Current Checked out connections: 6",
]

WILD = (
    *("0", "-1", "-0.0", "1e400", "nan", "inf", "-inf", "9" * 30, "9" * 400, "9" * 5000, "0x" + "f" * 5000, "1e-400"),
    *("", '""', "[]", "{}", "null", "true", "[[", "]]", "{", "}", '"', "'", '"""', "=", ",", ":", "#", "\\", "%", "."),
    *("\x00", "\x1b[31m", "\u202e", "\ufeff", "\ud7ff", "é", "💥", "\r", "\n", "\t", "\x85", "\u2028"),
    *("1979-05-27T07:32:00Z", "07:32:00", "1h30", "-5s", "5 parsecs", "99999999d", "off", "unlimited"),
    *("[" * 500, "a." * 500 + "a=1", "x" * 200_000, "{" * 300, '{"a":' * 2000),
)


def mutate(random: Random, text: str) -> str:
    """Change ``text`` in one to four places."""
    for _ in range(random.randint(1, 4)):
        lines = text.splitlines(keepends=True) or [""]
        at = random.randrange(len(lines))
        change = random.randrange(8)
        if change == 0:
            text = re.sub(r"\d[\d.]*", lambda found: random.choice((found[0], random.choice(WILD))), text, count=6)
        elif change == 1:
            del lines[at]
            text = "".join(lines)
        elif change == 2:
            text = "".join([*lines[:at], lines[random.randrange(len(lines))], *lines[at:]])
        elif change == 3:
            lines[at] = re.sub(r"([=:,{\s])\s*[^=:,{}\s]+", rf"\1 {re.escape(random.choice(WILD))}", lines[at], count=1)
            text = "".join(lines)
        elif change == 4:
            place = random.randrange(len(text) + 1)
            text = text[:place] + random.choice(WILD) + text[place:]
        elif change == 5:
            text = text[: random.randrange(len(text) + 1)]
        elif change == 6:
            start = random.randrange(len(text) + 1)
            text = text[:start] + text[start + random.randint(1, 30) :]
        else:
            words = re.findall(r"[\w.-]+", text) or [""]
            text = text.replace(random.choice(words), random.choice((*words, *WILD)), random.randint(1, 3))
    return text


def run_scenario(path: Path) -> None:
    """Read a scenario, and run the first moments of it in both of its forms."""
    polls = iter(range(5))
    run = simulate(load_scenario(path), stop=lambda: next(polls, None) is None)
    assert run.summary.offered >= 0


def check_fleet(path: Path) -> None:
    json.loads(poolctl.check_fleet(path).to_json())


def replay(path: Path) -> None:
    json.loads(poolctl.inspect(replay=path).to_json())
    json.loads(poolctl.recommend(recording=path).to_json())


def read_figures(path: Path) -> None:
    PoolMetrics(str(path)).sample()


def read_sweep(path: Path) -> None:
    json.loads(poolctl.recommend(figures={"sweep_file": path, "instances": 4}).to_json())


READERS: dict[str, tuple[Callable[[Path], None], list[str], float]] = {
    "scenario.toml": (run_scenario, [file.read_text() for file in SCENARIOS], 20.0),
    "fleet.toml": (check_fleet, [file.read_text() for file in FLEETS], 5.0),
    "recording.jsonl": (replay, [file.read_text() for file in RECORDINGS], 20.0),
    "figures.prom": (read_figures, POOL_FIGURES, 5.0),
    "sweep.csv": (read_sweep, [file.read_text() for file in SWEEPS], 5.0),
}
"""The function that reads a file, good files, and the seconds of a processor that it may take."""

LOUD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


def spent() -> float:
    """Seconds of a processor that this process and those that it started have taken: other load does not count."""
    return sum(os.times()[:4])


def fuzz(name: str, seeds: range, folder: Path) -> list[str]:
    """Read the cases of ``seeds``, and return a sentence for each that was not read or refused as it should be."""
    read, good, limit = READERS[name]
    faults = []
    for seed in seeds:
        random = Random(f"{name}/{seed}")
        path = folder / name
        path.write_text(mutate(random, random.choice(good)), encoding="utf-8", errors="surrogatepass")
        began = spent()
        try:
            read(path)
        except PoolctlError as error:
            text = error.message
            if not text.strip() or len(text.splitlines()) > 1 or len(text) > 1000:
                faults.append(f"seed {seed}: the message is {len(text)} long: {text[:200]!r}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a fault of poolctl's
            faults.append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        if spent() - began > limit:
            faults.append(f"seed {seed}: took {spent() - began:.1f} s")
    return faults


@pytest.mark.parametrize("name", READERS)
def test_the_good_files_are_read(tmp_path: Path, name: str) -> None:
    read, good, _ = READERS[name]
    for number, text in enumerate(good):
        path = tmp_path / f"{number}-{name}"
        path.write_text(text)
        read(path)


@pytest.mark.parametrize("name", READERS)
def test_a_file_with_random_faults_is_read_or_refused_in_one_line(tmp_path: Path, name: str) -> None:
    assert fuzz(name, range(100), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("part", range(4))
def test_thousands_of_files_with_random_faults_are_read_or_refused_in_one_line(
    tmp_path: Path, name: str, part: int
) -> None:
    assert fuzz(name, range(1000 + part * 500, 1500 + part * 500), tmp_path) == []
