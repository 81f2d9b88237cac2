"""Charts of characters, and the data behind them."""

from dataclasses import replace

import pytest
import report_runs as runs

from poolctl.api.results import Variant
from poolctl.report.charts import Layer, LimitLine, Mark, Panel, TimeChart, place_ticks, resample
from poolctl.report.comparison import chart_comparison
from poolctl.report.drawing import Piece, draw, draw_sparkline, strip_roles
from poolctl.report.simulation import chart_run


def chart(*values: float | None, top: float = 4.0, limit: LimitLine | None = None, rows: int = 1) -> TimeChart:
    panel = Panel("pool", (Layer("in use", "in_use", values),), top, limit, rows)
    return TimeChart("t", tuple(float(at) for at in range(len(values))), (panel,), 0.0, float(len(values) - 1))


def test_a_chart_in_ascii_reads_as_text() -> None:
    drawn = chart(0, 1, 2, 3, 4, 4, 4, 4, limit=LimitLine("max_open 4", 4), rows=4)

    lines = strip_roles(draw(drawn, 24, ascii_only=True))

    assert lines == [
        "pool  --- max_open 4",
        "4 |------------#########",
        "  |         ############",
        "  |      ###############",
        "0 |   ##################",
        "  ++-------------+------",
        "  0 s           5 s",
    ]


def test_the_topmost_row_is_full_only_when_the_limit_is_reached() -> None:
    near = strip_roles(draw(chart(*[99.0] * 9, top=100.0, limit=LimitLine("max_open 100", 100), rows=3), 40))
    full = strip_roles(draw(chart(*[100.0] * 9, top=100.0, limit=LimitLine("max_open 100", 100), rows=3), 40))

    assert "⣿" not in near[1]
    assert set(full[1].split("┤")[1]) == {"⣿"}


def test_one_connection_of_many_still_shows() -> None:
    lines = strip_roles(draw(chart(*[1.0] * 9, top=10_000.0, rows=3), 40))

    assert set(lines[3].split("┤")[1]) == {"⣀"}


def test_in_use_is_solid_and_open_above_it_is_not() -> None:
    panel = Panel("pool", (Layer("open", "open", (8.0,) * 9), Layer("in use", "in_use", (4.0,) * 9)), 8.0, rows=2)
    drawn = TimeChart("t", tuple(map(float, range(9))), (panel,), 0.0, 8.0)

    pieces = [piece for line in draw(drawn, 40)[1:3] for piece in line if piece.role in ("open", "in_use")]

    assert [piece.role for piece in pieces] == ["open", "in_use"]
    assert "⣿" not in pieces[0].text
    assert set(pieces[1].text) == {"⣿"}


def test_a_time_that_was_not_seen_stays_empty_and_is_not_zero() -> None:
    assert resample([None, 2.0, None, 4.0, None], [0.0, 1.0, 2.0, 3.0, 4.0], 0.0, 5.0, 5) == [-1, 2, 2, 4, -1]


def test_a_peak_survives_when_many_rows_share_a_column() -> None:
    values = [1.0] * 1000
    values[617] = 9.0

    assert max(resample(values, [float(at) for at in range(1000)], 0.0, 999.0, 10)) == 9.0


@pytest.mark.parametrize("width", [24, 40, 57, 80, 120, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_of_a_chart_is_wider_than_the_screen(width: int, ascii_only: bool) -> None:
    for build in runs.ALL[:-1]:
        drawn = chart_run(build()[0])
        assert drawn is not None

        lines = strip_roles(draw(drawn, width, ascii_only=ascii_only))

        assert max(map(len, lines)) <= width
        assert not ascii_only or "".join(lines).isascii()


def test_marks_that_have_no_room_beside_each_other_go_below_each_other() -> None:
    drawn = replace(
        chart(*[1.0] * 11), marks=(Mark(2.0, "exhausted 2 s"), Mark(2.5, "restart"), Mark(9.9, "recovered 9.9 s"))
    )

    *_, first, second = strip_roles(draw(drawn, 60))

    assert first.split() == ["▲", "exhausted", "2", "s", "recovered", "9.9", "s", "▲"]
    assert second.split() == ["▲", "restart"]


def test_a_sparkline_scales_to_its_top_and_leaves_zero_blank() -> None:
    assert draw_sparkline([0, 1, 2, 3, 4, 5, 6, 7, 8], 9, 8) == " ▁▂▃▄▅▆▇█"
    assert draw_sparkline([0, 1, 2, 3, 4, 5, 6, 7, 8], 3, 8, ascii_only=True) == "O#@"
    assert draw_sparkline([1, 2], 0, 8) == ""
    assert draw_sparkline([5], 9, 0) == "▁"


def test_ticks_are_round_instants_within_the_axis() -> None:
    assert place_ticks(0.0, 10.0, 6) == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert place_ticks(0.0, 12.04, 3) == [0.0, 5.0, 10.0]
    assert place_ticks(0.0, 3600.0, 4) == [0.0, 1200.0, 2400.0, 3600.0]
    assert place_ticks(0.0, 400_000.0, 2)[-1] <= 400_000.0


def test_a_run_of_one_row_has_no_chart() -> None:
    run, _ = runs.healthy()

    assert chart_run(replace(run, timeline=run.timeline[:1])) is None
    assert chart_run(replace(run, timeline=())) is None


def test_a_limit_far_above_the_data_is_told_and_does_not_press_it_flat() -> None:
    drawn = chart_run(runs.leaking()[0])
    assert drawn is not None

    pool, server, waiting = drawn.panels

    assert (pool.limit, pool.top) == (LimitLine("max_open 10", 10), 10)
    assert (server.title, server.limit, server.top) == ("server (usable 97 is above the chart)", None, 10)
    assert waiting.top == 50


def test_an_unlimited_pool_has_no_limit_line_and_a_model_run_no_server() -> None:
    drawn = chart_run(runs.unlimited()[0])
    assert drawn is not None

    assert [(panel.title, panel.limit) for panel in drawn.panels] == [("pool", None)]


def test_marks_name_the_events_and_the_exhaustion() -> None:
    drawn = chart_run(runs.refused_fleet()[0])
    assert drawn is not None

    assert [mark.text for mark in drawn.marks] == ["exhausted 800 ms", "restart", "recovered 9.1 s"]


def test_variants_are_compared_on_common_axes_and_a_shorter_run_ends_early() -> None:
    drawn = chart_comparison([Variant("leak", *runs.leaking()), Variant("fleet", *runs.refused_fleet())])
    assert drawn is not None

    leak, fleet = drawn.panels

    assert leak.top == fleet.top == 180
    assert (drawn.start, drawn.end) == (0.0, 60.0)
    assert fleet.layers[0].values[-1] is None
    assert leak.layers[0].values[-1] == 10


def test_pieces_of_a_line_carry_the_role_that_colors_them() -> None:
    line = draw(chart(*[2.0] * 9, top=4.0, limit=LimitLine("max_open 4", 4), rows=2), 30)[1]

    assert line[0] == Piece("4 ", "axis")
    assert line[-1].role == "limit"
