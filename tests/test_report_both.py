"""Live and model side by side: what the model is told, how far apart they are, and how far to trust it."""

import io
import json
from dataclasses import replace
from typing import Any

import pytest
import report_runs as runs
from report_parts import check_screen, scenario, summary, times
from rich.cells import cell_len
from schema_check import problems
from test_report_json import SCHEMA

from poolctl.api.documents import dumps
from poolctl.api.model_trust import compare_summaries, judge_model
from poolctl.api.results import SimulateResult, Variant
from poolctl.engines.live.calibration import calibrate
from poolctl.engines.model import simulate
from poolctl.report.comparison import build_both_report
from poolctl.report.files import write_report
from poolctl.report.screen import open_screen
from poolctl.report.terminal import print_report
from poolctl.scenario.histogram import Times
from poolctl.scenario.run import Generator, ObservedServer, Run, Summary
from poolctl.scenario.scenario import Distribution, Scenario

REPEAT = "poolctl simulate --engine both --seed 1"


def live(**changed: Any) -> Run:
    run, _ = runs.healthy()
    return replace(run, summary=replace(run.summary, **changed))


def model(**changed: Any) -> Run:
    return replace(live(**changed), engine="model", generator=None)


def shown(one: Run, other: Run, width: int | None) -> str:
    stream = io.StringIO()
    findings = runs.healthy()[1]
    note = "the model's server has cores without limit, since pg_sleep needs none"
    screen = open_screen(stream, "never", width=width, environ={})
    model_run = Variant("model", replace(other, notes=(note,)), findings)
    print_report(screen, build_both_report(Variant("", one, findings), model_run, repeat=REPEAT))
    return stream.getvalue()


def apart() -> tuple[Run, Run]:
    waits = times(*[0.0001] * 4000, *[0.003] * 760, *[0.02] * 52)
    return live(timed_out=3, queued_count=310), model(throughput=502.0, wait_time=waits, queued_count=420)


@pytest.mark.parametrize("width", [None, 120, 80, 40])
def test_the_report_of_both_is_as_reviewed(width: int | None) -> None:
    text = shown(*apart(), width)

    assert width is None or all(cell_len(line) <= width for line in text.splitlines())
    check_screen(f"both_{width or 'pipe'}", text)


def test_the_difference_is_the_model_less_the_live_run_and_that_as_a_share_of_it() -> None:
    found = {each.name: each for each in compare_summaries(live().summary, model(throughput=529.32).summary)}

    assert found["released/s"].absolute == pytest.approx(48.12)
    assert found["released/s"].relative == pytest.approx(0.1)
    assert found["timed out"].relative == 0.0
    refused = {each.name: each for each in compare_summaries(live().summary, model(refused=3).summary)}["refused"]
    assert (refused.absolute, refused.relative) == (3, None)


def waits(mean: float, p99: float) -> Times:
    return replace(live().summary.wait_time, mean=mean, p99=p99)


@pytest.mark.parametrize(
    ("changed", "level", "said"),
    [
        ({}, "close", "The model can be trusted for loads like this one: released/s 481 live and 481 in the model"),
        ({"throughput": 500.0}, "close", "+3.9 %"),
        ({"throughput": 530.0}, "fair", "Trust the model for which variant is better"),
        ({"throughput": 700.0}, "far", "Do not trust the model here: released/s 481 live and 700 in the model (+45 %)"),
        ({"wait_time": waits(0.0012, 0.0055)}, "close", "wait p99"),
        ({"wait_time": waits(0.0003, 0.9)}, "far", "wait p99 3.94 ms live and 900 ms in the model"),
        ({"timed_out": 30}, "close", "trusted"),
        ({"timed_out": 200}, "fair", "timed out 0 live and 200 in the model"),
        ({"refused": 2000}, "far", "refused 0 live and 2,000 in the model"),
    ],
)
def test_the_number_that_is_worst_decides_how_far_to_trust(changed: dict[str, Any], level: str, said: str) -> None:
    found, sentence = judge_model(live(), model(**changed))

    assert found == level
    assert said in sentence


def test_waits_that_differ_by_less_than_a_millisecond_are_no_reason_for_distrust() -> None:
    nothing = replace(live().summary.wait_time, mean=0.0001, p99=0.0002)

    assert judge_model(live(wait_time=nothing), model(wait_time=waits(0.0009, 0.0019)))[0] == "close"


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (runs.generator_bound()[0], model(), "the load generator was the limit of the live run"),
        (runs.interrupted()[0], model(), "the run was interrupted"),
        (live(), replace(model(), interrupted=True), "the run was interrupted"),
        (live(), replace(model(), failure="the queue grows for ever"), "the model run is incomplete"),
        (runs.broken()[0], model(), "the live run is incomplete"),
        (live(released=0), model(), "no connection was released in the live run"),
    ],
)
def test_a_run_that_is_spoiled_says_nothing_about_the_model(one: Run, other: Run, reason: str) -> None:
    assert judge_model(one, other) == ("unknown", f"The model cannot be judged: {reason}.")


def test_the_document_has_both_runs_and_differences_in_the_summarys_shape() -> None:
    one, other = apart()

    document = json.loads(SimulateResult("both", (Variant("", one), Variant("model", other))).to_json())

    assert problems(document, SCHEMA, SCHEMA) == []
    assert (document["status"], document["live"]["engine"], document["model"]["engine"]) == ("ok", "live", "model")
    assert document["difference"]["throughput"] == {
        "live": 481.2,
        "model": 502.0,
        "absolute": pytest.approx(20.8),
        "relative": pytest.approx(20.8 / 481.2),
    }
    for path in (("wait_time", "p99"), ("use_time", "mean"), ("queued", "count"), ("connections", "peak_open")):
        section, key = path
        assert document["difference"][section][key]["live"] == document["live"]["summary"][section][key]
    assert document["trust"]["level"] == "far"


def test_a_live_run_that_ended_early_stands_alone_in_the_document() -> None:
    document = SimulateResult("both", (Variant("", *runs.interrupted()),)).to_dict()

    assert document["status"] == "interrupted"
    assert (document["model"], document["difference"], document["trust"]) == (None, None, None)
    assert problems(json.loads(dumps(document)), SCHEMA, SCHEMA) == []


def test_both_are_written_as_the_files_name_asks(tmp_path: Any) -> None:
    variants = [Variant("checkout", apart()[0]), Variant("model", apart()[1])]

    for suffix in ("json", "svg", "html", "md"):
        write_report(tmp_path / f"both.{suffix}", SimulateResult("both", tuple(variants)))

    assert json.loads((tmp_path / "both.json").read_text())["difference"]["throughput"]["live"] == 481.2
    assert "model" in (tmp_path / "both.svg").read_text()
    assert "<h2>live</h2>" in (tmp_path / "both.html").read_text()


def taught(base: Scenario, **changed: Any) -> Scenario:
    seen: Summary = summary(**{"connect_time": Times(100, 0.8, 0.008, 0.0064, 0, 0, 0.02, 0.03)} | changed)
    return calibrate(base, Run("live", base, 1, seen, ()))[0]


def test_the_model_opens_as_long_as_the_live_run_did_with_the_scatter_of_mean_over_median() -> None:
    found = taught(scenario("x", load={"workers": 3})).database.connect_time

    assert (found.kind, found.mean) == ("lognormal", 0.008)
    assert found.cv == pytest.approx(0.75)


@pytest.mark.parametrize(
    "seen", [Times(3, 0.024, 0.008, 0.002), Times(50, 0.4, 0.008, 0.009), Times(50, 0.4, 0.008, 0.0)]
)
def test_few_openings_or_a_median_above_the_mean_give_a_constant(seen: Times) -> None:
    assert taught(scenario("x", load={"workers": 3}), connect_time=seen).database.connect_time == Distribution(
        "constant", 0.008
    )


def test_without_an_opening_the_scenario_keeps_its_own() -> None:
    base = scenario("x", database={"connect_time": "7ms"}, load={"workers": 3})

    assert taught(base, connect_time=Times()).database.connect_time == Distribution("constant", 0.007)


def test_behind_a_pooler_it_is_the_connection_to_the_pooler_that_was_measured() -> None:
    found = taught(scenario("x", database={"via": "pgbouncer"}, load={"workers": 3})).database

    assert found.pooler_connect_time.mean == 0.008
    assert found.connect_time == Distribution("constant", 0.005)


@pytest.mark.parametrize(("query", "cores"), [("sleep", None), ("cpu", 6)])
def test_the_cores_are_the_machines_and_no_limit_for_a_load_that_sleeps(query: str, cores: int | None) -> None:
    base = scenario("x", load={"workers": 3, "query": query, "hold": "5ms"})

    assert taught(base, server=ObservedServer(cores=6)).database.cores == cores


def test_the_cores_of_a_server_elsewhere_are_not_known_and_stay_the_scenarios() -> None:
    base = scenario("x", database={"cores": 4}, load={"workers": 3, "query": "cpu", "hold": "5ms"})

    assert taught(base, server=ObservedServer()).database.cores == 4


def test_an_opening_costs_the_server_no_more_than_it_takes() -> None:
    base = scenario("x", load={"workers": 3})

    assert taught(base, connect_time=Times(9, 0.009, 0.001, 0.001)).database.connect_cpu == 0.001


def test_a_model_that_is_taught_by_a_model_agrees_with_it() -> None:
    base = scenario(
        "x", database={"cores": None}, load={"workers": 8, "hold": "10ms", "think": "10ms", "duration": "4s"}
    )
    first = simulate(base)

    second = simulate(calibrate(base, first)[0])

    assert judge_model(replace(first, engine="live", generator=Generator(Times(), 0.1)), second)[0] == "close"
