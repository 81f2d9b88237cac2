from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolctl.errors import BadInput
from poolctl.scenario.toml import TomlSource, TomlTable, override, read_toml

TEXT = """\
name = "x"

[load]
workers = "many"

[[load.bursts]]
at = "1s"

[[load.bursts]]
at = "2s"
[load.bursts.hold]
mean = "5 parsecs"

[pool] # of the application
max_open = -1
"""


def table(**values: Any) -> TomlTable:
    return TomlTable(values, TomlSource())


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("name", "leak.toml, line 1: "),
        ("load", "leak.toml, line 3: "),
        ("load.workers", "leak.toml, line 4: "),
        ("load.hold.mean", "leak.toml, line 3: "),
        ("load.bursts[0].at", "leak.toml, line 7: "),
        ("load.bursts[1].at", "leak.toml, line 10: "),
        ("load.bursts[1].hold.mean", "leak.toml, line 12: "),
        ("load.bursts[1].think.mean", "leak.toml, line 9: "),
        ("load.bursts[7].at", "leak.toml, line 6: "),
        ("pool.max_open", "leak.toml, line 15: "),
        ("database.cores", "leak.toml: "),
    ],
)
def test_a_key_is_found_on_its_line_or_on_that_of_the_table_it_belongs_to(key: str, place: str) -> None:
    assert TomlSource("leak.toml", TEXT).locate(key) == place


def test_tables_within_tables_of_an_array_are_found_each_on_its_own_line() -> None:
    text = """name = "x"
[[service]]
name = "a"
[[service.load.bursts]]
at = 1
[[service]]
name = "b"
[service.load]
workers = 3
[[service.load.bursts]]
at = 2
[[service.load.bursts]]
at = 3
[[evdnts]]
at = 1
[ pool . "odd.name" ]
"max_open" = 3
"""
    places = {
        "service[0].name": 3,
        "service[0].load.bursts[0].at": 5,
        "service[1].name": 7,
        "service[1].load.workers": 9,
        "service[1].load.bursts[0].at": 11,
        "service[1].load.bursts[1].at": 13,
        "evdnts": 14,
        "evdnts[0].at": 15,
        "pool.odd.name.max_open": 17,
    }

    assert {key: TomlSource("f", text).locate(key) for key in places} == {
        key: f"f, line {line}: " for key, line in places.items()
    }


def test_lines_of_a_text_that_look_like_keys_are_not_taken_for_them() -> None:
    text = 'setup = """\n[pool]\nmax_open = 5\n"""\n[pool]\nmax_open = -1\n'

    assert TomlSource("f", text).locate("pool.max_open") == "f, line 6: "


def test_keys_of_a_table_within_an_inline_array_are_found_on_the_line_of_the_array() -> None:
    text = 'name = "x"\nevents = [ { at = "1s", do = "explode" } ]\n'

    assert TomlSource("leak.toml", text).locate("events[0].do") == "leak.toml, line 2: "


def test_an_override_is_blamed_for_its_key_and_all_below_it_and_for_nothing_else() -> None:
    source = TomlSource("leak.toml", TEXT, ["load.hold", "pool.max_open"])

    assert source.locate("pool.max_open") == "--set "
    assert source.locate("load.hold.mean") == "--set "
    assert source.locate("load.workers") == "leak.toml, line 4: "


def test_without_a_file_an_error_begins_with_the_key() -> None:
    with pytest.raises(BadInput, match=r'^pool\.max_open = "x": must be a whole number$'):
        TomlTable({"max_open": "x"}, TomlSource(), "pool").take_count("max_open", 1)


@pytest.mark.parametrize(
    ("take", "value", "rule"),
    [
        (lambda t: t.take_count("key", 0), True, "must be a whole number"),
        (lambda t: t.take_count("key", 0), 1.0, "must be a whole number"),
        (lambda t: t.take_count("key", 0), -1, "must be 0 or more"),
        (lambda t: t.take_count("key", 1, least=1), 0, "must be 1 or more"),
        (lambda t: t.take_count_or_unlimited("key", 2, least=1), 0, "must be 1 or more"),
        (lambda t: t.take_count_or_unlimited("key", 2), "infinite", "must be a whole number"),
        (lambda t: t.take_number("key", 1.0), "1", "must be a number"),
        (lambda t: t.take_number("key", 1.0), False, "must be a number"),
        (lambda t: t.take_number("key", 1.0), 0, "must be more than 0, and finite"),
        (lambda t: t.take_number("key", 1.0), float("inf"), "must be more than 0, and finite"),
        (lambda t: t.take_number("key", 1.0), float("nan"), "must be more than 0, and finite"),
        (lambda t: t.take_text("key", ""), 5, "must be text in quotes"),
        (lambda t: t.take_duration("key", 0.0), "soon", "a duration is a number with a unit"),
        (lambda t: t.take_duration("key", 0.0), [1], "a duration is a number with a unit"),
        (lambda t: t.take_duration("key", 0.0), "off", "a duration is a number with a unit"),
        (lambda t: t.take_duration_or_off("key", 0.0), -1, "cannot be negative"),
        (lambda t: t.take_choice("key", "a", ("a", "b")), "c", "must be one of a, b"),
        (lambda t: t.take_choice("key", "a", {"a": 1}), ["a"], "must be one of a"),
        (lambda t: t.take_table("key"), 5, "must be a table"),
        (lambda t: t.take_tables("key"), {"a": 1}, r"must be an array of tables, written \[\[key\]\]"),
        (lambda t: t.take_tables("key"), [1], "must be a table"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_with_that_rule(
    take: Callable[[TomlTable], object], value: object, rule: str
) -> None:
    with pytest.raises(BadInput, match=f"^key.* = .*: .*{rule}"):
        take(table(key=value))


def test_an_absent_key_takes_its_default_and_a_written_one_its_value() -> None:
    empty, written = table(), table(a=3, b="5ms", c="off", d="unlimited", e="x", f=2, g=[{}, {}])

    assert empty.take_count("a", 1) == 1
    assert empty.take_duration_or_off("c", 7.0) == 7.0
    assert empty.take_count_or_unlimited("d", 2) == 2
    assert empty.take_count_or_unlimited("d", None) is None
    assert empty.take_tables("g") == []
    assert written.take_count("a", 1) == 3
    assert written.take_duration("b", 1.0) == 0.005
    assert written.take_duration_or_off("c", 7.0) is None
    assert written.take_count_or_unlimited("d", 2) is None
    assert written.take_text("e", "") == "x"
    assert written.take_number("f", 1.0) == 2.0
    assert len(written.take_tables("g")) == 2
    written.finish()


def test_none_is_what_is_switched_off_where_that_can_be_and_the_default_elsewhere() -> None:
    nothing = table(a=None, b=None, c=None)

    assert nothing.has("a")
    assert "a" not in nothing
    assert nothing.take_duration_or_off("a", 7.0) is None
    assert nothing.take_count_or_unlimited("b", 2) is None
    assert nothing.take_count("c", 9) == 9
    nothing.finish()


def test_a_key_that_was_not_taken_is_refused_with_the_nearest_that_exists() -> None:
    keys = TomlTable({"max_opne": 5}, TomlSource(), "pool")
    keys.take_count("max_open", 0)
    keys.skip("max_idle")

    with pytest.raises(
        BadInput, match=r"^pool\.max_opne = 5: there is no such key; did you mean max_open\?$"
    ) as refused:
        keys.finish()
    assert refused.value.hint == "keys here: max_open, max_idle"
    assert refused.value.exit_code == 2


def test_a_choice_that_does_not_exist_is_refused_with_the_nearest_that_does() -> None:
    with pytest.raises(BadInput, match="did you mean lognormal"):
        table(key="log-normal").take_choice("key", "constant", ("constant", "exponential", "lognormal"))


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(BadInput) as refused:
        table(key="x" * 500).take_count("key", 0)

    assert len(refused.value.message) < 100


def test_the_rest_of_a_table_is_handed_over_whole() -> None:
    keys = table(pool_mode="transaction", default_pool_size=20)

    assert keys.take_rest() == {"pool_mode": "transaction", "default_pool_size": 20}
    keys.finish()


def test_a_file_that_is_not_there_or_cannot_be_read_or_is_not_toml_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = \n")
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')

    with pytest.raises(BadInput, match=r"none\.toml: no such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(BadInput, match="Is a directory"):
        read_toml(tmp_path)
    with pytest.raises(BadInput, match=r"bad\.toml: not a TOML file: .*line 1"):
        read_toml(tmp_path / "bad.toml")
    with pytest.raises(BadInput, match=r"latin\.toml: is not text in UTF-8"):
        read_toml(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("x = " + "[" * 20_000 + "]" * 20_000, "not a TOML file: tables and arrays are nested more than 16 deep"),
        ("x = " + "[" * 17 + "]" * 17, "tables and arrays are nested more than 16 deep"),
        (".".join("a" * 5_000) + " = 1", "tables and arrays are nested more than 16 deep"),
        ("x = " + "9" * 5_000, "not a TOML file: an integer has too many digits"),
        ("# " + "x" * 1_000_000, "is larger than 1,000,000 bytes, too large for a file of keys"),
    ],
)
def test_a_file_without_measure_is_refused_in_one_line(tmp_path: Path, content: str, rule: str) -> None:
    path = tmp_path / "wild.toml"
    path.write_text(content)

    with pytest.raises(BadInput) as refused:
        read_toml(path)

    assert refused.value.message == f"{path}: {rule}"


def test_a_device_without_end_is_refused() -> None:
    with pytest.raises(BadInput, match="is larger than 1,000,000 bytes"):
        read_toml(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("assignment", "rule"),
    [
        ("pool.max_open=" + "[" * 20_000, "nested more than 16 deep"),
        ("pool.max_open=" + "9" * 5_000, "an integer has too many digits"),
        (".".join("a" * 40) + "=1", "tables are nested more than 16 deep"),
    ],
)
def test_an_assignment_without_measure_is_refused_in_one_line(assignment: str, rule: str) -> None:
    with pytest.raises(BadInput) as refused:
        override({}, [assignment])

    assert rule in refused.value.message
    assert len(refused.value.message) < 160


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\nb", r'"a\nb"'),
        ('say "x"', r'"say \"x\""'),
        pytest.param(16**4000, "about 10^4816", id="huge"),
        (-(10**400), "about -10^400"),
        pytest.param([16**4000], "{...}", id="huge in a list"),
    ],
)
def test_a_value_is_shown_on_one_short_line_whatever_it_is(value: object, shown: str) -> None:
    with pytest.raises(BadInput) as refused:
        table(key=value).take_choice("key", "a", ("a", "b"))

    assert refused.value.message == f"key = {shown}: must be one of a, b"


def test_assignments_are_read_as_toml_where_they_are_toml_and_as_text_otherwise() -> None:
    values: dict[str, Any] = {"pool": {"max_open": 1}}

    keys = override(
        values,
        [
            "pool.max_open=30",
            "load.hold=250ms",
            'load.think = { distribution = "constant", mean = "1ms" }',
            "load.query=select 1",
            "load.rate=1.5",
            "pool.max_lifetime=off",
            'name="quoted"',
            "description=",
        ],
    )

    assert values == {
        "pool": {"max_open": 30, "max_lifetime": "off"},
        "load": {
            "hold": "250ms",
            "think": {"distribution": "constant", "mean": "1ms"},
            "query": "select 1",
            "rate": 1.5,
        },
        "name": "quoted",
        "description": "",
    }
    assert keys[:2] == ["pool.max_open", "load.hold"]


@pytest.mark.parametrize("assignment", ["pool.max_open", "=5", "pool..max_open=5", "a b=5", ".x=1"])
def test_what_is_no_assignment_is_refused_with_an_example(assignment: str) -> None:
    with pytest.raises(BadInput, match=r"must be section\.key=value") as refused:
        override({}, [assignment])
    assert "--set pool.max_open=10" in refused.value.hint


def test_an_assignment_below_what_is_no_table_is_refused() -> None:
    with pytest.raises(BadInput, match="events is not a table"):
        override({"events": [{}]}, ["events.at=5"])


def test_a_service_is_named_in_an_assignment_and_by_its_place_in_errors() -> None:
    values = {"service": [{"name": "api"}, {"name": "jobs", "pool": {"max_open": 3}}]}

    keys = override(values, ["service.jobs.pool.max_open=6", "service.api.pool.kind=pgxpool"])

    assert keys == ["service[1].pool.max_open", "service[0].pool.kind"]
    assert values == {
        "service": [{"name": "api", "pool": {"kind": "pgxpool"}}, {"name": "jobs", "pool": {"max_open": 6}}]
    }
    assert TomlSource("x.toml", "", keys).locate("service[1].pool.max_open") == "--set "


def test_a_service_that_is_not_there_or_no_service_at_all_is_refused_with_the_names() -> None:
    values = {"service": [{"name": "api"}, {"name": "jobs"}]}

    with pytest.raises(BadInput, match="there is no job") as misspelled:
        override(values, ["service.job.pool.max_open=6"])
    with pytest.raises(BadInput, match="is several tables") as unnamed:
        override(values, ["service.max_open=6"])

    assert misspelled.value.hint == "the names are: api, jobs"
    assert unnamed.value.hint == "write service.NAME.section.key=value"
