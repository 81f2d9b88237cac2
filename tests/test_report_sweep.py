"""Sweeps and replications on screens, in CSV and in JSON."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from report_batches import cube_of_three, grid_of_two, line_of_one, replications
from report_parts import HOSTILE, check_screen, connections, summary
from rich.cells import cell_len
from schema_check import problems
from test_report_json import SCHEMA

from poolctl.api.results import Batch, SimulateResult, reopened_rate
from poolctl.report.batch import build_batch_report
from poolctl.report.charts import BarChart, HeatMap
from poolctl.report.csv import RUN_COLUMNS, write_csv
from poolctl.report.drawing import draw, strip_roles
from poolctl.report.progress import count_runs
from poolctl.report.screen import open_screen
from poolctl.report.terminal import print_report

REPEAT = "poolctl simulate --sweep pool.max_open=5..60:5 --sweep load.instances=2,4,8 --seed 1"


def shown(batch: Batch, width: int | None = None, *, encoding: str = "utf-8", color: bool = False) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    screen = open_screen(stream, "always" if color else "never", width=width, environ={})
    print_report(screen, build_batch_report(batch, repeat=REPEAT))
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(encoding)


ALL = [grid_of_two, line_of_one, cube_of_three, replications]


@pytest.mark.parametrize("width", [None, 120, 80, 40])
@pytest.mark.parametrize("build", ALL, ids=lambda build: build.__name__)
def test_the_report_of_many_runs_is_as_reviewed(build: Callable[[], Batch], width: int | None) -> None:
    check_screen(f"batch_{build.__name__}_{width or 'pipe'}", shown(build(), width))


@pytest.mark.parametrize("build", [grid_of_two, line_of_one], ids=lambda build: build.__name__)
def test_the_charts_in_ascii_are_as_reviewed(build: Callable[[], Batch]) -> None:
    text = shown(build(), 80, encoding="ascii")

    assert text.isascii()
    check_screen(f"batch_{build.__name__}_ascii", text)


@pytest.mark.parametrize("build", ALL, ids=lambda build: build.__name__)
def test_color_adds_nothing_but_color(build: Callable[[], Batch]) -> None:
    colored = shown(build(), 80, color=True)

    assert "\x1b[" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == shown(build(), 80)


@pytest.mark.parametrize("width", [40, 59, 60, 61, 80, 99, 120, 200])
def test_no_line_but_the_command_to_repeat_is_wider_than_the_terminal(width: int) -> None:
    for build in ALL:
        lines = shown(build(), width).splitlines()
        assert [line for line in lines if cell_len(line) > width and not line.startswith("poolctl ")] == []


def test_every_run_is_one_line_in_a_pipe() -> None:
    lines = shown(grid_of_two()).splitlines()

    start = next(number for number, line in enumerate(lines) if line.startswith("max_open  instances"))
    rows = [line.split()[:2] for line in lines[start + 1 : start + 37]]
    assert rows == [[str(size), str(pods)] for size in range(5, 61, 5) for pods in (2, 4, 8)]


def test_an_interrupted_sweep_says_how_far_it_came_and_leaves_the_rest_of_the_map_blank() -> None:
    whole = grid_of_two()
    half = replace(whole, points=whole.points[:18], interrupted=True)

    lines = shown(half, 80).splitlines()

    assert lines[2].startswith("! INTERRUPTED after 18 of 36 runs")
    at = next(number for number, line in enumerate(lines) if line.startswith("wait p99  across"))
    assert re.fullmatch(r"2 ┤\S{36}", lines[at + 1])


def test_runs_that_were_lost_or_cut_off_are_told_below_the_first_line() -> None:
    whole = line_of_one()
    cut = replace(whole.points[0], outcome=replace(whole.points[0].outcome, failure="100,001 requests wait"))
    batch = replace(whole, points=(cut, *whole.points[1:-1]), losses=("its process was ended by signal 9",))

    text = shown(batch)

    assert "! INCOMPLETE: 1 run was lost, its process was ended by signal 9\n" in text
    assert "! 1 run was stopped early; partial results shown. The first: 100,001 requests wait\n" in text
    assert "WARNING pool-undersized, stopped early\n" in text


def test_a_sweep_without_a_finished_run_says_so() -> None:
    batch = replace(grid_of_two(), points=(), interrupted=True)

    assert shown(batch, 80).startswith("No run of the sweep was finished\n! INTERRUPTED after 0 of 36 runs")
    assert batch.to_dict()["points"] == []
    assert replace(batch, axes=()).to_dict()["mean"] == {}


def test_the_first_run_near_the_best_is_named_not_the_best_itself() -> None:
    assert shown(grid_of_two()).splitlines()[0] == (
        "The most is 960 released/s; the first run with 97 % of it is max_open 10, instances 8 (OK)"
    )


def test_nothing_in_a_swept_value_commands_the_terminal() -> None:
    whole = line_of_one()
    axes = (replace(whole.axes[0], words=(HOSTILE, *whole.axes[0].words[1:])),)
    batch = replace(whole, axes=axes, points=(replace(whole.points[0], words=(HOSTILE,)), *whole.points[1:]))

    for width in (None, 80, 40):
        assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e]", shown(batch, width)) == []


def test_values_that_differ_by_chance_alone_are_told_and_not_drawn() -> None:
    whole = line_of_one()
    points = tuple(
        replace(
            point, outcome=replace(point.outcome, summary=replace(point.outcome.summary, throughput=400.0 + number / 2))
        )
        for number, point in enumerate(whole.points)
    )

    text = shown(replace(whole, points=points), 80)

    assert "released/s 400 to 406 in every run" in text
    assert "released/s  across" not in text
    assert "wait p99  across" in text


def test_a_heat_map_has_a_class_of_its_own_for_nothing_and_tells_where_classes_end() -> None:
    values = ((0.0, 10.0, 20.0, 30.0, 40.0), (40.0, 30.0, None, 10.0, 0.0))
    columns = ("5", "10", "15", "20", "25")
    heat = HeatMap("released/s", "in_use", "max_open", columns, "pods", ("2", "4"), values)

    lines = strip_roles(draw(heat, 40, ascii_only=True))

    assert lines == [
        "released/s  across: max_open, down: pods",
        "2 |......------++++++xxxxxx######",
        "4 |######xxxxxx      ------......",
        "   5     10    15    20    25",
        "  . 0  - 10 to 17.5  + to 25  x to 32.5",
        "  # to 40",
    ]


def test_the_classes_of_heat_grow_in_ratio_where_the_values_spread_far() -> None:
    values = ((0.001, 0.01, 0.1, 10.0),)
    heat = HeatMap("wait p99", "waiting", "max_open", ("1", "2", "3", "4"), "instances", ("2",), values, "time")

    lines = strip_roles(draw(heat, 80))

    assert lines[1] == "2 ┤░░░░░░░░░░░░▒▒▒▒▒▒██████"
    assert lines[3] == "  ░ 1 ms to 10 ms  ▒ to 100 ms  ▓ to 1 s  █ to 10 s"


def test_a_long_row_goes_on_in_another_band_and_loses_nothing() -> None:
    labels = tuple(str(number) for number in range(1, 101))
    values = (tuple(float(number) for number in range(50, 150)),)
    lines = strip_roles(draw(HeatMap("released/s", "in_use", "a", labels, "b", ("2",), values), 40))

    bands = [line.split("┤")[1] for line in lines if "┤" in line]
    assert [len(band) for band in bands] == [37, 37, 26]
    assert "".join(bands) == "░" * 25 + "▒" * 25 + "▓" * 25 + "█" * 25


def test_bars_are_as_high_as_their_values_and_the_least_one_shows() -> None:
    lines = strip_roles(draw(BarChart("released/s", "in_use", "max_open", ("1", "2", "3"), (0.0, 1.0, 800.0)), 40))

    assert lines == [
        "released/s  across: max_open",
        "800 ┤            █████",
        "    ┤            █████",
        "    ┤            █████",
        "  0 ┤      ▁▁▁▁▁ █████",
        "     1     2     3",
    ]


def test_reopened_is_what_was_opened_beyond_the_peak_per_second() -> None:
    churning = summary(connections=connections(opened=108, peak_open=8))

    assert reopened_rate(churning) == 10.0
    assert reopened_rate(summary(connections=connections(opened=3, peak_open=8))) == 0.0
    assert reopened_rate(summary(duration=0.0, connections=connections(opened=9, peak_open=8))) == 0.0


def test_the_csv_has_a_line_for_each_run_with_numbers_that_a_program_reads() -> None:
    rows = list(csv.DictReader(io.StringIO(write_csv(SimulateResult("model", batch=grid_of_two())))))

    assert list(rows[0]) == ["pool.max_open", "load.instances", *RUN_COLUMNS]
    assert len(rows) == 36
    last = rows[-1]
    assert (last["pool.max_open"], last["load.instances"], last["seed"]) == ("60", "8", "1")
    assert float(last["throughput"]) == 960.0
    assert int(last["refused"]) == (480 - 97) * 40
    assert float(last["reopened_rate"]) == pytest.approx(62.0)
    assert float(last["wait_p99"]) == pytest.approx(2.0 / 480**1.5, rel=0.01)
    assert (last["verdict"], last["cut_off"], last["exhausted_at"]) == ("CRITICAL slots-exhausted", "0", "")


def test_a_swept_text_with_commas_and_quotes_stays_one_field_of_the_csv() -> None:
    whole = line_of_one()
    word = '{ distribution = "constant", mean = "2ms" }'
    batch = replace(
        whole, axes=(replace(whole.axes[0], words=(word,)),), points=(replace(whole.points[0], words=(word,)),)
    )

    rows = list(csv.reader(io.StringIO(write_csv(SimulateResult("model", batch=batch)))))

    assert [len(row) for row in rows] == [len(RUN_COLUMNS) + 1] * 2
    assert rows[1][0] == "{'distribution': 'constant', 'mean': '2ms'}"


def test_the_json_of_a_sweep_has_the_values_and_the_summary_of_each_run() -> None:
    document = json.loads(grid_of_two().to_json())

    assert problems(document, SCHEMA, SCHEMA) == []
    assert (document["status"], document["engine"], document["planned"]) == ("ok", "model", 36)
    assert document["sweep"] == [
        {"key": "pool.max_open", "values": list(range(5, 61, 5))},
        {"key": "load.instances", "values": [2, 4, 8]},
    ]
    point = document["points"][-1]
    assert point["values"] == {"pool.max_open": 60, "load.instances": 8}
    assert point["summary"]["throughput"] == 960.0
    assert point["reopened_rate"] == pytest.approx(62.0)
    assert point["findings"][0]["code"] == "slots-exhausted"


def test_the_json_of_replications_has_means_and_intervals_in_the_shape_of_a_summary() -> None:
    document = json.loads(replications().to_json())

    assert problems(document, SCHEMA, SCHEMA) == []
    assert document["seeds"] == [100, 101, 102, 103, 104, 105]
    assert [each["throughput"] for each in document["replications"]] == [200.0, 300.0] * 3
    assert document["mean"]["throughput"] == 250.0
    low, high = document["interval"]["throughput"]
    # t(5) = 2.5706, the deviation of 200 and 300 three times each is 54.77.
    assert (250 - low, high - 250) == pytest.approx((57.48, 57.48), abs=0.01)
    one = document["replications"][0]["wait_time"]
    assert document["mean"]["wait_time"].keys() == {key for key in one if not key.endswith("_at_least")}
    assert document["mean"]["exhausted_at"] is None
    assert document["interval"]["exhausted_at"] is None


def test_a_lost_run_makes_the_document_failed_with_the_reason() -> None:
    document = replace(grid_of_two(), losses=("its process was ended by signal 9",)).to_dict()

    assert document["status"] == "failed"
    assert document["error"]["message"] == "1 run was lost: its process was ended by signal 9"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_in_a_log_the_progress_is_a_plain_line() -> None:
    stream = io.StringIO()

    with count_runs(open_screen(stream, environ={}), lambda: 3, 1200, began=10.0, now=lambda: 12.5):
        pass

    assert stream.getvalue() == "progress: 3 of 1,200 runs after 2.5 s\n"


def test_on_a_terminal_the_progress_is_one_line_that_is_gone_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()

    with count_runs(open_screen(stream, "never", width=60), lambda: 5, 10, began=10.0, now=lambda: 12.5):
        pass

    text = stream.getvalue()
    assert "━" in text
    assert "5 of 10 runs after 2.5 s" in text
    drawn = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text))
    assert max(map(cell_len, drawn)) < 60
    assert text.rindex("\x1b[2K") > text.rindex("runs after")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
