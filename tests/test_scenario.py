import tomllib
from pathlib import Path
from typing import Any

import pytest

from poolctl.errors import BadInput
from poolctl.pool import LIBRARIES, PoolSettings
from poolctl.scenario.scenario import (
    Burst,
    Database,
    Distribution,
    Event,
    Leak,
    Scenario,
    load_scenario,
    parse_scenario,
)
from poolctl.scenario.toml import TomlSource

EVERY_KEY = """\
name = "leaky checkout"            # required
description = "..."

[database]
max_connections = 100              # live: the throw-away server is started with it
reserved = 3                       # superuser_reserved_connections
cores = 2                          # model only: queries slow each other down beyond it ("unlimited" switches that off)
connect_time = { distribution = "constant", mean = "5ms" }   # model only; live measures it
via = "none"                       # none | pgbouncer | pgpool: what stands between pool and server
[database.pgbouncer]               # handed to PgBouncer as they are named there
pool_mode = "transaction"
default_pool_size = 20
max_db_connections = 100

[pool]
kind = "database/sql"              # database/sql | pgxpool | psycopg_pool | psycopg2 | sqlalchemy | hikaricp | none
max_open = 30                      # 0 = unlimited, as in Go
max_idle = 10                      # a count
min_idle = 0
max_lifetime = "30m"               # "off" = for ever
max_idle_time = "off"
acquire_timeout = "off"            # "off" = wait for ever

[load]
instances = 1                      # pods, each a process (live) with its own pool
workers = 16                       # closed loop: per instance ...
think = { distribution = "constant", mean = "0ms" }
# rate = 200.0                     # ... or open loop: Poisson arrivals per second per instance (exactly one of the two)
hold = { distribution = "exponential", mean = "20ms" }       # acquire to release
# hold distributions: constant | exponential | lognormal (with cv)
query = "sleep"                    # live: sleep | select1 | cpu | a SQL string of the user's
connections_per_request = 1        # n = nested: acquires one after the other, releases all at the end
requests = 0                       # stop after so many; 0 = by duration
duration = "10s"
warmup = "0s"                      # not counted
drain = "2s"                       # after duration no request begins; those begun may still finish for so long
seed = 1
[[load.bursts]]                    # on top of the above (which may be absent): extra closed workers of each instance
at = "5s"
until = "9s"                       # omitted: until the end
workers = 20
requests = 1                       # each; omitted: over and over
hold = { distribution = "constant", mean = "500ms" }         # default: load.hold; think likewise

[leak]
every = 0                          # every k-th request of an instance never gives its connection back; 0 = none
shape = "forgotten"                # forgotten (idle) | in-transaction | unread-rows | dropped-reference | long-hold

[[events]]                         # things that happen to the server
at = "20s"
do = "restart"                     # restart | failover | pause | slow | deploy
"""
"""The scenario file as it is documented: names in it are public."""

SMALLEST: dict[str, Any] = {"name": "x", "load": {"workers": 1}}


def scenario_of(text: str) -> Scenario:
    return parse_scenario(tomllib.loads(text), TomlSource("file.toml", text))


def test_every_documented_key_is_accepted_and_means_what_is_documented() -> None:
    scenario = scenario_of(EVERY_KEY)

    assert (scenario.name, scenario.description) == ("leaky checkout", "...")
    assert scenario.database == Database(
        max_connections=100,
        reserved=3,
        cores=2,
        connect_time=Distribution("constant", 0.005),
        via="none",
        pgbouncer={"pool_mode": "transaction", "default_pool_size": 20, "max_db_connections": 100},
    )
    assert scenario.pool == PoolSettings("database/sql", 30, 10, 0, 1800.0, None, None)
    load = scenario.load
    assert (load.instances, load.workers, load.rate, load.query) == (1, 16, None, "sleep")
    assert (load.think, load.hold) == (Distribution("constant", 0.0), Distribution("exponential", 0.02))
    assert (load.connections_per_request, load.requests, load.seed) == (1, 0, 1)
    assert (load.duration, load.warmup, load.drain) == (10.0, 0.0, 2.0)
    assert load.bursts == (Burst(5.0, 9.0, 20, 1, Distribution("constant", 0.5), load.think),)
    assert scenario.leak == Leak(0, "forgotten")
    assert scenario.events == (Event(20.0, "restart"),)


def test_a_name_and_a_load_are_enough_and_the_rest_has_defaults() -> None:
    scenario = parse_scenario(SMALLEST)

    # The load sleeps, which takes no processor.
    assert scenario.database == Database(cores=None)
    assert scenario.pool == LIBRARIES["database/sql"].defaults
    assert scenario.leak == Leak()
    assert (scenario.events, scenario.load.bursts) == ((), ())
    assert scenario.load.hold == Distribution("exponential", 0.02)
    assert (scenario.load.duration, scenario.load.drain, scenario.load.instances) == (10.0, 2.0, 1)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_kind_alone_takes_its_library_s_own_defaults(kind: str) -> None:
    scenario = parse_scenario({**SMALLEST, "pool": {"kind": kind}})

    assert scenario.pool == LIBRARIES[kind].defaults


def test_a_statement_of_the_user_s_takes_the_time_it_takes() -> None:
    scenario = parse_scenario({"name": "x", "load": {"workers": 1, "query": "select count(*) from orders"}})

    assert scenario.load.hold == Distribution("constant", 0.0)


def test_a_bare_time_is_a_constant_distribution() -> None:
    scenario = parse_scenario({"name": "x", "load": {"workers": 1, "hold": "30ms", "think": 0.5}})

    assert (scenario.load.hold, scenario.load.think) == (Distribution("constant", 0.03), Distribution("constant", 0.5))


def test_bursts_alone_are_a_load_and_hold_and_think_like_the_load() -> None:
    scenario = parse_scenario(
        {"name": "x", "load": {"hold": "30ms", "think": "1s", "bursts": [{"at": "1s", "workers": 5}]}}
    )

    assert (scenario.load.workers, scenario.load.rate) == (None, None)
    assert scenario.load.bursts == (
        Burst(1.0, None, 5, 0, Distribution("constant", 0.03), Distribution("constant", 1.0)),
    )


def test_a_number_of_requests_without_a_duration_runs_until_they_are_done() -> None:
    scenario = parse_scenario({"name": "x", "load": {"workers": 1, "requests": 100}})

    assert scenario.load.duration is None


def test_events_come_in_the_order_of_their_times() -> None:
    events = [{"at": "9s", "do": "restart"}, {"at": "1s", "do": "pause", "for": "2s"}]

    assert parse_scenario({**SMALLEST, "events": events}).events == (
        Event(1.0, "pause", duration=2.0),
        Event(9.0, "restart"),
    )


def test_assignments_win_over_the_file_and_are_blamed_for_what_they_set(tmp_path: Path) -> None:
    path = tmp_path / "leak.toml"
    path.write_text(EVERY_KEY)

    scenario = load_scenario(path, ["pool.max_open=12", "load.hold=1s", "leak.every=7"])

    assert (scenario.pool.max_open, scenario.load.hold.mean, scenario.leak.every) == (12, 1.0, 7)
    with pytest.raises(BadInput, match=r"^--set pool\.max_open = -1: must be 0 or more$"):
        load_scenario(path, ["pool.max_open=-1"])
    with pytest.raises(BadInput, match=r"leak\.toml, line 23: pool\.max_idle_time.*: .*no such setting|max_lifetime"):
        load_scenario(path, ["pool.kind=psycopg2"])


def test_a_scenario_may_not_be_changed_by_reading_it() -> None:
    values = tomllib.loads(EVERY_KEY)
    parse_scenario(values)

    assert values == tomllib.loads(EVERY_KEY)
