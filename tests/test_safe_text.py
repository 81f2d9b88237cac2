"""What a SQL text still says after its literals were hidden, and the route that its tags name."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolctl.safe_text import find_route, hide_literals, hide_secrets

TAGS = "/*controller='orders',action='index'*/"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT 1", "SELECT ?"),
        ("SELECT * FROM t2 WHERE id = 42 AND name = 'Ann'", "SELECT * FROM t2 WHERE id = ? AND name = '...'"),
        ("SELECT 'it''s', E'it\\'s', U&'x', b'01', N'x'", "SELECT '...', '...', '...', '...', '...'"),
        ("SELECT $$a$$, $tag$ $$ 'x' $tag$, $1", "SELECT '...', '...', $1"),
        ("SELECT 1e-5, .5, 0xFF, 1_000, 12abc, -3", "SELECT ?, ?, ?, ?, ?, -?"),
        ('SELECT "Straße 7" FROM "a""b"', 'SELECT "Straße 7" FROM "a""b"'),
        ("SELECT a -- of Ann's\nFROM t", "SELECT a \nFROM t"),
        ("/* by 'Ann' /* 1 */ */ SELECT a", "SELECT a"),
        (f"SELECT a {TAGS}", f"SELECT a {TAGS}"),
        ("SELECT a /*traceparent='00-5bd6',user='ann'*/", "SELECT a"),
        ("SELECT a /*action='index',user='ann'*/", "SELECT a /*action='index'*/"),
        ("<insufficient privilege>", "<insufficient privilege>"),
        ("", ""),
    ],
)
def test_strings_numbers_and_comments_are_hidden_and_names_stay(query: str, shown: str) -> None:
    assert hide_literals(query) == shown


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT 'cut o", "SELECT '...'"),
        ("SELECT $a$cut o", "SELECT '...'"),
        ("SELECT a /*route='/ord", "SELECT a"),
        ("SELECT a -- cut o", "SELECT a"),
        ("SELECT E'cut \\", "SELECT '...'"),
    ],
)
def test_a_text_that_the_server_cut_hides_what_is_left_of_a_literal(query: str, shown: str) -> None:
    assert hide_literals(query) == shown


def test_after_a_quote_that_may_or_may_not_be_escaped_nothing_more_is_shown() -> None:
    # With standard_conforming_strings the string ends at the first quote, without at the last.
    assert hide_literals(r"SELECT 'c:\' AND name = 'secret' AND x") == "SELECT '...'..."


NAMES = st.sampled_from(["SELECT", "t1", '"a 1"', "$1", "(", ")", ",", "=", "::int4", "\n", "E", "--\n", "/**/", "."])
LITERALS = st.one_of(
    st.text(alphabet=st.characters(exclude_characters="\\'\x00"), max_size=8).map(lambda text: f"'secret{text}'"),
    st.text(alphabet="ab'\\", max_size=6).map(
        lambda text: "E'secret" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    ),
    st.sampled_from(["$$secret$$", "$x$secret 'a$x$", "'secret''s'", "U&'secret'", "77", "7.7e7", "0x77"]),
)


@given(st.lists(st.one_of(NAMES, LITERALS), max_size=12), st.integers(0, 60))
def test_no_literal_survives_wherever_the_text_is_cut(parts: list[str], cut: int) -> None:
    query = " ".join(parts)

    for text in (query, query[:cut]):
        shown = hide_literals(text)
        assert "secret" not in shown
        assert "77" not in shown


@given(st.text(alphabet=st.sampled_from("ab1 '\"$\\-/*.,;:=\n\té\U0001f600\x00"), max_size=60))
def test_any_text_at_all_is_taken_and_hiding_twice_changes_nothing(text: str) -> None:
    shown = hide_literals(text)

    assert hide_literals(shown) == shown
    outside_names = re.sub(r'"[^"]*"?|\$\d+|[^\W\d][\w$]*', "", shown)
    assert not re.search(r"\d", outside_names)
    find_route(text)


@pytest.mark.parametrize("part", ["'", "a", "/*", "*/", "$a", "$a$", "'\\'", "1 ", "a='b',", "''", '"', "--", "\\"])
def test_a_very_long_text_of_anything_is_read_in_one_pass(part: str) -> None:
    query = "SELECT '" + part * (300_000 // len(part))
    began = time.process_time()

    for text in (query, query.replace("'", "", 1), "/*" + query):
        hide_literals(text)

    assert time.process_time() - began < 10.0


@pytest.mark.parametrize(
    ("query", "route"),
    [
        (f"SELECT 1 {TAGS}", "orders#index"),
        (f"{TAGS} SELECT 1", "orders#index"),
        ("SELECT 1 /*route='%2Forders%2F%3Cint%3Aid%3E',framework='django%3A4.2'*/", "/orders/<int:id>"),
        ("SELECT 1 /*application:Shop,controller:orders,action:index*/", "orders#index"),
        ("SELECT 1 /*action='checkout'*/", "checkout"),
        ("SELECT 1 /*job='NightlyReport'*/", "NightlyReport"),
        ("SELECT 1 /* route='x' or so */", None),
        ("SELECT '/*route=''x''*/'", None),
        ("SELECT 1 -- don't\n/*route='x'*/", "x"),
        ("SELECT 1 /*route='/ord", None),
        ("SELECT 1", None),
        (None, None),
    ],
)
def test_a_route_is_what_complete_tags_say_it_is(query: str | None, route: str | None) -> None:
    assert find_route(query) == route


@pytest.mark.parametrize(
    "text",
    [
        "psql postgresql://ann:hunter2@db/app",
        "worker --dsn host=db password='hunter2 2' user=ann",
        "PGPASSWORD=hunter2 psql",
        "app --password hunter2",
        "java -Dspring.datasource.password=hunter2 -jar app.jar",
    ],
)
def test_a_password_in_a_command_line_is_hidden(text: str) -> None:
    assert "hunter2" not in hide_secrets(text)


def test_a_command_line_without_a_password_stays_as_it_is() -> None:
    text = "python -m shop.worker --queue mail postgresql://ann@db:5432/app"

    assert hide_secrets(text) == text
