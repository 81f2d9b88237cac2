"""Fleets that people reported in public, as files in tests/cases, each with the answer that is right."""

import tomllib
from pathlib import Path

import pytest

from poolctl.sizing.fleet import Fleet, load_fleet, parse_fleet
from poolctl.sizing.fleet_changes import Change, apply_changes
from poolctl.sizing.fleet_check import FleetCheck, check_fleet

CASES = Path(__file__).parent / "cases"


def check_case(name: str) -> FleetCheck:
    return check_fleet(load_fleet(CASES / f"{name}.toml"))


def check_text(text: str) -> FleetCheck:
    return check_fleet(parse_fleet(tomllib.loads(text)))


def worst_of(checked: FleetCheck, kind: str = "server") -> int | None:
    return next(limit.worst for limit in checked.limits if limit.kind == kind)


def test_five_replicas_of_twenty_do_not_fit_a_hundred_and_the_file_did_not_say_why() -> None:
    checked = check_case("12-five-times-twenty")

    assert (worst_of(checked), checked.changes) == (180, (Change("scanner", "max_open", 20, 10),))
    part = next(limit for limit in checked.limits if limit.kind == "server").parts[0]
    assert part.how == "(5 instances + 2 assumed surge + 2 assumed terminating) x 20"
    sources = {term.term: term.source for term in checked.arithmetic}
    assert sources == {
        "max_connections": "given",
        "superuser_reserved_connections": "assumed",
        "reserved_connections": "assumed",
        "headroom": "assumed",
        "scanner": "computed",
        "free at the worst moment": "computed",
    }
    assert {each.name: each.value for each in checked.fleet.assumptions} == {
        "server.superuser_reserved": 3,
        "server.reserved": 0,
        "server.headroom": 3,
        "scanner.surge": 2,
        "scanner.terminating": 2,
    }


def test_what_the_file_says_is_not_assumed() -> None:
    checked = check_text(
        "[server]\nmax_connections = 100\nsuperuser_reserved = 3\nreserved = 0\nheadroom = 3\n"
        '[[service]]\nname = "a"\nmax_open = 20\nreplicas = 4\nsurge = 1\nterminating = 0'
    )

    assert checked.fleet.assumptions == ()
    assert "assumed" not in {term.source for term in checked.arithmetic}


def test_a_shared_server_gives_every_service_its_part_and_leaves_next_to_nothing_unused() -> None:
    checked = check_case("11-shared-server")

    assert worst_of(checked) == 350
    assert checked.changes == (
        Change("catalogue", "max_open", 25, 13),
        Change("login", "max_open", 10, 6),
        Change("eight others", "max_open", 5, 3),
    )
    assert worst_of(check_fleet(apply_changes(checked.fleet, checked.changes))) == 190


def test_a_pool_size_counts_once_for_each_pair_of_user_and_database() -> None:
    checked = check_case("20-nine-pairs")

    assert worst_of(checked) == 2700
    assert checked.changes == (
        Change("bouncer", "default_pool_size", 295, 41),
        Change("bouncer", "reserve_pool_size", 5, 1),
    )
    remedy = checked.findings[0].remedy
    assert "bouncer: max_db_connections 128 (now unlimited)" in remedy
    assert "put a pooler between" not in remedy
    assert worst_of(check_fleet(apply_changes(checked.fleet, checked.changes))) == 378


def test_a_pooler_that_may_open_more_than_the_server_has_is_made_smaller() -> None:
    checked = check_case("20-one-pair")

    assert checked.changes == (Change("bouncer", "default_pool_size", 120, 94),)


def test_a_pooler_without_a_limit_for_all_pairs_is_reported() -> None:
    pooler = '[[pooler]]\nname = "b"\nmax_client_conn = 500\ndefault_pool_size = 20'
    service = '[[service]]\nname = "a"\nmax_open = 20\nvia = "b"\n'
    unlimited, limited = check_text(service + pooler), check_text(service + pooler + "\nmax_db_connections = 40")

    assert [(f.code, f.severity, f.layer) for f in unlimited.findings[1:]] == [("oversized-pool", "info", "pooler")]
    assert unlimited.findings[1].remedy == "b: max_db_connections 20"
    assert [f.code for f in limited.findings] == ["healthy"]


@pytest.mark.parametrize(
    ("keys", "changes"),
    [
        ("default_pool_size = 100\nreserve_pool_size = 20", [("default_pool_size", 78), ("reserve_pool_size", 16)]),
        ("default_pool_size = 500\nmax_db_connections = 200", [("max_db_connections", 94)]),
        ("default_pool_size = 500\nmax_user_connections = 200", [("max_user_connections", 94)]),
        ('[[pooler.pool]]\nuser = "u"\ndatabase = "d"\npool_size = 200', [("pool_size", 94)]),
        ('kind = "pgpool"\nnum_init_children = 60\nmax_pool = 2', [("num_init_children", 47)]),
    ],
)
def test_every_size_of_a_pooler_can_be_the_one_to_change(keys: str, changes: list[tuple[str, int]]) -> None:
    checked = check_text(
        f'[[service]]\nname = "a"\nuser = "u"\ndatabase = "d"\nmax_open = 5\nvia = "b"\n[[pooler]]\nname = "b"\n{keys}'
    )

    assert checked.changes is not None
    assert [(change.key, change.to) for change in checked.changes] == changes
    assert check_fleet(apply_changes(checked.fleet, checked.changes)).is_within


@pytest.mark.parametrize(
    ("keys", "changes", "codes"),
    [
        ("default_pool_size = 0", [("default_pool_size", None, 94)], {"fleet-over-budget"}),
        ("pool_size = 0", [("pool_size", None, 94)], {"fleet-over-budget"}),
        ("default_pool_size = 0\nmax_client_conn = 50", [], {"oversized-pool"}),
        ("default_pool_size = 0\nmax_db_connections = 40", [], {"healthy"}),
    ],
)
def test_a_pool_size_of_zero_is_unlimited_and_bounded_by_the_clients(
    keys: str, changes: list[tuple[str, int | None, int]], codes: set[str]
) -> None:
    pooler = f'[[pooler]]\nname = "b"\nmax_client_conn = {500 if "max_client" not in keys else 50}\n'
    if keys.startswith("pool_size"):
        keys = f'[[pooler.pool]]\nuser = "u"\ndatabase = "d"\n{keys}'
    keys = keys.partition("\nmax_client_conn")[0]
    service = '[[service]]\nname = "a"\nuser = "u"\ndatabase = "d"\nmax_open = 5\nvia = "b"\n'

    checked = check_text(service + pooler + keys)

    assert [(change.key, change.now, change.to) for change in checked.changes or ()] == changes
    assert codes <= {finding.code for finding in checked.findings}
    assert ("healthy" in codes) == all(finding.severity == "info" for finding in checked.findings)


def test_more_pairs_than_slots_are_not_answered_with_a_pooler_that_is_there_already() -> None:
    services = "".join(
        f'[[service]]\nname = "s{n}"\nuser = "u{n}"\nmax_open = 1\nvia = "b"\nsurge = 0\n' for n in range(120)
    )
    checked = check_text(services + '[[pooler]]\nname = "b"\nmax_client_conn = 500\ndefault_pool_size = 1')

    assert checked.changes is None
    assert checked.findings[0].remedy == (
        "Even one connection for each pool is too many (120): raise the limit by 26 at least"
    )


def test_a_thread_without_a_connection_times_out_and_a_connection_without_a_thread_is_not_used() -> None:
    checked = check_case("13-puma-sidekiq")

    assert [(f.code, f.severity) for f in checked.findings] == [
        ("pool-undersized", "warning"),
        ("oversized-pool", "info"),
    ]
    assert "48 of them wait and time out" in checked.findings[0].summary
    assert checked.findings[0].remedy == "puma: max_open 32 -> 80"
    assert checked.findings[1].remedy == "sidekiq: max_open 64 -> 25"
    assert worst_of(checked) == 11 * 32 + 11 * 25
    assert checked.changes is not None
    mended = check_fleet(apply_changes(checked.fleet, checked.changes))
    assert (mended.is_within, mended.changes, mended.findings[0].code) == (True, (), "healthy")


def test_threads_shrink_with_their_pool_where_the_slots_do_not_suffice() -> None:
    checked = check_text('[[service]]\nname = "puma"\nmax_open = 5\nthreads = 80\nreplicas = 4\nsurge = 0')

    assert checked.changes == (Change("puma", "max_open", 5, 18), Change("puma", "threads", 80, 18))
    assert check_fleet(apply_changes(checked.fleet, checked.changes)).is_within


def test_a_serverless_function_has_one_connection_each_unless_the_file_says_otherwise() -> None:
    function = '[[service]]\nname = "f"\ndeploy = "serverless"\nconcurrency = 50\n'
    beside = '[[service]]\nname = "api"\nmax_open = 10\nreplicas = 2\nsurge = 0\nterminating = 0\n'
    one, five = check_text(function + beside), check_text(function + "max_open = 5\n" + beside)

    assert (worst_of(one), worst_of(five)) == (70, 270)
    parts = next(limit for limit in one.limits if limit.kind == "server").parts
    assert [part.how for part in parts] == ["50 environments x assumed 1", "2 instances x 10"]
    assert one.fleet.is_assumed("f.max_open")
    assert not five.fleet.is_assumed("f.max_open")


def test_small_pools_keep_what_the_rounding_of_large_ones_leaves() -> None:
    services = "".join(
        f'[[service]]\nname = "s{n}"\nmax_open = {size}\nreplicas = {replicas}\nsurge = 0\nterminating = 0\n'
        for n, (size, replicas) in enumerate([(3, 20), (3, 20), (3, 20), (2, 7), (2, 5)])
    )
    checked = check_text(services)
    fleet: Fleet = apply_changes(checked.fleet, checked.changes or ())

    assert worst_of(check_fleet(fleet)) == 92
    assert sorted(service.max_open or 0 for service in fleet.services) == [1, 1, 1, 1, 2]


def test_an_excess_that_only_an_assumed_deploy_brings_is_likely_and_the_file_decides_it() -> None:
    fleet = '[[service]]\nname = "api"\nmax_open = 10\nreplicas = 8\n'
    assumed, given = check_text(fleet), check_text(f"{fleet}surge = 2\nterminating = 2")
    (found,), (certain,) = assumed.findings, given.findings

    assert worst_of(assumed) == worst_of(given) == 120
    assert (found.code, found.confidence) == (certain.code, "likely")
    assert found.evidence["decided_by_assumed"] == ["server.max_connections"]
    with_server = check_text(f"[server]\nmax_connections = 100\n{fleet}").findings[0]
    assert with_server.evidence["decided_by_assumed"] == ["api.surge", "api.terminating"]


def test_an_unlimited_pool_of_a_pooler_shrinks_beside_one_with_a_size_as_if_it_were_as_large() -> None:
    services = "".join(
        f'[[service]]\nname = "{user}"\nuser = "{user}"\ndatabase = "shop"\nmax_open = 25\nreplicas = 4\nvia = "b"\n'
        for user in ("api", "jobs")
    )
    pooler = (
        '[[pooler]]\nname = "b"\nmax_client_conn = 400\ndefault_pool_size = 0\n'
        '[[pooler.pool]]\nuser = "api"\ndatabase = "shop"\npool_size = 60\n'
    )
    checked = check_text(services + pooler)

    assert checked.changes == (
        Change("b", "default_pool_size", None, 47),
        Change("b", "pool_size", 60, 47, "api@shop"),
    )


def test_the_limit_for_all_pairs_of_a_pooler_fits_the_server_where_more_than_the_pooler_is_too_large() -> None:
    checked = check_text(
        '[[service]]\nname = "api"\nmax_open = 25\nreplicas = 4\nvia = "b"\n'
        '[[service]]\nname = "bi"\nmax_open = "unlimited"\n'
        '[[pooler]]\nname = "b"\nmax_client_conn = 400\ndefault_pool_size = 90'
    )
    cap = next(found for found in checked.findings if found.layer == "pooler")

    assert ("b", "default_pool_size") in {(change.who, change.key) for change in checked.changes or ()}
    assert cap.remedy.startswith("b: max_db_connections ")
    assert int(cap.remedy.rpartition(" ")[2]) < 94


def test_one_thread_is_not_many() -> None:
    checked = check_text(
        '[[service]]\nname = "clock"\nmax_open = 25\nthreads = 1\n[[service]]\nname = "puma"\nmax_open = 4\nthreads = 5'
    )
    part = next(limit for limit in checked.limits if limit.kind == "server").parts[-1]

    assert part.how == "(1 instance + 1 assumed surge) x 1 thread"
    assert {found.summary for found in checked.findings} == {
        "5 threads of puma share a pool of 4: as each thread keeps its connection, 1 of them waits and times out",
        "The pool of clock has 25 connections, and its one thread never uses more than 1",
    }


def test_functions_that_are_more_than_a_pooler_accepts_raise_its_clients_and_hide_no_other_change() -> None:
    checked = check_text(
        '[[service]]\nname = "f"\ndeploy = "serverless"\nconcurrency = 300\nvia = "b"\n'
        '[[service]]\nname = "web"\nmax_open = 12\nreplicas = 5\nsurge = 1\nterminating = 1\n'
        '[[pooler]]\nname = "b"\nmax_client_conn = 200\ndefault_pool_size = 60'
    )
    remedies = {found.code: found.remedy for found in checked.findings}

    assert remedies["pooler-client-limit"] == "b: max_client_conn 200 -> 300"
    assert remedies["fleet-over-budget"].startswith("web: max_open 12 -> ")
    assert "max_client_conn" not in remedies["fleet-over-budget"]
    assert check_fleet(apply_changes(checked.fleet, checked.changes or ())).is_within


def test_clients_of_a_pooler_may_be_fewer_or_the_pooler_may_accept_more() -> None:
    checked = check_text(
        '[[service]]\nname = "api"\nmax_open = 30\nreplicas = 4\nsurge = 0\nterminating = 0\nvia = "b"\n'
        '[[pooler]]\nname = "b"\nmax_client_conn = 100\ndefault_pool_size = 20'
    )

    assert checked.findings[0].remedy == "api: max_open 30 -> 25, or b: max_client_conn 100 -> 120"


def test_an_unlimited_pool_beside_small_ones_uses_the_slots_instead_of_one_each() -> None:
    checked = check_text(
        '[[service]]\nname = "jobs"\nmax_open = 1\nsurge = 0\nterminating = 0\n'
        '[[service]]\nname = "web"\nmax_open = "unlimited"\nreplicas = 10\nsurge = 0\nterminating = 0\n'
    )

    assert checked.changes == (Change("web", "max_open", None, 9),)
    assert worst_of(check_fleet(apply_changes(checked.fleet, checked.changes))) == 91  # of 94
