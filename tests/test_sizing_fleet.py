"""Fleet files: what they may say, whether they fit at the worst moment, and that what is advised does."""

import json
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.errors import BadInput
from poolctl.scenario.toml import TomlSource
from poolctl.sizing.fleet import (
    Extra,
    Fleet,
    FleetPooler,
    FleetService,
    NamedLimit,
    ServerLimits,
    load_fleet,
    parse_fleet,
)
from poolctl.sizing.fleet_changes import Change, apply_changes
from poolctl.sizing.fleet_check import FleetCheck, check_fleet
from poolctl.sizing.fleet_limits import LimitCheck, count_server_connections, list_moments

EXAMPLES = Path(__file__).parents[1] / "examples"


def fleet(text: str) -> Fleet:
    return parse_fleet(tomllib.loads(text), TomlSource("fleet.toml", text))


def limit(checked: FleetCheck, kind: str) -> LimitCheck:
    return next(found for found in checked.limits if found.kind == kind)


def test_the_healthy_example_fits_every_limit() -> None:
    checked = check_fleet(load_fleet(EXAMPLES / "fleet.toml"))

    assert checked.is_within
    assert checked.changes == ()
    assert [finding.code for finding in checked.findings] == ["healthy"]
    server = limit(checked, "server")
    assert (server.limit, server.usual, server.peak, server.worst, server.worst_moment) == (
        191,
        93,
        109,
        152,
        "deploy of all",
    )
    assert sum(term.value for term in checked.arithmetic[:-1]) == checked.arithmetic[-1].value == 39


def test_the_other_example_runs_for_months_and_fails_in_a_deploy_until_its_pools_are_smaller() -> None:
    plain = load_fleet(EXAMPLES / "fleet_over_budget.toml")
    checked = check_fleet(plain)
    server = limit(checked, "server")

    assert (server.usual, server.worst, server.limit, server.hard) == (186, 306, 191, 197)
    assert server.usual is not None
    assert server.usual <= server.limit
    assert checked.changes == (Change("api", "max_open", 15, 9),)
    found = checked.findings[0]
    assert (found.code, found.severity) == ("fleet-over-budget", "critical")
    assert found.summary == "The fleet can exceed the server's slots in the deploy of api: 306 of 191"
    assert found.remedy == "api: max_open 15 -> 9, or max_connections 315"
    assert check_fleet(apply_changes(plain, checked.changes)).is_within


ONE = """
[[service]]
name = "api"
max_open = 10
"""


@pytest.mark.parametrize(
    ("keys", "usual", "peak", "deploy"),
    [
        ("", 1, 1, 2),
        ("replicas = 4", 4, 4, 6),
        ("replicas = 4\nmax_replicas = 12", 4, 12, 18),
        ('replicas = 10\nsurge = "50%"', 10, 10, 20),
        ("replicas = 10\nsurge = 0", 10, 10, 12),
        ("replicas = 10\nsurge = 2\nterminating = 0", 10, 10, 12),
        ("replicas = 4\nsurge = 0\nmax_unavailable = 1", 4, 4, 5),
        ('replicas = 4\ndeploy = "blue-green"', 4, 4, 8),
        ('replicas = 4\ndeploy = "recreate"', 4, 4, 4),
        ('deploy = "serverless"\nconcurrency = 50', 50, 50, 50),
        ("replicas = 4\nprocesses = 2\npools = 3", 24, 24, 36),
        ("replicas = 0", 0, 0, 0),
    ],
)
def test_every_kind_of_deploy_has_its_own_worst_moment(keys: str, usual: int, peak: int, deploy: int) -> None:
    service = fleet(ONE + keys).services[0]

    assert (service.pools_at("usual"), service.pools_at("peak"), service.pools_at("deploy")) == (usual, peak, deploy)
    assert service.connections("deploy") == 10 * deploy


def test_deploys_one_by_one_count_the_largest_of_them() -> None:
    two = ONE + "replicas = 4\n" + ONE.replace("api", "web") + "replicas = 8\n"
    together, single = check_fleet(fleet(two)), check_fleet(fleet('deploys = "one-by-one"\n' + two))

    assert (limit(together, "server").worst, limit(together, "server").worst_moment) == (180, "deploy of all")
    assert (limit(single, "server").worst, limit(single, "server").worst_moment) == (160, "deploy of web")
    assert [moment.name for moment in list_moments(single.fleet)] == ["usual", "peak", "deploy of api", "deploy of web"]


def test_migrations_count_during_deploys_and_monitors_always() -> None:
    text = (
        ONE
        + '[[job]]\nname = "migrate"\nduring = "deploy"\nconnections = 3\n[[monitor]]\nname = "exporter"\nat_once = 2'
    )
    server = limit(check_fleet(fleet(text)), "server")

    assert (server.usual, server.peak, server.worst) == (12, 12, 25)


POOLED = FleetPooler("bouncer", processes=2, max_client_conn=50, default_pool_size=20, reserve_pool_size=5)
CLIENTS = (
    FleetService("a", 10, user="u", database="x", via="bouncer"),
    FleetService("b", 10, user="u", database="y", via="bouncer"),
    FleetService("c", 10, user="v", database="y", via="bouncer"),
    FleetService("same", 10, user="v", database="y", via="bouncer"),
)


@pytest.mark.parametrize(
    ("changes", "opened"),
    [
        ({}, 2 * 3 * 25),
        ({"max_db_connections": 30}, 2 * (25 + 30)),
        ({"max_user_connections": 30}, 2 * (30 + 25)),
        ({"kind": "pgpool", "default_pool_size": 128}, 256),
    ],
)
def test_a_pooler_multiplies_its_pool_size_by_pairs_and_processes(changes: dict[str, Any], opened: int) -> None:
    pooler = replace(POOLED, **changes)
    plain = Fleet("", ServerLimits(1000), CLIENTS, poolers=(pooler,))

    assert count_server_connections(plain, pooler) == opened
    assert limit(check_fleet(plain), "server").worst == opened
    assert count_server_connections(replace(plain, services=CLIENTS[:1]), POOLED, "role", "u") == 50
    assert count_server_connections(plain, POOLED, "database", "z") == 0


def test_clients_of_a_pooler_meet_its_own_limit() -> None:
    plain = Fleet("", ServerLimits(1000), (FleetService("a", 30, 4, 4, via="bouncer"),), poolers=(POOLED,))
    checked = check_fleet(plain)

    assert [(f.code, f.layer, f.severity) for f in checked.findings] == [
        ("pooler-client-limit", "pooler", "critical"),
        ("oversized-pool", "pooler", "info"),  # its max_db_connections is unlimited
    ]
    assert checked.changes == (Change("a", "max_open", 30, 25),)


def test_limits_of_roles_and_databases_count_those_who_use_them() -> None:
    services = (
        FleetService("a", 10, 2, 2, user="u", database="x"),
        FleetService("b", 10, 1, 1, user="v", database="x"),
    )
    plain = Fleet("", ServerLimits(1000), services, roles=(NamedLimit("u", 15),), databases=(NamedLimit("x", 30),))
    checked = check_fleet(plain)

    assert (limit(checked, "role").worst, limit(checked, "database").worst) == (20, 30)
    assert [finding.code for finding in checked.findings] == ["role-limit"]
    assert "the connection limit of role u as it usually is: 20 of 15" in checked.findings[0].summary
    assert checked.changes == (Change("a", "max_open", 10, 7),)


def test_only_the_headroom_used_up_is_a_warning() -> None:
    plain = Fleet("", ServerLimits(100, headroom=10), (FleetService("a", 90),))

    assert [finding.severity for finding in check_fleet(plain).findings] == ["warning"]
    assert [f.severity for f in check_fleet(replace(plain, server=ServerLimits(92, headroom=10))).findings] == [
        "critical"
    ]


def test_a_pool_without_a_bound_exceeds_every_limit_and_is_given_one() -> None:
    plain = fleet('[[service]]\nname = "api"\nmax_open = 0\n[[service]]\nname = "web"\nmax_open = "unlimited"')
    checked = check_fleet(plain)

    assert [service.max_open for service in plain.services] == [None, None]
    assert limit(checked, "server").worst is None
    assert "api, web can exceed the server's slots" in checked.findings[0].summary
    assert checked.changes is not None
    assert check_fleet(apply_changes(plain, checked.changes)).is_within
    json.dumps(asdict(checked), allow_nan=False)


def test_the_largest_service_gives_way_alone_where_half_of_its_pool_is_left_and_all_do_otherwise() -> None:
    alone = Fleet("", ServerLimits(100), (FleetService("big", 80), FleetService("small", 30)))
    shared = Fleet(
        "", ServerLimits(100), (FleetService("big", 80), FleetService("other", 70), FleetService("small", 10))
    )

    assert check_fleet(alone).changes == (Change("big", "max_open", 80, 64),)
    assert check_fleet(shared).changes == (
        Change("big", "max_open", 80, 47),
        Change("other", "max_open", 70, 41),
        Change("small", "max_open", 10, 6),
    )


def test_more_pools_than_slots_need_a_pooler_and_no_size_is_pretended() -> None:
    checked = check_fleet(Fleet("", ServerLimits(100), (FleetService("api", 5, 300, 300),)))

    assert checked.changes is None
    assert checked.findings[0].remedy == (
        "Even one connection for each pool is too many (300): put a pooler between, or raise the limit by 206 at least"
    )


SERVICES = st.lists(
    st.builds(
        FleetService,
        name=st.uuids().map(str),
        max_open=st.none() | st.integers(1, 60),
        replicas=st.integers(0, 10),
        max_replicas=st.integers(10, 20),
        processes=st.integers(1, 4),
        surge=st.integers(0, 5),
        terminating=st.integers(0, 5),
        user=st.sampled_from(["u", "v"]),
        database=st.sampled_from(["x", "y"]),
        via=st.sampled_from(["", "", "bouncer"]),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda service: service.name,
)


@settings(deadline=None, max_examples=80)
@given(
    services=SERVICES,
    most=st.integers(60, 3000),
    role=st.integers(10, 400),
    extra=st.integers(0, 30),
    deploys=st.sampled_from(["together", "one-by-one"]),
)
def test_what_is_advised_keeps_every_limit_and_changes_nothing_that_fits(
    services: list[FleetService], most: int, role: int, extra: int, deploys: Any
) -> None:
    plain = Fleet(
        "any",
        ServerLimits(most),
        tuple(services),
        extras=(Extra("job", "nightly", extra),),
        poolers=(replace(POOLED, max_client_conn=500),),
        roles=(NamedLimit("u", role),),
        deploys=deploys,
    )
    checked = check_fleet(plain)

    assert checked.is_within == (checked.changes == ())
    assert checked.is_within == (checked.findings[0].code == "healthy")
    assert checked.is_within == all(finding.severity == "info" for finding in checked.findings)
    if checked.changes is not None:
        assert check_fleet(apply_changes(plain, checked.changes)).is_within
        assert all(change.now is None or 0 <= change.to < change.now for change in checked.changes)
        assert all(change.to >= 1 or change.key == "reserve_pool_size" for change in checked.changes)
    for found in checked.limits:
        assert found.worst is None or found.usual is None or found.usual <= found.worst


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "fleet.toml: service: is required"),
        ('nmae = "x"' + ONE, 'fleet.toml, line 1: nmae = "x": there is no such key; did you mean name?'),
        ("[load]\nworkers = 1", "fleet.toml, line 1: load = {'workers': 1}: belongs to a scenario file"),
        ("[[service]]\nmax_open = 1", "fleet.toml, line 1: service[0].name: is required"),
        (
            '[[service]]\nname = "a"',
            "fleet.toml, line 1: service[0].max_open: is required: the most connections of one pool",
        ),
        (
            ONE + "max_open_ = 3",
            "fleet.toml, line 5: service[0].max_open_ = 3: there is no such key; did you mean max_open?",
        ),
        (ONE + "replicas = -1", "fleet.toml, line 5: service[0].replicas = -1: must be 0 or more"),
        (
            ONE + "replicas = 4\nmax_replicas = 2",
            "fleet.toml, line 6: service[0].max_replicas = 2: must not be below replicas (4)",
        ),
        (
            ONE + 'surge = "a quarter"',
            'fleet.toml, line 5: service[0].surge = "a quarter": must be a whole number, or a percentage such as "25%"',
        ),
        (
            ONE + 'deploy = "serverless"',
            "fleet.toml, line 2: service[0].concurrency: is required: how many environments the platform may run at "
            "once",
        ),
        (ONE + "concurrency = 5", 'fleet.toml, line 5: service[0].concurrency = 5: needs deploy = "serverless"'),
        (
            ONE + 'deploy = "serverless"\nconcurrency = 5\nreplicas = 2',
            "fleet.toml, line 7: service[0].replicas = 2: a serverless platform has concurrency instead",
        ),
        (ONE + 'deploy = "recreate"\nsurge = 1', 'fleet.toml, line 6: service[0].surge = 1: needs deploy = "rolling"'),
        (
            ONE + 'deploy = "canary"',
            'fleet.toml, line 5: service[0].deploy = "canary": must be one of rolling, blue-green, recreate, '
            "serverless",
        ),
        (
            ONE + 'via = "bouncer"',
            'fleet.toml, line 5: service[0].via = "bouncer": must be the name of a [[pooler]] (there is none)',
        ),
        (ONE + ONE, 'fleet.toml, line 7: service[1].name = "api": is the name of another service or pooler'),
        (
            ONE + "[roles]\nshop = -1",
            "fleet.toml, line 6: roles.shop = -1: must be a whole number from 0 to 1,000,000,000: its CONNECTION LIMIT",
        ),
        (
            "[server]\nmax_connections = 5\nreserved = 2" + ONE,
            "fleet.toml, line 1: server.superuser_reserved = 3: with reserved (2) leaves nothing of "
            "max_connections (5)",
        ),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_key_value_rule_and_line(text: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        fleet(text)

    assert refused.value.message == message


def test_pgpool_has_its_own_names() -> None:
    plain = fleet(
        ONE + 'via = "pgpool"\n[[pooler]]\nname = "pgpool"\nkind = "pgpool"\nnum_init_children = 10\nmax_pool = 2'
    )

    assert (plain.poolers[0].max_client_conn, plain.poolers[0].default_pool_size) == (10, 20)
    assert limit(check_fleet(plain), "server").worst == 20
