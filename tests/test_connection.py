"""Which servers the options of ``inspect`` and ``recommend`` name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from poolctl.api.requests import Targets, find_targets
from poolctl.commands.options import join_conninfo
from poolctl.errors import BadInput


def conninfo(argument: str | None = None, **options: object) -> str | None:
    return find_targets(join_conninfo(argument, **options), environ={}).conninfo  # type: ignore[arg-type]


def test_without_anything_libpq_finds_the_server_by_itself() -> None:
    assert conninfo() == ""


def test_psqls_letters_become_a_connection_string() -> None:
    text = conninfo(host="db1", port=5433, user="ops", dbname="shop")

    assert conninfo_to_dict(text or "") == {"host": "db1", "port": "5433", "user": "ops", "dbname": "shop"}


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_name_survives_the_quoting(name: str) -> None:
    assert conninfo_to_dict(conninfo(user=name) or "") == {"user": name}


def test_a_connection_string_is_handed_on_as_it_is() -> None:
    for text in ("host=db1 password=x", "postgresql://ops:x@db1/shop"):
        assert conninfo(text) == text
        assert conninfo(dbname=text) == text


def test_an_option_wins_over_the_same_key_in_the_string() -> None:
    assert conninfo_to_dict(conninfo("host=db1 user=a", user="b") or "") == {"host": "db1", "user": "b"}


def test_as_in_psql_a_bare_word_is_a_database() -> None:
    assert conninfo("shop") == "dbname='shop'"


@pytest.mark.parametrize(
    ("argument", "options", "said"),
    [
        ("shop", {"dbname": "other"}, "both name a database"),
        ("host=a", {"dbname": "host=b"}, "two connection strings"),
        ("postgresql://ops:secret@db1/shop", {"port": 5433}, "-p cannot be added to a URI"),
    ],
)
def test_what_contradicts_itself_is_refused_without_repeating_a_secret(
    argument: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        conninfo(argument, **options)

    assert "secret" not in refused.value.message + refused.value.hint


def test_with_only_poolers_named_no_postgresql_is_looked_at() -> None:
    assert find_targets(None, pgbouncers=("port=6432",), environ={}) == Targets(None, ("port=6432",))
    assert find_targets(None, pgpools=("port=9999",), environ={"PGHOST": "db1"}).conninfo == ""
    assert find_targets("dbname=shop", pgbouncers=("port=6432",), environ={}).conninfo == "dbname=shop"


def test_pool_figures_alone_still_mean_a_look_at_postgresql() -> None:
    assert find_targets(None, pool_stats=("http://app/metrics",), environ={}).conninfo == ""
