"""One paste after everything that terminals, mail and chat programs do to it: all its rows, or no claim of health."""

import html
import json
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolctl.api.inspect import inspect
from poolctl.api.results import InspectResult
from poolctl.errors import BadInput, CannotDo, PoolctlError
from poolctl.observe.evidence.activity_paste import knows_activity
from poolctl.observe.evidence.tables import find_table
from poolctl.report.build import build_report

ROWS = (
    (
        "101",
        "müller",
        "shop",
        "10.0.0.1",
        "active",
        "2026-11-01 12:00:09+00",
        "SELECT count(*)\n  FROM stock\n WHERE id = 1",
    ),
    (
        "102",
        "müller",
        "shop",
        "10.0.0.1",
        "idle in transaction",
        "2026-11-01 11:59:01+00",
        "UPDATE stock SET amount = 1",
    ),
    (
        "103",
        "müller",
        "shop",
        "10.0.0.2",
        "idle in transaction",
        "2026-11-01 11:58:07+00",
        "UPDATE stock SET amount = 2",
    ),
    ("104", "müller", "shop", "10.0.0.2", "idle in transaction", "2026-11-01 11:57:20+00", "SELECT 'a|b'"),
    ("105", "müller", "shop", "10.0.0.2", "idle", "2026-11-01 12:00:01+00", "COMMIT"),
)
NAMES = ("pid", "usename", "application_name", "client_addr", "state", "state_change", "query")
STATES = sorted((int(row[0]), row[4]) for row in ROWS)


def draw_aligned() -> str:
    widths = [
        max(len(name), *(len(part) for row in ROWS for part in row[n].split("\n"))) for n, name in enumerate(NAMES)
    ]
    lines = [" | ".join(name.center(width) for name, width in zip(NAMES, widths, strict=True))]
    lines.append("-+-".join("-" * width for width in widths))
    for row in ROWS:
        parts = row[-1].split("\n")
        for number, part in enumerate(parts):
            cells = [*(row[:-1] if not number else [""] * 6), part]
            text = " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{text}+" if number + 1 < len(parts) else text)
    bordered = [
        f"-{line}-" if set(line) <= {"-", "+"} else f" {line} ".rstrip() if line[-1] != "+" else f" {line}"
        for line in lines
    ]
    return "\n".join([*bordered, f"({len(ROWS)} rows)"]) + "\n"


def draw_expanded() -> str:
    text = ""
    for number, row in enumerate(ROWS, 1):
        text += f"-[ RECORD {number} ]----+----------------------------\n"
        for name, value in zip(NAMES, row, strict=True):
            first, *rest = value.split("\n")
            text += f"{name:16} | {first}{'+' if rest else ''}\n"
            text += "".join(f"{'':16} | {part}{'+' if part != rest[-1] else ''}\n" for part in rest)
    return text


def draw_csv() -> str:
    return "\n".join([",".join(NAMES), *(",".join([*row[:-1], f'"{row[-1]}"']) for row in ROWS)]) + "\n"


DRAWN = {"aligned": draw_aligned(), "expanded": draw_expanded(), "CSV": draw_csv()}
Change = Callable[[str], str]


def each_line(change: Change) -> Change:
    return lambda text: "".join(change(line) + "\n" for line in text.splitlines())


def wrap(line: str) -> str:
    return "\n".join(textwrap.wrap(line, 80, drop_whitespace=False, break_on_hyphens=False) or [""])


CHANGES: dict[str, Change] = {
    "as it is": lambda text: text,
    "quoted by mail": each_line(lambda line: f"> {line}".rstrip()),
    "quoted twice": each_line(lambda line: f">> {line}"),
    "in colors": each_line(lambda line: f"\x1b[32m{line}\x1b[0m\x1b[K"),
    "in a pane of tmux": each_line(lambda line: f"│{line}│"),
    "blanks that do not break": lambda text: text.replace(" ", "\u00a0"),
    "indented": each_line(lambda line: f"    {line}"),
    "between fences": lambda text: f"so here\n```sql\n{text}```\nany ideas?\n",
    "behind three marks": lambda text: f"```{text.rstrip()}```\n",
    "behind a prompt": lambda text: (
        f"shop=# select pid, usename, state, query from pg_stat_activity;\n{text}\nTime: 1.2 ms\nshop=# \\q\n"
    ),
    "double-spaced": lambda text: text.replace("\n", "\n\n"),
    "with two ends of each line": lambda text: text.replace("\n", "\r\r\n"),
    "with Windows line ends": lambda text: text.replace("\n", "\r\n"),
    "through a pager": lambda text: text.replace("\n", "\n--More--\n", 4) + "(END)\n",
    "without its number of rows": lambda text: re.sub(r"\(\d+ rows\)\n", "", text),
    "with long dashes": lambda text: text.replace("--", "—"),
    "header in capitals": lambda text: (
        text.replace("usename", "USENAME").replace("state", "STATE") if "RECORD" not in text else text
    ),
    "twice": lambda text: text + text,
}
ALIGNED: dict[str, Change] = {
    "blanks lost": lambda text: re.sub(r" {2,}", " ", text),
    "tabs for blanks": lambda text: re.sub(r" {2,}", "\t", text),
    "ends of lines without blanks": each_line(str.strip),
    "escaped for HTML": html.escape,
    "wrapped by a terminal": each_line(
        lambda line: "\n".join(line[at : at + 70] for at in range(0, max(1, len(line)), 70))
    ),
    "wrapped by a chat program": each_line(wrap),
}


def read(folder: Path, text: str | bytes) -> InspectResult:
    file = folder / "paste.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return inspect(evidence=[str(file)])


def states(result: InspectResult) -> list[tuple[int, str | None]]:
    server = result.observation.last.server
    assert server is not None
    return sorted((each.pid, each.state) for each in server.backends)


@pytest.mark.parametrize("mode", DRAWN)
@pytest.mark.parametrize("change", CHANGES)
def test_a_paste_says_the_same_after_what_programs_do_to_it(mode: str, change: str, tmp_path: Path) -> None:
    assert states(read(tmp_path, CHANGES[change](DRAWN[mode]))) == STATES


@pytest.mark.parametrize("change", ALIGNED)
def test_an_aligned_paste_says_the_same_after_what_programs_do_to_its_blanks(change: str, tmp_path: Path) -> None:
    result = read(tmp_path, ALIGNED[change](DRAWN["aligned"]))

    assert states(result) == STATES
    assert {each.query for each in result.observation.last.server.backends} >= {"COMMIT"}  # type: ignore[union-attr]


def test_a_name_in_the_encoding_of_windows_stays_the_name(tmp_path: Path) -> None:
    server = read(tmp_path, DRAWN["aligned"].encode("cp1252")).observation.last.server

    assert server is not None
    assert {each.user for each in server.backends} == {"müller"}


RESTING = DRAWN["aligned"].replace("idle in transaction", "idle               ")
CUT = RESTING.index("10.0.0.2")
LOST = {
    "the ends of its lines": "".join(line[:60] + "\n" for line in RESTING.splitlines()),
    "its middle": RESTING[:CUT] + RESTING[CUT + 150 :],
    "its end": RESTING[: CUT + 4],
    "a row": "".join(line for line in RESTING.splitlines(keepends=True) if not line.startswith(" 103")),
    "to a pager in another language": RESTING[:CUT].rpartition("\n")[0]
    + "\n--Mehr--\n"
    + RESTING[CUT - 40 :].partition("\n")[2],
}


@pytest.mark.parametrize("lost", LOST)
def test_a_paste_that_lost_something_is_never_healthy(lost: str, tmp_path: Path) -> None:
    result = read(tmp_path, LOST[lost])

    assert result.findings[0].confidence == "undetermined", (result.findings[0].summary, result.observation.sources)


def test_rows_that_the_number_at_the_end_counts_are_missed(tmp_path: Path) -> None:
    lines = DRAWN["aligned"].splitlines()
    result = read(tmp_path, "\n".join([*lines[:5], *lines[-2:]]) + "\n")

    (source,) = result.observation.sources
    assert "rows are missing" in source.reason
    assert source.is_partial


def test_the_same_paste_twice_is_one_look(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(DRAWN["aligned"])
    (tmp_path / "two").write_text(DRAWN["CSV"])

    once = inspect(evidence=[str(tmp_path / "one")])
    twice = inspect(evidence=[str(tmp_path / "one"), str(tmp_path / "one"), str(tmp_path / "two")])

    assert len(twice.observation.samples) == 1
    assert [each.code for each in twice.findings] == [each.code for each in once.findings]


@pytest.mark.parametrize(("start", "packer"), [(b"PK\x03\x04", "zip"), (b"\xfd7zXZ", "xz"), (b"(\xb5/\xfd", "zstd")])
def test_a_packed_file_is_named_as_what_it_is(start: bytes, packer: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"it is packed by {packer}: unpack it first"):
        read(tmp_path, start + bytes(range(256)))


def test_bytes_of_any_kind_are_not_taken_for_a_scrape(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing in it is of a known format"):
        read(tmp_path, b"".join(bytes([1, number, 12, 11, 28, 255, 10]) for number in range(128, 250)))


def test_the_one_row_and_the_one_line_that_are_not_read_are_said_as_one(tmp_path: Path) -> None:
    (source,) = read(tmp_path, "pid,state\n1,idle\n2,active,surplus,cells\n").observation.sources

    assert source.reason == "1 row is missing or did not fit the columns"


NINES = "9" * 5_000
NOON = "2026-11-01 12:00:00.000 UTC [5] LOG: "
TORN = {
    "who blocks": f"pid,state,query,blocked_by\n1,idle,SELECT 1,{NINES}\n",
    "an age": f"pid,state,query_age\n1,idle,{NINES} years\n2,idle,99999999999 years\n3,idle,{'9' * 20}:00:00\n",
    "an instant": "pid,state,backend_start,state_change\n1,idle,9999-12-31 23:59:59-14:00,0001-01-01 00:00:00+14\n",
    "a limit": f"name,setting\nmax_connections,{NINES}\n\npid,state\n1,idle\n",
    "a session": f"{NOON} disconnection: session time: {NINES}:00:00.000 user=a database=b\n",
    "a wait": f"{NOON} process 5 still waiting for ShareLock on relation 5 after {NINES} ms\n",
    "a title": f"  {NINES} postgres: a b 10.0.0.1({NINES}) idle\n  5 postgres: a b 10.0.0.1(5) idle\n",
    "statistics": "2026-11-01 12:00:00.123 UTC [1] LOG stats: 1.2.3 xacts/s, 4..5 queries/s, in 1 B/s, xact 1 us\n",
    "a scrape": 'pgbouncer_pools_client_active_connections{database="a",user="b"} NaN\n'
    'pgbouncer_pools_server_idle_connections{database="a",user="b"} 1\npgbouncer_used_clients +Inf\n',
    "figures of a pooler": f"database|user|cl_active|cl_waiting|sv_active|pool_mode\na|b|{NINES}|?|1|transaction\n",
}


@pytest.mark.parametrize("where", TORN)
def test_a_number_that_is_none_is_no_error_inside_poolctl_and_no_health(where: str, tmp_path: Path) -> None:
    try:
        result = read(tmp_path, TORN[where])
    except PoolctlError:
        return
    json.loads(result.to_json())
    build_report(result)
    assert where == "an instant" or result.findings[0].confidence == "undetermined", result.findings[0].summary


def test_a_pool_whose_waiting_clients_no_scrape_has_is_not_healthy(tmp_path: Path) -> None:
    result = read(tmp_path, 'pgbouncer_pools_client_active_connections{database="shop",user="app"} 5\n')

    (source,) = result.observation.sources
    assert source.reason == "no waiting clients of 1 pool, the first is shop/app"
    assert result.findings[0].confidence == "undetermined"


def test_the_settings_of_pgpool_alone_show_no_connection(tmp_path: Path) -> None:
    with pytest.raises(CannotDo, match="the evidence shows no connection"):
        read(tmp_path, "item|value|description\nnum_init_children|32|x\nmax_pool|4|x\n")


def test_the_end_of_a_table_is_not_looked_for_from_every_line_of_another_log() -> None:
    looked_at = 0

    class Lines(list[str]):
        def __getitem__(self, at: Any) -> Any:
            nonlocal looked_at
            found = super().__getitem__(at)
            looked_at += len(found) if isinstance(at, slice) else 1
            return found

    lines = Lines(['{"level":"info","msg":"served"}', "[1, 2]", "{level: info}", "<table>"] * 500)
    for at in range(len(lines)):
        assert find_table(lines, at, knows_activity) is None

    assert looked_at < 50 * len(lines)


def test_a_header_with_an_open_quotation_mark_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing in it is of a known format"):
        read(tmp_path, 'pid,state,"query\n' + "lorem ipsum dolor sit amet\n" * 9_000)
