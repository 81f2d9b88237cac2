"""What --sweep means: values, ranges, the grid they span, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolctl.errors import BadInput
from poolctl.scenario.sweep import Axis, make_grid, parse_axes
from poolctl.scenario.toml import TomlSource


def words(option: str) -> tuple[str, ...]:
    return parse_axes([option])[0].words


def values(**tables: Any) -> dict[str, Any]:
    return {"name": "swept", "pool": {"max_open": 10, "max_idle": 5}, "load": {"workers": 4}} | tables


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2,4,8", ("2", "4", "8")),
        ("5..9", ("5", "6", "7", "8", "9")),
        ("5..60:20", ("5", "25", "45")),
        ("5..45:20", ("5", "25", "45")),
        ("7..7", ("7",)),
        ("1, 4..6 ,20", ("1", "4", "5", "6", "20")),
        ("10ms..50ms:20ms", ("10ms", "30ms", "50ms")),
        ("500ms..2s:500ms", ("500ms", "1000ms", "1500ms", "2000ms")),
        ("1m..1h:30m", ("1m", "31m")),
        ("0.1..0.3:0.1", ("0.1", "0.2", "0.3")),
        ("100..300:100", ("100", "200", "300")),
        ("off,30s", ("off", "30s")),
        ('{ distribution = "constant", mean = "2ms" },3ms', ('{ distribution = "constant", mean = "2ms" }', "3ms")),
    ],
)
def test_values_are_words_and_ranges_between_commas(written: str, meant: tuple[str, ...]) -> None:
    assert words(f"pool.max_open={written}") == meant


@given(first=st.integers(0, 500), step=st.integers(1, 50), count=st.integers(1, 100))
def test_a_range_holds_both_ends_when_its_steps_fall_on_them(first: int, step: int, count: int) -> None:
    last = first + step * (count - 1)

    found = words(f"pool.max_open={first}..{last}:{step}")

    assert found == tuple(str(value) for value in range(first, last + 1, step))


@given(count=st.integers(1, 60))
def test_steps_of_a_tenth_of_a_second_do_not_miss_the_end_for_want_of_precision(count: int) -> None:
    assert len(words(f"load.hold=0.1s..{count / 10}s:0.1s")) == count


def test_a_key_without_its_section_is_found() -> None:
    assert parse_axes(["max_open=1,2", "instances=3"]) == (
        Axis("pool.max_open", ("1", "2")),
        Axis("load.instances", ("3",)),
    )


def test_the_values_of_an_axis_are_those_of_a_scenario_file() -> None:
    assert Axis("k", ("5", "0.5", "10ms", "off", "true")).values == (5, 0.5, "10ms", "off", True)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("pool.max_open", "must be section.key=values"),
        ("=5", "must be section.key=values"),
        ("pool.max_open=", "a value is missing"),
        ("pool.max_open=1,,2", "a value is missing"),
        ("speed=1,2", "give the key with its section"),
        ("pool.max_open=9..5", "the range ends before it begins"),
        ("pool.max_open=1..5:0", "the step must be more than 0"),
        ("pool.max_open=1..x", "FROM..TO"),
        ("pool.max_open=-3..5", "FROM..TO"),
        ("pool.max_open=5..", "FROM..TO"),
        ("pool.max_open=1..9:2:3", "FROM..TO"),
        ("load.hold=10ms..50ms", "needs a step"),
        ("load.rate=0.5..3", "needs a step"),
        ("load.hold=10..50ms:5ms", "give all numbers of a range a unit, or none"),
        ("load.hold=10ms..50ms:5", "give all numbers of a range a unit, or none"),
        ("load.hold=1parsec..9parsec:1parsec", "a duration is a number with a unit"),
        ("pool.max_open=4,2..5", "4 is given twice"),
        ("pool.max_open=1..10000000", "10,000,000 runs, and 10,000 is the most"),
    ],
)
def test_what_is_no_axis_is_refused_with_the_key_and_the_rule(option: str, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_axes([option])

    assert said in refused.value.message
    assert option.partition("=")[0] in refused.value.message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["pool.max_open=1,2", "max_open=3"], "--sweep pool.max_open: is given twice"),
        (["load.hold=1ms", "load.hold.mean=2ms"], "is a part of load.hold, which has a --sweep of its own"),
        (["pool.max_open=1..500", "pool.max_idle=1..500"], "500 x 500 = 250,000 runs, and 10,000 is the most"),
    ],
)
def test_axes_that_contradict_each_other_or_are_too_many_are_refused(options: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_axes(options)

    assert said in refused.value.message


def test_the_grid_holds_every_combination_and_the_last_axis_changes_fastest() -> None:
    cells, notes = make_grid(values(), parse_axes(["pool.max_open=8,9", "load.instances=1..3"]), TomlSource())

    assert [cell.words for cell in cells] == [("8", "1"), ("8", "2"), ("8", "3"), ("9", "1"), ("9", "2"), ("9", "3")]
    assert [(cell.scenario.pool.max_open, cell.scenario.load.instances) for cell in cells] == [
        (8, 1),
        (8, 2),
        (8, 3),
        (9, 1),
        (9, 2),
        (9, 3),
    ]
    assert notes == []


def test_the_values_that_were_given_are_left_as_they_are() -> None:
    given = values()

    make_grid(given, parse_axes(["pool.max_open=8,9", "load.hold.mean=1ms,2ms"]), TomlSource())

    assert given == values()


def test_a_swept_pool_library_drops_what_it_has_no_setting_for_and_says_so() -> None:
    cells, notes = make_grid(values(), parse_axes(["pool.max_open=7", "pool.kind=database/sql,hikaricp"]), TomlSource())

    assert [(cell.scenario.pool.kind, cell.scenario.pool.max_open) for cell in cells] == [
        ("database/sql", 7),
        ("hikaricp", 7),
    ]
    assert notes == ["hikaricp: max_idle left out, the library has no such setting"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["pool.max_opne=3"], "--sweep pool.max_opne = 3: there is no such key; did you mean max_open?"),
        (["pool.acquire_timeout=1s,never"], '--sweep pool.acquire_timeout = "never"'),
        (["load.hold.mean=1ms,x"], '--sweep load.hold.mean = "x"'),
        (["load.workers.many=3"], "--sweep 'load.workers.many=3': workers is not a table"),
        (["pool.kind=hibernate"], '--sweep pool.kind = "hibernate": must be one of'),
        (["load.rate=100,200"], "--sweep load.rate = 100.0: give workers (closed loop) or rate (open loop), not both"),
    ],
)
def test_a_value_that_no_scenario_may_have_is_refused_as_the_sweeps(options: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        make_grid(values(), parse_axes(options), TomlSource("run.toml", "[pool]\nmax_open = 10\n"))

    assert refused.value.message.startswith(said)


def test_a_mistake_in_the_file_is_told_as_the_files() -> None:
    text = 'name = "swept"\n[load]\nworkers = -1\n'

    with pytest.raises(BadInput) as refused:
        make_grid(values(load={"workers": -1}), parse_axes(["pool.max_open=1,2"]), TomlSource("run.toml", text))

    assert refused.value.message == "run.toml, line 3: load.workers = -1: must be 1 or more"
