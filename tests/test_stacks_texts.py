"""Every stack's configuration, compared with files that a reviewer reads, and the registry that finds them."""

import ast
import os
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stack_parts import OFF, ORDINARY, POOLER, POOLER_OFF, off, ordinary

from poolctl.errors import BadInput
from poolctl.pool.libraries import LIBRARIES, NOT_MODELED
from poolctl.stacks import STACKS, PoolAdvice, PoolerAdvice, Stack, find_stack, render

TEXTS = Path(__file__).parent / "stacks"


def check_text(name: str, text: str) -> None:
    """Compare with the file of that name; POOLCTL_UPDATE_STACKS=1 rewrites it, to be read in the diff."""
    path = TEXTS / f"{name}.txt"
    if os.environ.get("POOLCTL_UPDATE_STACKS"):
        path.write_text(text, encoding="utf-8")

    assert text == path.read_text(encoding="utf-8"), f"{path.name} differs"


@pytest.mark.parametrize("advice", [ordinary, off], ids=lambda advice: advice.__name__)
@pytest.mark.parametrize("stack", STACKS.values(), ids=lambda stack: stack.name)
def test_the_configuration_is_as_reviewed(stack: Stack, advice: Callable[[Stack], PoolAdvice | PoolerAdvice]) -> None:
    config = render(stack.name, advice(stack))

    assert (config.stack, config.file) == (stack.name, stack.file)
    check_text(f"{stack.name.replace('/', '-')}_{advice.__name__}", f"{config.file}\n{config.text}")


def test_no_reviewed_text_is_left_of_a_stack_that_is_gone() -> None:
    assert {path.stem for path in TEXTS.iterdir()} == {
        f"{name.replace('/', '-')}_{advice}" for name in STACKS for advice in ("ordinary", "off")
    }


def test_every_library_that_can_be_simulated_can_be_written() -> None:
    assert LIBRARIES.keys() - STACKS.keys() == {"none"}


def test_every_pool_that_is_known_by_name_only_can_be_written() -> None:
    assert NOT_MODELED.keys() <= STACKS.keys()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("go", "database/sql"),
        ("Go", "database/sql"),
        ("psycopg-pool", "psycopg_pool"),
        ("Spring Boot", "spring-boot"),
        ("hikari", "hikaricp"),
        ("pg", "node-pg"),
        ("rails-8.0", "rails-8.0"),
        ("activerecord", "rails"),
        ("prisma", "prisma"),
        ("prisma-6", "prisma-6"),
        ("Pgpool-II", "pgpool"),
        ("ef_core", "npgsql"),
    ],
)
def test_a_stack_is_found_by_its_name_or_an_alias_in_any_case(name: str, found: str) -> None:
    assert find_stack(name).name == found


def test_no_alias_means_two_stacks() -> None:
    words = [word for stack in STACKS.values() for word in {stack.name, *stack.aliases}]
    found = {word: [stack.name for stack in STACKS.values() if word in (stack.name, *stack.aliases)] for word in words}

    assert {word: names for word, names in found.items() if len(names) > 1} == {}
    assert {word: find_stack(word).name for word in words} == {word: names[0] for word, names in found.items()}


def test_an_unknown_stack_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(BadInput) as refused:
        render("sqlalchmy", ORDINARY)

    assert refused.value.message == "'sqlalchmy' is not a stack that poolctl can write; did you mean sqlalchemy?"
    assert "pgxpool" in refused.value.hint


def test_a_name_that_is_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(BadInput) as refused:
        find_stack("mongodb")

    assert refused.value.message == "'mongodb' is not a stack that poolctl can write"


def test_a_pooler_does_not_take_the_advice_for_a_pool() -> None:
    with pytest.raises(TypeError, match="pgbouncer takes a PoolerAdvice, not a PoolAdvice"):
        render("pgbouncer", ORDINARY)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"max_open": 0}, "max_open is 0; it must be 1 or more"),
        ({"max_idle": 13}, "max_idle is 13; it must be from 0 to 12"),
        ({"min_idle": -1}, "min_idle is -1; it must be from 0 to 12"),
        ({"max_lifetime": 0.0}, "max_lifetime is 0.0; it must be seconds above 0, or None for off"),
        ({"acquire_timeout": float("inf")}, "acquire_timeout is inf; it must be seconds above 0, or None for off"),
        ({"max_lifetime_jitter": 1.0}, "max_lifetime_jitter is 1.0; it must be a share from 0 to below 1"),
        ({"processes": 0}, "processes is 0; it must be 1 or more"),
    ],
)
def test_an_advice_that_no_pool_could_follow_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        replace(ORDINARY, **changes)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"default_pool_size": 0}, "default_pool_size is 0; it must be 1 or more"),
        ({"min_pool_size": 21}, "min_pool_size is 21; it must be from 0 to 20"),
        ({"max_db_connections": 0}, "max_db_connections is 0; it must be 1 or more"),
        ({"server_lifetime": -1.0}, "server_lifetime is -1.0; it must be seconds above 0, or None for off"),
    ],
)
def test_an_advice_that_no_pooler_could_follow_is_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        replace(POOLER, **changes)


times = st.none() | st.floats(0.001, 1e6) | st.integers(1, 10_000_000).map(float)
pool_advices = st.integers(1, 2000).flatmap(
    lambda most: st.builds(
        PoolAdvice,
        max_open=st.just(most),
        max_idle=st.integers(0, most),
        min_idle=st.integers(0, most),
        max_lifetime=times,
        max_lifetime_jitter=st.floats(0, 0.99),
        max_idle_time=times,
        acquire_timeout=times,
        processes=st.none() | st.integers(1, 1000),
    )
)
pooler_advices = st.builds(
    PoolerAdvice,
    pool_mode=st.sampled_from(["session", "transaction"]),
    default_pool_size=st.integers(1, 500),
    reserve_pool_size=st.integers(0, 100),
    reserve_pool_timeout=st.floats(0.001, 60),
    max_db_connections=st.none() | st.integers(1, 500),
    max_client_conn=st.integers(1, 10_000),
    query_wait_timeout=times,
    server_lifetime=times,
    server_idle_timeout=times,
    pairs=st.integers(1, 5),
    max_connections=st.none() | st.integers(1, 1000),
)
POOLS = [stack for stack in STACKS.values() if not stack.is_pooler]


@given(pool_advices, pooler_advices)
def test_any_advice_can_be_written_for_any_stack_on_a_page(pool: PoolAdvice, pooler: PoolerAdvice) -> None:
    for stack in STACKS.values():
        text = render(stack.name, pooler if stack.is_pooler else pool).text
        lines = text.splitlines()

        assert text.endswith("\n")
        assert [line for line in lines if line != line.rstrip()] == [], stack.name
        assert len(lines) <= 22, stack.name
        assert max(map(len, lines)) <= 175 if stack.file == ".env" else max(map(len, lines)) <= 112, stack.name


@given(pool_advices)
def test_what_is_python_can_be_parsed(advice: PoolAdvice) -> None:
    programs = [render(stack.name, advice).text for stack in POOLS if stack.file.endswith(".py")]

    assert programs
    assert all(ast.parse(program).body for program in programs)


@given(pooler_advices)
def test_what_is_toml_can_be_parsed(advice: PoolerAdvice) -> None:
    written = tomllib.loads(render("pgcat", advice).text)

    assert written["pools"]["app"]["users"]["0"]["pool_size"] == advice.default_pool_size
    assert all(time > 0 for time in written["general"].values())


@given(pool_advices)
def test_hikaricp_is_never_given_a_value_that_it_would_replace(advice: PoolAdvice) -> None:
    written = properties("spring-boot", advice)
    lifetime, idle, timeout = (
        int(written[f"spring.datasource.hikari.{key}"])
        for key in ("max-lifetime", "idle-timeout", "connection-timeout")
    )

    assert lifetime == 0 or lifetime >= 30_000
    assert idle == 0 or idle >= 10_000
    assert timeout == 0 or timeout >= 250
    assert lifetime == 0 or idle == 0 or idle + 1000 <= lifetime
    assert (timeout == 0) == (advice.acquire_timeout is None)


@pytest.mark.parametrize("stack", ["psycopg_pool", "django", "pgxpool", "knex", "rails", "sqlx", "r2d2"])
@given(advice=pool_advices)
def test_a_time_is_never_written_as_0_where_0_is_not_off(stack: str, advice: PoolAdvice) -> None:
    short = r"(max_lifetime|max_idle|timeout|Time|Lifetime|Millis|max_age|from_secs|from_millis)\W+0(\.0*)?(?![\d.])"
    # Rails' own idle time is the exception: there 0 is off.
    text = render(stack, advice).text.replace("  idle_timeout: 0 # off", "")

    assert re.search(short, text) is None


@given(pool_advices)
def test_javascript_timers_are_never_longer_than_javascript_can_wait(advice: PoolAdvice) -> None:
    for stack in ("node-pg", "knex", "typeorm", "prisma"):
        for key, value in re.findall(r"(\w+(?:Millis|MS)): (\d+)", render(stack, advice).text):
            assert int(value) <= 2_147_483_647 or key.startswith("maxConnectionLifetime"), (stack, key)


@given(pooler_advices)
def test_pgpool_and_rds_proxy_never_open_more_than_the_slots(advice: PoolerAdvice) -> None:
    pgpool = properties("pgpool", advice)
    opened = int(pgpool["num_init_children"]) * int(pgpool["max_pool"])

    assert opened <= max(advice.slots, advice.pairs)
    if advice.max_connections is not None:
        percent = int(properties("rds-proxy", advice)["percent"])
        assert percent == 1 or percent * advice.max_connections <= 100 * advice.slots


def test_a_jitter_is_drawn_within_the_lifetime_by_libraries_that_have_none() -> None:
    assert "25*time.Minute - rand.N(5*time.Minute)" in render("go", ORDINARY).text
    assert "pool_recycle=1500 - random.randrange(300)," in render("sqlalchemy", ORDINARY).text
    assert "max-age=${random.long[1200000,1500000]}" in render("tomcat", ORDINARY).text
    assert "random_range(1200..=1500)" in render("sqlx", ORDINARY).text
    assert "1500 - Math.floor(Math.random() * 300)" in render("node-pg", ORDINARY).text


def test_a_jitter_is_added_to_the_shortest_lifetime_by_libraries_that_add_it() -> None:
    pgx, knex = render("pgxpool", ORDINARY).text, render("knex", ORDINARY).text

    assert "MaxConnLifetime = 20 * time.Minute\nconfig.MaxConnLifetimeJitter = 5 * time.Minute" in pgx
    assert "maxConnectionLifetimeMillis: 1200000" in knex
    assert "maxConnectionLifetimeJitterMillis: 300000" in knex
    assert "max_lifetime: 1_200_000..1_500_000," in render("ecto", ORDINARY).text


def test_without_a_jitter_none_is_written() -> None:
    steady = replace(ORDINARY, max_lifetime_jitter=0.0)

    for stack in POOLS:
        assert re.search(r"rand\.|random|Random", render(stack.name, steady).text) is None, stack.name


def test_a_pool_that_keeps_nothing_is_no_unlimited_sqlalchemy_pool() -> None:
    text = render("sqlalchemy", PoolAdvice(max_open=4, max_idle=0)).text

    assert "pool_size=1," in text
    assert "max_overflow=3," in text


def test_pgbouncer_is_told_ten_years_where_0_would_close_after_one_use() -> None:
    assert properties("pgbouncer", POOLER_OFF)["server_lifetime"] == "315360000"
    assert properties("pgbouncer", POOLER_OFF)["server_idle_timeout"] == "0"


def test_the_first_line_adds_up_what_all_processes_take() -> None:
    assert render("go", ORDINARY).text.startswith("// 12 connections in each of 36 processes: 432 at worst.\n")
    assert "processes" not in render("go", OFF).text


def properties(stack: str, advice: PoolAdvice | PoolerAdvice) -> dict[str, str]:
    """The keys and values of a text of such lines, without its comments."""
    lines = [line for line in render(stack, advice).text.splitlines() if "=" in line and line[0] not in "#;"]
    return {key.strip(): value.strip() for key, value in (line.split("=", 1) for line in lines)}


@pytest.mark.parametrize(
    ("named", "stack"),
    [
        ("Sequelize", "sequelize"),
        ("postgresjs", "postgres.js"),
        ("generic-pool", "generic-pool"),
        ("sequel", "sequel"),
        ("quarkus", "agroal"),
        ("r2dbc", "r2dbc-pool"),
        ("vert.x", "vertx"),
        ("bb8", "bb8"),
        ("php", "laravel"),
        ("gorm", "gorm"),
        ("mysql2", "mysql2"),
        ("pgagroal", "pgagroal"),
    ],
)
def test_the_stacks_that_people_asked_for_are_known_by_their_names(named: str, stack: str) -> None:
    assert find_stack(named).name == stack


@pytest.mark.parametrize("stack", ["rails", "rails-8.0"])
def test_the_block_of_rails_sets_the_size_in_every_version(stack: str) -> None:
    text = render(stack, ORDINARY).text

    assert "\n  pool: 12\n" in text
    assert "max_connections" not in text


@pytest.mark.parametrize("stack", ["rails", "rails-8.0", "django-persistent"])
def test_more_threads_than_connections_are_named_where_a_thread_keeps_its_connection(stack: str) -> None:
    assert "80 threads" in render(stack, replace(ORDINARY, workers=80)).text
    assert "threads share" not in render(stack, replace(ORDINARY, workers=12)).text


def test_a_lifetime_below_the_least_of_hikaricp_is_kept_by_a_timer() -> None:
    short = replace(ORDINARY, max_lifetime=22.0, max_idle_time=20.0)
    java, spring = render("hikaricp", short).text, render("spring-boot", short).text

    assert "config.setMaxLifetime(30_000);" in java
    assert "    22, 22, TimeUnit.SECONDS);" in java
    assert "max-lifetime=30000" in spring
    assert "To stay within 22 s" in spring
    assert "softEvictConnections" not in render("hikaricp", ORDINARY).text
