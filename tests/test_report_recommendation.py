"""Whole screens of a recommendation, compared with files that a reviewer reads."""

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import recommendations
from hypothesis import given, settings
from hypothesis import strategies as st
from report_parts import check_screen
from rich.cells import cell_len

from poolctl.api.results import RecommendResult
from poolctl.report.markdown import write_markdown
from poolctl.report.recommendation import build_recommendation_report
from poolctl.report.screen import open_screen
from poolctl.report.terminal import print_report
from poolctl.sizing.figures import Figure, Figures, Origin, TopStatement
from poolctl.stacks import STACKS

Build = Callable[[], RecommendResult]


def report(
    recommended: RecommendResult, width: int | None = None, *, color: bool = False, encoding: str = "utf-8"
) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    screen = open_screen(stream, "always" if color else "never", width=width, environ={})
    print_report(screen, build_recommendation_report(recommended))
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [120, 80, 40])
@pytest.mark.parametrize("build", recommendations.ALL, ids=lambda build: build.__name__)
def test_the_report_of_each_recommendation_is_as_reviewed(build: Build, width: int) -> None:
    check_screen(f"recommend_{build.__name__}_{width}", report(build(), width))


@pytest.mark.parametrize("build", [recommendations.balanced, recommendations.slow], ids=lambda build: build.__name__)
def test_the_piped_report_is_as_reviewed(build: Build) -> None:
    check_screen(f"recommend_{build.__name__}_pipe", report(build()))


def test_the_report_in_ascii_is_as_reviewed() -> None:
    text = report(recommendations.starved(), 80, encoding="ascii")

    assert text.isascii()
    check_screen("recommend_starved_ascii", text)


def test_the_colored_report_is_as_reviewed() -> None:
    check_screen("recommend_slow_color", report(recommendations.slow(), 80, color=True))


@pytest.mark.parametrize("build", recommendations.ALL, ids=lambda build: build.__name__)
def test_the_markdown_is_as_reviewed(build: Build) -> None:
    check_screen(f"recommend_{build.__name__}_markdown", write_markdown(build_recommendation_report(build())))


@pytest.mark.parametrize("build", recommendations.ALL, ids=lambda build: build.__name__)
def test_color_adds_nothing_but_color(build: Build) -> None:
    assert re.sub(r"\x1b\[[0-9;]*m", "", report(build(), 80, color=True)) == report(build(), 80)


@pytest.mark.parametrize("width", [30, 40, 59, 60, 61, 80, 120, 200])
@pytest.mark.parametrize("build", recommendations.ALL, ids=lambda build: build.__name__)
def test_no_line_but_what_is_to_be_copied_is_wider_than_the_terminal(build: Build, width: int) -> None:
    recommended = build()
    copied = {line.expandtabs(4).rstrip() for config in recommended.configs for line in config.text.splitlines()}
    lines = [line for line in report(recommended, width).splitlines() if line not in copied]

    assert [line for line in lines if cell_len(line) > width and not line.startswith("poolctl ")] == []


@pytest.mark.parametrize("width", [None, 120, 80, 40])
def test_the_first_line_is_the_answer(width: int | None) -> None:
    first = {build.__name__: report(build(), width).splitlines()[0] for build in recommendations.ALL}

    assert first["balanced"].startswith("Set max_open to 2, max_idle to 2")
    assert first["slow"].startswith("Refused: pool size is not the problem")
    assert first["unproven"].startswith("Refused: max_open 2 was tried")
    assert first["infeasible"].startswith("Refused: 36 processes")


def test_the_answer_says_where_it_goes_and_what_binds_it() -> None:
    lines = report(recommendations.balanced()).splitlines()

    assert lines[0].endswith("in each of 2 processes of 18 worst-case instances")
    assert lines[1].startswith("What binds is demand, at 2; the slots would bind next, at 2. Confidence ")
    assert lines[1].endswith("72 of 82 slots")


def test_a_missing_index_is_told_with_statement_table_column_and_both_bounds() -> None:
    text = report(recommendations.slow())

    for part in (
        *("97 % of the database's time", "reads 4,000,000 rows of orders", "No pool size gains more than 1 %"),
        *(
            "up to 33 times as much gets done",
            "Create an index on orders(customer_id)",
            "SELECT sum(amount) FROM orders",
        ),
    ):
        assert part in text


@pytest.mark.parametrize("build", [recommendations.slow, recommendations.leaking, recommendations.unproven])
def test_a_refusal_has_no_settings_that_somebody_could_take_from_it(build: Build) -> None:
    text = report(build())

    assert "Settings of each process" not in text
    assert "config.MaxConns" not in text
    assert "wait-target-missed" not in text


def test_every_term_of_the_arithmetic_has_its_source() -> None:
    text = report(recommendations.balanced())

    for line in (
        r"^ +100  max_connections +given",
        r"^- +12  other services +given",
        r"^= +82  slots for this service +computed",
        r"^\+ +3  surge +given",
        r"^x +2  processes per instance +given",
        r"^= +36  processes at worst +computed",
    ):
        assert re.search(line, text, re.MULTILINE), line


def test_configuration_is_printed_from_the_first_column_and_whole() -> None:
    recommended = recommendations.balanced()

    for width in (None, 40):
        lines = report(recommended, width).splitlines()
        for config in recommended.configs:
            block = [line.expandtabs(4).rstrip() for line in config.text.splitlines()]
            at = lines.index(block[0])
            assert lines[at : at + len(block)] == block


def test_what_was_tried_stands_beside_what_there_is_now() -> None:
    text = report(recommendations.balanced(), 120)

    assert re.search(r"^ +2 .*steady, advised$", text, re.MULTILINE)
    assert re.search(r"^ +30 .*211 .*largest fleet, now$", text, re.MULTILINE)


def test_what_spoils_the_measurement_is_said_right_below_the_answer() -> None:
    head = report(recommendations.interrupted()).split("\n\n")[0]

    assert "! INTERRUPTED after 12 s of 60 s" in head
    assert "! PgBouncer pgb1:6432 did not answer: no answer for 3.0 s" in head


@pytest.mark.parametrize("width", [None, 40, 120])
def test_nothing_that_a_client_names_commands_the_terminal(width: int | None) -> None:
    text = report(recommendations.hostile(), width)

    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", text) == []
    assert len(text) < 12_000


def test_nothing_that_a_client_names_formats_the_markdown() -> None:
    text = write_markdown(build_recommendation_report(recommendations.hostile()))

    outside = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    assert re.search(r"(?<!\\)[<>]", outside.replace("\n> ", "\n")) is None
    assert "\x1b" not in text


NUMBERS = st.floats(1e-6, 1e6, allow_nan=False)
COUNTS = st.integers(0, 5000).map(float)
ORIGINS = st.sampled_from(("measured", "given", "assumed"))


def some(values: st.SearchStrategy[float]) -> st.SearchStrategy[Figure | None]:
    def figure(value: float, origin: Origin) -> Figure:
        return Figure(value, origin)

    return st.none() | st.builds(figure, values, ORIGINS)


TIMES = ("hold_time", "wait_target", "cpu_time", "connect_time", "failover_target", "request_timeout", "wait_time")
COUNTED = (
    *("workers", "connections_per_request", "processes", "instances", "max_instances", "surge", "terminating"),
    *("max_connections", "other_connections", "headroom", "role_limit", "capacity", "cores", "current_max_open"),
)
SHARES = ("database_cpu", "lock_share", "contention_share", "transaction_idle_share", "censored_share", "surge_share")
FIGURES = st.builds(
    Figures,
    arrival_rate=some(st.floats(0.01, 1e4)),
    **{name: some(st.floats(1e-4, 100)) for name in TIMES if name != "failover_target"},
    failover_target=some(st.floats(5, 100)),
    **{name: some(COUNTS) for name in COUNTED},
    **{name: some(st.floats(0, 1)) for name in SHARES},
    parallelism=some(st.floats(0, 200)),
    throughput=some(NUMBERS),
    effective_samples=st.none() | st.floats(0, 1000),
    top_statement=st.none() | st.builds(TopStatement, query=st.text(max_size=30), share=st.floats(0, 1)),
)


@given(FIGURES, st.sampled_from(sorted(STACKS)), st.sampled_from([None, 40, 80]))
@settings(max_examples=60, deadline=None)
def test_whatever_the_figures_the_report_is_whole_in_every_form(
    figures: Figures, stack: str, width: int | None
) -> None:
    recommended = recommendations.of(figures, stack)

    assert report(recommended, width).startswith(("Set max_open to ", "Refused: "))
    assert write_markdown(build_recommendation_report(recommended)).startswith("**")
    assert '"command": "recommend"' in recommended.to_json()


def test_a_recommendation_for_one_process_does_not_speak_of_many() -> None:
    alone = recommendations.VECTOR.with_(
        instances=None, max_instances=None, processes=None, surge_share=None, surge=Figure(0), terminating=Figure(0)
    )

    assert report(recommendations.of(alone)).splitlines()[0].endswith("in its only process")


def test_an_answer_that_was_not_tried_says_why() -> None:
    assert "Not tried: --no-verify" in report(recommendations.starved())
    assert "Not tried" not in report(replace(recommendations.starved(), unverified=""))
