"""Many model runs on several processes: the same results, whatever becomes of the processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from operator import attrgetter
from pathlib import Path

import psutil
import pytest

from poolctl.engines.batch import run_many
from poolctl.engines.model import simulate
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Scenario, parse_scenario

summary_of: Callable[[Run], object] = attrgetter("summary")


def scenario(seed: int = 1, **load: object) -> Scenario:
    quick = {"workers": 4, "hold": "5ms", "think": "5ms", "duration": "500ms", "seed": seed}
    return parse_scenario({"name": "quick", "pool": {"max_open": 3}, "load": quick | load})


def hour_long() -> Scenario:
    """Minutes of work."""
    return scenario(hold="1ms", think="1ms", workers=200, duration="10h")


def end_own_process_at_seed_3(run: Run) -> int:
    if run.seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return run.seed


def fail_at_seed_3(run: Run) -> int:
    if run.seed == 3:
        raise RuntimeError("seed three is not liked here")
    os.write(1, b"nothing that is written there gets among the answers")
    return run.seed


def running_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_run_is_what_it_is_alone_and_comes_with_its_number(processes: int) -> None:
    scenarios = [scenario(seed) for seed in range(7)]

    results = list(run_many(scenarios, summary_of, processes=processes))

    assert sorted(result.number for result in results) == list(range(7))
    assert {result.number: result.kept for result in results} == {
        number: simulate(each).summary for number, each in enumerate(scenarios)
    }
    assert not any(result.loss for result in results)


def test_no_scenario_gives_no_result() -> None:
    assert list(run_many([], summary_of)) == []


def test_a_process_that_is_killed_loses_its_run_and_no_other() -> None:
    results = list(run_many([scenario(seed) for seed in range(8)], end_own_process_at_seed_3, processes=2))

    assert sorted(result.kept for result in results if result.kept is not None) == [0, 1, 2, 4, 5, 6, 7]
    lost = [result for result in results if result.kept is None]
    assert [result.number for result in lost] == [3]
    assert lost[0].loss == "its process was ended by signal 9 (SIGKILL)"


def test_a_run_that_fails_is_lost_with_its_last_words_and_output_of_its_own_disturbs_nothing() -> None:
    results = list(run_many([scenario(seed) for seed in range(5)], fail_at_seed_3, processes=2))

    assert sorted(result.kept for result in results if result.kept is not None) == [0, 1, 2, 4]
    assert [result.loss for result in results if result.loss] == [
        "its process ended with exit code 1: RuntimeError: seed three is not liked here"
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_results_arrive_before_the_last_run_ends_and_stopping_ends_the_processes_at_once(processes: int) -> None:
    before = len(running_children())
    found: list[int] = []
    began = time.monotonic()

    results = run_many(
        [scenario(), hour_long(), hour_long()], summary_of, processes=processes, stop=lambda: bool(found)
    )
    found.extend(result.number for result in results)

    assert found == [0]
    assert time.monotonic() - began < 60
    assert len(running_children()) == before


def test_leaving_the_results_unread_ends_the_processes() -> None:
    before = len(running_children())

    with closing(run_many([scenario(), hour_long(), hour_long()], summary_of, processes=2)) as results:
        assert next(results).number == 0
        assert len(running_children()) == before + 2

    assert len(running_children()) == before


def test_processes_do_not_outlive_a_killed_poolctl(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from operator import attrgetter\n"
        "from test_batch import hour_long\n"
        "from poolctl.engines.batch import run_many\n"
        "print(*run_many([hour_long()] * 2, attrgetter('summary'), processes=2))\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        children: list[psutil.Process] = []
        deadline = time.monotonic() + 60
        while len(children) < 2 and time.monotonic() < deadline:
            children = psutil.Process(process.pid).children()
            time.sleep(0.02)
        process.kill()
        output, _ = process.communicate(timeout=60)

    assert len(children) == 2
    assert output == b""
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def test_memory_does_not_grow_with_the_timelines_of_the_runs() -> None:
    """A timeline of 4,000 rows is most of a megabyte; forty of them would show."""
    before = psutil.Process().memory_info().rss

    scenarios = [scenario(seed, workers=1, hold="100ms", duration="100s") for seed in range(40)]
    kept = [result.kept for result in run_many(scenarios, summary_of, interval=0.025, processes=2)]

    assert len(kept) == 40
    assert psutil.Process().memory_info().rss - before < 5_000_000
