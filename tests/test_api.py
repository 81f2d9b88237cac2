"""The Python API: requests and keyword arguments, documents, progress, and an early end."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import poolctl
from poolctl.api import requests
from poolctl.api.figures import read_figures
from poolctl.errors import BadInput, Interrupted
from poolctl.sizing.figures import Figures

ROOT = Path(__file__).parents[1]
RECORDING = next(iter(sorted((ROOT / "tests" / "recordings").glob("*.jsonl"))))
VECTOR = {"arrival_rate": 150, "hold_time": 0.008, "instances": 8, "max_connections": 100}


def printed_by(words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "poolctl", *shlex.split(words), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("request_type", "keywords"),
    [
        (requests.SimulateRequest, requests.SimulateFields),
        (requests.InspectRequest, requests.InspectFields),
        (requests.RecommendRequest, requests.RecommendFields),
    ],
)
def test_the_keywords_of_a_call_are_the_fields_of_its_request(request_type: Any, keywords: Any) -> None:
    # A call takes any sequence, and figures as a mapping, too.
    wider: dict[Any, Any] = {
        tuple[str, ...]: Sequence[str],
        tuple[int, ...]: Sequence[int],
        Figures: Figures | Mapping[str, Any],
    }
    known = {field.name: field.type for field in fields(request_type)}

    assert get_type_hints(keywords) == {name: wider.get(kind, kind) for name, kind in known.items()}


def test_importing_poolctl_imports_nothing_else_of_it() -> None:
    program = "import sys, poolctl; print(sorted(name for name in sys.modules if name.startswith('poolctl.')))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_every_public_name_can_be_imported_and_no_other() -> None:
    assert all(getattr(poolctl, name) is not None for name in poolctl.__all__)
    assert set(poolctl.__all__) <= set(dir(poolctl))
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        poolctl.simulat  # type: ignore[attr-defined]  # noqa: B018


def test_the_api_imports_neither_click_nor_rich(tmp_path: Path) -> None:
    program = (
        "import sys, poolctl\n"
        "poolctl.simulate(engine='model', duration=5.0).to_json()\n"
        f"poolctl.recommend(figures={VECTOR!r}).to_json()\n"
        f"poolctl.inspect(replay={str(RECORDING)!r}).to_json()\n"
        "print({'click', 'rich'} & {name.partition('.')[0] for name in sys.modules})"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_simulation_has_the_document_that_the_command_prints() -> None:
    result = poolctl.simulate(engine="model", leak=True, duration=20.0, seed=3)

    assert result.to_json() + "\n" == printed_by("simulate --engine model --leak --for 20s --seed 3")
    assert json.loads(result.to_json()) == result.to_dict()


def test_a_sweep_has_the_document_that_the_command_prints() -> None:
    result = poolctl.simulate(sweeps="pool.max_open=5,10", duration=5.0)

    assert result.to_json() + "\n" == printed_by("simulate --sweep pool.max_open=5,10 --for 5s")


def test_an_inspection_has_the_document_that_the_command_prints() -> None:
    result = poolctl.inspect(replay=RECORDING, relief=True)

    assert result.to_json() + "\n" == printed_by(f"inspect --replay {RECORDING} --relief")


def test_a_recommendation_has_the_document_that_the_command_prints() -> None:
    result = poolctl.recommend(figures=VECTOR, stacks="go")
    figures = "--arrival-rate 150 --hold-time 8ms --instances 8 --max-connections 100"

    printed = json.loads(printed_by(f"recommend {figures} --for-stack go"))
    assert printed.pop("repeat").startswith("poolctl recommend --arrival-rate 150")
    assert json.loads(result.to_json()) == printed | {"repeat": ""}


def test_a_request_and_keywords_mean_the_same_and_keywords_win() -> None:
    request = poolctl.SimulateRequest(engine="model", duration=5.0, assignments=("pool.max_open=4",))

    result = poolctl.simulate(request, seed=7)

    assert result.seed == 7
    assert result.run.scenario.pool.max_open == 4
    assert result == poolctl.simulate(engine="model", duration=5.0, assignments=["pool.max_open=4"], seed=7)


def test_a_keyword_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="engin"):
        poolctl.simulate(engin="model")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: poolctl.simulate(engine="modle"), "--engine modle: must be one of live, model, both"),  # type: ignore[arg-type]
        (lambda: poolctl.simulate(engine="model", target="host=a"), "--target is about a server"),
        (lambda: poolctl.inspect("host=a", replay=RECORDING), "--replay reads a recording"),
        (lambda: poolctl.inspect("host=a", execute=True), "--execute goes with --relief"),
        (lambda: poolctl.recommend(figures=VECTOR, stacks=["no-such"]), "no-such"),
        (lambda: poolctl.recommend(figures=VECTOR | {"throughput": 9}), "--arrival-rate and --throughput"),
        (lambda: poolctl.recommend("host=a", recording=RECORDING), "--recording reads"),
        (lambda: read_figures({"hold_time": -1}), "hold_time = -1: must be a number of seconds, above 0"),
        (lambda: read_figures({"hold_time": "8ms"}), "hold_time = '8ms': must be a number of seconds"),
        (lambda: read_figures({"instances": 1.5}), "instances = 1.5: must be a whole number"),
        (lambda: read_figures({"surge": "many"}), "--surge many: must be a count or a percentage"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_starts(call: Callable[[], object], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        call()

    assert said in refused.value.message


def test_a_run_that_is_stopped_is_a_result_that_says_so() -> None:
    polls = iter([False] * 3)

    result = poolctl.simulate(engine="model", duration=3600.0, stop=lambda: next(polls, True))

    assert result.interrupted
    assert result.run.interrupted
    assert result.to_dict()["status"] == "interrupted"
    assert 0 < result.run.summary.duration < 3600


def test_a_comparison_that_is_stopped_does_not_begin_the_next_run() -> None:
    result = poolctl.simulate(engine="model", duration=3600.0, compare="leak,correct", stop=lambda: True)

    assert [variant.name for variant in result.variants] == ["leak"]
    assert result.interrupted


def test_sampling_that_is_stopped_before_the_first_sample_raises_interrupted() -> None:
    with pytest.raises(Interrupted):
        poolctl.inspect("host=127.0.0.1 port=1", stop=lambda: True)


def test_work_is_reported_to_what_the_caller_hands_in() -> None:
    reported: list[str] = []

    class Listening(poolctl.Progress):
        def note(self, text: str) -> None:
            reported.append(text)

        @contextmanager
        def show_model_run(self, name: str) -> Iterator[None]:
            reported.append(f"begin {name}")
            yield
            reported.append(f"end {name}")

        def show_batch(self, done: Callable[[], int], total: int, began: float) -> AbstractContextManager[object]:
            reported.append(f"{done()} of {total}")
            return super().show_batch(done, total, began)

        def finish(self) -> None:
            reported.append("finish")

    # Hours of virtual time, so that the run takes longer than the silence that progress keeps at first.
    poolctl.simulate(
        engine="model", duration=100_000.0, progress=Listening(), stop=lambda: any("begin" in text for text in reported)
    )

    (begun, ended, finish) = reported
    assert begun.startswith("begin ")
    assert ended == begun.replace("begin", "end")
    assert finish == "finish"


def test_a_recording_that_was_cut_off_is_a_warning_and_still_diagnosed(tmp_path: Path) -> None:
    warnings: list[str] = []

    class Listening(poolctl.Progress):
        def warn(self, text: str) -> None:
            warnings.append(text)

    cut = tmp_path / "cut.jsonl"
    cut.write_text(RECORDING.read_text(encoding="utf-8").rstrip()[:-40], encoding="utf-8")

    result = poolctl.inspect(replay=cut, progress=Listening())

    assert result.findings
    assert len(warnings) == 1
