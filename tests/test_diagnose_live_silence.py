"""Applications whose backends fell silent: what may be a pool that leaked whole, and what is an ordinary quiet pool."""

from dataclasses import replace
from typing import Any

import pytest
from observations import Row, busy, codes, find, held_by, host, pids, pool, process, troubles, verdict

from poolctl.observe.snapshot import DatabaseCounters

LEAKED_WHOLE = {
    # Last uses, youngest first, of real clients that leaked one connection in 6 to 25, seconds after the last one.
    "node-postgres": [4.4, 4.96, 5.53, 6.13, 6.68, 7.24, 7.75, 8.2, 8.76, 9.31, 9.79, 10.32],
    "HikariCP": [7.45, 8.07, 8.67, 9.34, 9.97, 10.56],
    "psycopg_pool": [14.4, 14.9, 15.5, 15.9, 16.5, 16.8, 17.3, 17.8, 18.1, 18.8, 19.2, 19.7, 20.2, 20.7, 21.1, 21.5],
}
QUIET = {
    # The same clients, seconds after their load ended.
    "psycopg_pool, fifo": [6.96, 6.99, 7.09, 7.15, 7.19, 7.25, 7.29, 7.3, 7.33, 7.41, 7.45],
    "HikariCP, one of five in use": [15.45, 23.51, 23.52, 23.53, 23.54],
    "node-postgres, lifo": [14.7, 15.22, 15.54, 15.54],
    "a lifo pool after a peak": [30.0, 31.0, 34.0, 60.0, 300.0, 4000.0],
    "one request now and then": [12.0, 40.0, 75.0, 100.0, 128.0, 161.0],
    "closed for the night": [20_000.0 + 100.0 * i for i in range(10)],
}


def stopped(ages: list[float], **same: Any) -> list[Row]:
    opened = same.pop("opened", max(ages) + 60.0)
    return [Row(100 + i, age=age, application="checkout", opened=opened, **same) for i, age in enumerate(ages)]


def done(commits: int, growth: int = 0) -> list[list[DatabaseCounters]]:
    return [[DatabaseCounters("app", backends=10, commits=commits + growth * i)] for i in range(7)]


@pytest.mark.parametrize("name", LEAKED_WHOLE)
def test_a_pool_that_leaked_whole_before_the_first_sample_is_undetermined_and_not_healthy(name: str) -> None:
    diagnosis = verdict(*stopped(LEAKED_WHOLE[name]), *busy(4, application="search"))

    finding = find(diagnosis, "leak-or-long-hold")
    assert (finding.confidence, finding.severity) == ("undetermined", "warning")
    assert held_by(finding) == {"checkout"}
    assert "silent one after the other and for" in finding.summary
    assert "or no request came since" in finding.summary
    assert "--pool-stats" in str(finding.decide_by)
    assert "healthy" not in codes(diagnosis)


def test_a_pool_that_opened_each_connection_after_the_one_before_was_leaked_is_undetermined() -> None:
    """Go's database/sql opens one when it needs it, and uses the newest first: each worked for less than a second."""
    given = [Row(100 + i, age=20.0 + 0.44 * i, opened=20.3 + 0.44 * i, application="checkout") for i in range(16)]

    assert troubles(verdict(*given)) == ["leak-or-long-hold"]


def opened_in_order(gap: float, *, pause: float = 0.01, silence: float = 8.0, served: bool = True) -> list[Row]:
    """Ten backends, each opened ``pause`` seconds after the one before did its last work, ``gap`` seconds on average.

    Each served others first, for a while of its own, or (not ``served``) did nothing after its login of 5 ms but one
    statement.
    """
    backends, rested = [], silence
    for i in range(10):
        opened = rested + gap * ((0.4, 1.6, 1.0)[i % 3] if served else 1.0) - pause
        age = rested if served else opened - 0.005
        backends.append(Row(100 + i, age=age, opened=opened, application="checkout"))
        rested = opened + pause
    return backends


LAZY_GO = [
    Row(100 + i, age=18.0 - opened - life, opened=18.0 - opened, application="checkout")
    for i, (opened, life) in enumerate(
        zip(
            [0.0, 0.0, 0.44, 0.735, 1.083, 1.112, 1.443, 1.468, 1.833, 1.9],
            [0.411, 0.479, 0.265, 0.227, 0.165, 0.234, 0.595, 0.172, 0.031, 0.1],
            strict=True,
        )
    )
]
"""Of Go's database/sql, one request in four forgot its connection: up to three were used at the same time."""


def by_one_process(backends: list[Row]) -> list[Any]:
    return [host(*(process(40_000 + row.pid) for row in backends))]


@pytest.mark.parametrize(
    ("given", "is_known"),
    [
        (opened_in_order(0.1), True),
        (LAZY_GO, True),
        (opened_in_order(0.2), False),
        (opened_in_order(0.1, served=False), True),
        (opened_in_order(0.05, silence=3 * 3600.0), True),
        (opened_in_order(60.0, silence=3 * 3600.0), True),
    ],
    ids=["fast", "a real one", "from elsewhere", "each at once", "hours ago", "hours ago, one a minute"],
)
def test_connections_that_were_each_opened_while_the_others_rested_for_good_are_held(
    given: list[Row], is_known: bool
) -> None:
    """A pool opens a connection only while it has none free: whatever rests then is not free in it."""
    diagnosis = verdict(*given, hosts=by_one_process(given) if is_known else [])

    finding = find(diagnosis, "leak-or-long-hold")
    assert (finding.confidence, len(pids(finding)), held_by(finding)) == ("undetermined", 10, {"checkout"})
    assert "most of them opened although others rested already" in finding.summary
    assert "healthy" not in codes(diagnosis)


@pytest.mark.parametrize(
    ("given", "is_known"),
    [
        (
            [Row(100 + i, age=60.0 + 0.012 * i, opened=60.01 + 0.012 * i, application="checkout") for i in range(10)],
            True,
        ),
        ([replace(row, query="SET extra_float_digits = 3") for row in opened_in_order(0.1)], True),
        (
            [
                Row(100 + i, age=60.02 - 0.03 * (i % 3), opened=60.2 - 0.01 * i, application="checkout")
                for i in range(10)
            ],
            True,
        ),
        (opened_in_order(0.4, served=False), False),
        (opened_in_order(4.0, served=False, silence=60.0), True),
        (opened_in_order(0.1, silence=3 * 3600.0), False),
        ([Row(100 + i, age=60.0, opened=70.0 - 0.1 * i, application="checkout") for i in range(10)], True),
    ],
    ids=[
        "a pool that fills itself",
        "and sets up its sessions",
        "requests at one moment",
        "processes that start",
        "replaced at the end of their lives",
        "from elsewhere, for the night",
        "used together",
    ],
)
def test_connections_that_a_pool_at_rest_also_opens_so_are_healthy(given: list[Row], is_known: bool) -> None:
    assert troubles(verdict(*given, hosts=by_one_process(given) if is_known else [])) == []


def for_each_request(count: int, gap: float, silence: float, query: str = "SELECT price FROM item") -> list[Row]:
    """A client opened for each request, which is used for it alone and kept."""
    ages = [silence + gap * (i + (0.3, -0.2, 0.1)[i % 3]) for i in range(count)]
    return [Row(100 + i, age=age, opened=age + 0.02, application="lambda", query=query) for i, age in enumerate(ages)]


@pytest.mark.parametrize(("gap", "silence"), [(0.3, 4.0), (1.0, 10.0), (5.0, 60.0), (1.0, 3 * 3600.0)])
def test_clients_that_were_opened_for_each_request_and_are_no_more_are_undetermined(gap: float, silence: float) -> None:
    given = for_each_request(14, gap, silence)

    finding = find(verdict(*given, hosts=by_one_process(given)), "leak-or-long-hold")

    assert (finding.confidence, finding.severity, held_by(finding)) == ("undetermined", "warning", {"lambda"})


@pytest.mark.parametrize(
    ("count", "query", "is_known"),
    [
        (14, "SELECT 1", True),
        (14, "SET search_path = app", True),
        (6, "SELECT price FROM item", True),
        (14, "SELECT price FROM item", False),
    ],
    ids=["tested", "set up", "as few as a pool has", "from elsewhere, each a worker"],
)
def test_connections_that_were_opened_one_by_one_long_ago_may_be_a_pool_at_rest(
    count: int, query: str, is_known: bool
) -> None:
    given = for_each_request(count, 4.0, 60.0, query)

    assert troubles(verdict(*given, hosts=by_one_process(given) if is_known else [])) == []


@pytest.mark.parametrize("name", QUIET)
def test_a_quiet_pool_is_healthy(name: str) -> None:
    assert troubles(verdict(*stopped(QUIET[name]))) == []


def test_connections_that_were_opened_ahead_and_never_worked_did_not_fall_silent() -> None:
    """A fixed pool whose connections were replaced one after the other at the end of their lives."""
    given = [Row(100 + i, age=60.0 + 4 * i, opened=60.2 + 4 * i, application="checkout") for i in range(10)]

    assert troubles(verdict(*given)) == []


@pytest.mark.parametrize(
    ("commits", "growth", "is_quiet"), [(80, 0, True), (800, 0, False), (800, 20, True), (80_000, 20, False)]
)
def test_requests_that_went_to_one_connection_after_the_other_are_a_load_that_ended(
    commits: int, growth: int, is_quiet: bool
) -> None:
    """Ten connections last used within 9 s, of a pool that lived for 70 s: at one transaction a second or ten.

    What others go on to do in the same database, 20 in each sample, is not its own.
    """
    given = (
        stopped([10.0 + i for i in range(10)], opened=80.0)
        if growth == 0
        else stopped([30.0 + i for i in range(10)], opened=80.0)
    )

    assert (troubles(verdict(*given, databases=done(commits, growth))) == []) == is_quiet


def test_a_pool_that_resets_what_comes_back_shows_that_it_came_back() -> None:
    reset = "SELECT pg_advisory_unlock_all();CLOSE ALL;UNLISTEN *;RESET ALL;"

    assert troubles(verdict(*stopped(LEAKED_WHOLE["node-postgres"], query=reset))) == []


def falling_silent(steady: float = 40.0, *, fading: bool = False) -> dict[str, Any]:
    """Ten backends: three rest from the first sample on, the others stop one after the other; 21 samples in 10 s."""
    stopped = [12.0, 11.5, 11.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    backends = [Row(100 + i, age=age, application="checkout") for i, age in enumerate(stopped)]
    done = [steady * min(sample, 16) for sample in range(21)]
    if fading:
        done = [steady * sum(max(0.0, 1 - each / 6) for each in range(sample)) for sample in range(21)]
    return {
        "given": backends,
        "samples": 21,
        "window": 10.0,
        "databases": [[DatabaseCounters("app", backends=10, commits=round(each))] for each in done],
    }


def test_backends_that_fall_silent_one_after_the_other_while_the_load_goes_on_are_undetermined() -> None:
    scene = falling_silent()
    diagnosis = verdict(*scene.pop("given"), **scene)

    finding = find(diagnosis, "leak-or-long-hold")
    assert (finding.confidence, finding.severity, len(pids(finding))) == ("undetermined", "warning", 10)
    assert held_by(finding) == {"checkout"}
    assert "silent one after the other" in finding.summary
    assert finding.decide_by
    assert "healthy" not in codes(diagnosis)


@pytest.mark.parametrize("change", ["the load fades", "all stop at once", "the last one works on", "no client waits"])
def test_a_load_that_ends_and_a_pool_that_works_on_have_not_fallen_silent(change: str) -> None:
    scene = falling_silent(fading=change == "the load fades")
    given = scene.pop("given")
    if change == "all stop at once":
        given = [replace(row, age=3.0 + 0.01 * i) for i, row in enumerate(given)]
    if change == "the last one works on":
        given[-1] = replace(given[-1], age=0.001, turns=0.01)
    if change == "no client waits":
        scene["pools"] = [[pool(application="checkout", max_open=20, open=10, in_use=0, waiting=0)]]

    assert troubles(verdict(*given, **scene)) == []


def filled_by_load(rested: list[float], opened: tuple[float, ...] = (0.0, 0.16, 0.28, 0.64, 1.35, 2.16)) -> list[Row]:
    """Six backends that a load opened as it came, ``opened`` seconds after its start; seconds after which they rest."""
    return [
        Row(100 + i, age=60.0 - rest, opened=60.0 - opened[i], application="checkout") for i, rest in enumerate(rested)
    ]


EBBED = [4.0, 3.66, 3.53, 3.3, 2.58, 2.2]
"""When connections of node-postgres were last used, as the load of 13 workers ended."""


def test_a_pool_that_only_its_peak_filled_rests_as_its_load_ebbs_away() -> None:
    given = filled_by_load(EBBED)

    diagnosis = verdict(*given, hosts=by_one_process(given))

    assert troubles(diagnosis) == []
    healthy = find(diagnosis, "healthy")
    assert (healthy.confidence, "or a pool that leaked whole" in healthy.summary) == ("undetermined", True)


@pytest.mark.parametrize(
    ("given", "is_known"),
    [
        (filled_by_load(EBBED), False),
        (filled_by_load(EBBED, opened=(0.0, 0.03, 0.06, 0.09, 0.12, 0.15)), True),
        (filled_by_load([4.0, 3.66, 3.53, 3.3, 2.58, 1.9]), True),
        (filled_by_load([5.2, 4.7, 4.1, 3.5, 3.0, 2.4]), True),
    ],
    ids=["from elsewhere", "opened ahead", "one opened beside one at rest", "at one pace"],
)
def test_a_pool_that_fell_silent_in_a_way_that_no_load_ebbs_away_is_undetermined(
    given: list[Row], is_known: bool
) -> None:
    diagnosis = verdict(*given, hosts=by_one_process(given) if is_known else [])

    assert find(diagnosis, "leak-or-long-hold").confidence == "undetermined"


def test_a_process_that_holds_what_it_opened_is_told_beside_another_of_the_same_name() -> None:
    given = opened_in_order(0.1)
    others = busy(6, application="checkout")
    seen = [host(*(process(40_000 + row.pid, pid=77) for row in given), *(process(40_000 + row.pid) for row in others))]

    finding = find(verdict(*given, *others, hosts=seen), "leak-or-long-hold")

    assert (finding.confidence, pids(finding)) == ("undetermined", {row.pid for row in given})
    assert "all 10 of process 77, most of them opened although others rested already" in finding.summary


def test_a_process_whose_load_ended_is_healthy_beside_another_of_the_same_name() -> None:
    given = filled_by_load([5.2, 4.7, 4.1, 3.5, 3.0, 2.4])
    others = busy(8, application="checkout")
    seen = [host(*(process(40_000 + row.pid, pid=77) for row in given), *(process(40_000 + row.pid) for row in others))]

    assert troubles(verdict(*given, *others, hosts=seen)) == []
