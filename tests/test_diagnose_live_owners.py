"""Whose pool it is: by name, by process, by size, or not known; and what may not be said where it is not known."""

from dataclasses import replace

import pytest
from observations import (
    LEAKS,
    Row,
    busy,
    codes,
    find,
    full_pool,
    held_by,
    host,
    observe,
    pool,
    process,
    rows,
    troubles,
    verdict,
)

from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.owners import is_drivers_name
from poolctl.observe.snapshot import PoolFigures

JDBC = "PostgreSQL JDBC Driver"
SCRAPE = "http://127.0.0.1:9090/metrics"


def owner(*given: Row, **scene: object) -> tuple[str | None, str]:
    facts = LiveFacts(observe(*given, **scene))
    found = facts.explain_owner(facts.pools[0])
    return (found.application.name if found.application else None), found.by


@pytest.mark.parametrize("name", ["", JDBC, "/app/bin/rails"], ids=["empty", "pgjdbc's own", "a script's path"])
def test_a_label_that_no_backend_carries_does_not_mean_that_there_is_no_backend(name: str) -> None:
    """Spring Boot's tag "application" is not the application_name of pgjdbc's connections."""
    leaked = rows(10, age=9.0, step=2.0, application=name)

    diagnosis = verdict(*leaked, pools=full_pool(10, 30, name="p", application="shop"))

    assert "pool-slots-lost" not in codes(diagnosis)
    finding = find(diagnosis, "leak-or-long-hold")
    assert held_by(finding) == {name}
    assert finding.evidence["pool_attributed"] == "as the only application that it can belong to"


@pytest.mark.parametrize("name", ["", JDBC])
def test_a_busy_pool_with_a_label_of_its_own_has_lost_no_slots(name: str) -> None:
    diagnosis = verdict(
        *busy(10, application=name), hosts=[host()], pools=full_pool(10, 3, name="p", application="shop")
    )

    assert "pool-slots-lost" not in codes(diagnosis)
    assert find(diagnosis, "pool-undersized").confidence == "likely"


def test_slots_are_lost_for_certain_only_where_backends_carry_the_pools_name() -> None:
    named = verdict(*busy(3, application="shop"), pools=full_pool(10, 3, name="p", application="shop"))
    concluded = verdict(*busy(3, application=JDBC), pools=full_pool(10, 3, name="p", application="shop"))

    assert find(named, "pool-slots-lost").confidence == "certain"
    assert find(concluded, "pool-slots-lost").confidence == "likely"


def full_by_totals(size: int) -> list[list[PoolFigures]]:
    """Full, as Go's database/sql says it: clients waited before the first sample, and none was served since."""
    return [[pool(max_open=size, open=size, in_use=size, application="shop", queued_total=4, wait_time_total=0.0)]]


@pytest.mark.parametrize(("size", "code"), [(6, "pool-slots-lost"), (4, "leak-or-long-hold")])
def test_a_full_pool_of_which_the_server_shows_no_backend_is_never_healthy(size: int, code: str) -> None:
    """Each other application has two backends, four in all."""
    diagnosis = verdict(
        *busy(2, application="search"), *busy(2, first=700, application="cart"), pools=full_by_totals(size)
    )

    assert codes(diagnosis)[0] == code
    assert find(diagnosis, code).confidence == "undetermined"
    assert "application_name shop" in str(find(diagnosis, code).decide_by)


def test_a_pool_is_never_given_to_an_application_with_a_name_of_its_own_that_the_label_contradicts() -> None:
    full = full_pool(3, 6, name="p", application="orders")

    diagnosis = verdict(*busy(3, application="ledger"), pools=full)

    assert owner(*busy(3, application="ledger"), pools=full) == (None, "size")
    assert not {"pool-undersized", "pool-slots-lost"} & set(codes(diagnosis))
    assert held_by(find(diagnosis, "leak-or-long-hold")) == set()


def test_a_pool_whose_application_lost_all_its_backends_in_the_window_is_no_other_applications() -> None:
    gone = rows(3, age=1.0, application="orders", until_sample=3)

    assert owner(*gone, *busy(3, application="ledger"), pools=full_pool(3, 6, name="orders")) == (None, "size")


def test_a_pool_without_any_acquire_is_not_of_an_application_whose_backends_turn_over() -> None:
    still = full_pool(8, 6, name="", acquired_total=400.0)
    moving = [[pool(name="", max_open=8, open=8, in_use=8, waiting=6, acquired_total=400.0 + 90 * i)] for i in range(7)]

    assert owner(*busy(8, application=""), pools=still) == (None, "only")
    assert owner(*busy(8, application=""), pools=moving) == ("", "only")
    assert "pool-undersized" not in codes(verdict(*busy(8, application=""), hosts=[host()], pools=still))


def test_a_pool_that_says_it_is_idle_is_not_of_an_application_at_work() -> None:
    idle = [[pool(name="", max_open=8, open=8, in_use=0, waiting=0)]]
    at_work = rows(8, 300, state="active", age=0.01, turns=0.1, application="report")

    assert owner(*at_work, *busy(20, application="shop"), pools=idle)[0] is None


def test_the_process_that_the_figures_come_from_owns_the_pool() -> None:
    """Two applications without a name and of the same size: only the process parts them."""
    one, other = rows(6, 100, age=9.0, application="", user="one"), busy(6, 200, application="", user="other")
    seen = host(
        *(process(40_000 + row.pid, 7001) for row in one),
        *(process(40_000 + row.pid, 7002) for row in other),
        scraped={SCRAPE: 7001},
    )
    full = full_pool(6, 4, name="", source=SCRAPE)

    facts = LiveFacts(observe(*one, *other, hosts=[seen], pools=full))
    found = facts.explain_owner(facts.pools[0])

    assert found.application is not None
    assert (found.application.user, found.by, found.pid) == ("one", "process", 7001)
    finding = find(verdict(*one, *other, hosts=[seen], pools=full), "leak-or-long-hold")
    assert {holder.user for holder in finding.holders} == {"one"}
    assert finding.evidence["pool_attributed"] == "by the process that its figures come from"


def test_an_exporter_beside_the_process_owns_no_pool() -> None:
    given = rows(6, 100, age=9.0, application="")
    seen = host(*(process(40_000 + row.pid, 7001) for row in given), scraped={SCRAPE: 9999})

    assert owner(*given, hosts=[seen], pools=full_pool(6, 4, name="", source=SCRAPE)) == ("", "only")


def test_slots_are_counted_against_the_backends_of_the_pools_own_process() -> None:
    mine, others = busy(4, 100, application=""), busy(20, 200, application="")
    seen = host(
        *(process(40_000 + row.pid, 7001) for row in mine),
        *(process(40_000 + row.pid, 7002) for row in others),
        scraped={SCRAPE: 7001},
    )

    diagnosis = verdict(*mine, *others, hosts=[seen], pools=full_pool(10, 4, name="", source=SCRAPE))

    finding = find(diagnosis, "pool-slots-lost")
    assert (finding.evidence["sessions"], finding.evidence["lost"], finding.confidence) == (4, 6, "likely")


def test_two_exports_of_one_pool_are_one_pool() -> None:
    hikari = pool(name="HikariPool-1", library="hikaricp", max_open=10, open=10, in_use=4, waiting=0)
    spring = replace(hikari, name="dataSource", library="spring-jdbc", waiting=None, in_use=5, idle=5)
    r2dbc = replace(hikari, name="r2dbc", library="r2dbc-pool")

    def count(*pools: object) -> int:
        return len(LiveFacts(observe(*busy(10), pools=[pools])).pools)

    assert count(hikari, spring) == 1
    assert count(hikari, replace(spring, source="http://other:1/metrics")) == 2
    assert count(hikari, replace(spring, max_open=20)) == 2
    assert count(hikari, r2dbc) == 2
    assert count(spring) == 1


def test_a_pool_without_a_limit_is_full_when_all_its_backends_are_in_use() -> None:
    """SQLAlchemy's pool.status() says what is checked out, and not how much overflow there may be."""
    status = pool(name="default", library="sqlalchemy", open=10, in_use=10)

    diagnosis = verdict(*rows(10, age=9.0, step=2.0, application=""), pools=[[status]])

    assert LEAKS & set(troubles(diagnosis))
    assert held_by(find(diagnosis, "leak-or-long-hold")) == {""}
    assert troubles(verdict(*busy(10, application=""), pools=[[status]])) == []


def two_pools(*, is_second_busy: bool) -> tuple[list[Row], dict[str, object]]:
    """A process with a pool of ten in use, and 15 backends more."""
    first = busy(10, 100, application="")
    second = busy(15, 200, application="") if is_second_busy else rows(15, 200, age=60.0, step=9.0, application="")
    seen = host(*(process(40_000 + row.pid, 7001) for row in (*first, *second)), scraped={SCRAPE: 7001})
    figures = [[pool(name="web", max_open=10, open=10, in_use=4, waiting=0, source=SCRAPE)]]
    return [*first, *second], {"hosts": [seen], "pools": figures}


def test_a_process_with_more_backends_than_its_pools_may_open_is_named() -> None:
    given, scene = two_pools(is_second_busy=False)

    finding = find(verdict(*given, **scene), "backends-beyond-pool")

    assert (finding.confidence, finding.frees, finding.evidence["max_open"]) == ("likely", 15, 10)
    assert {holder.process and holder.process["pid"] for holder in finding.holders} == {7001}
    assert "Process 7001 of user app (no application_name) has 25 backends" in finding.summary


def test_figures_in_a_file_are_of_the_only_process_that_has_backends_of_their_application() -> None:
    given, scene = two_pools(is_second_busy=False)
    figures = [[pool(name="web", application="web", max_open=10, open=10, in_use=4, waiting=0)]]
    named = [replace(row, application="web") for row in given]

    here = verdict(*named, hosts=scene["hosts"], pools=figures)
    elsewhere = verdict(*named, pools=figures)

    assert find(here, "backends-beyond-pool").confidence == "likely"
    assert "backends-beyond-pool" not in codes(elsewhere)
    assert find(elsewhere, "healthy").confidence == "likely"


def test_a_second_pool_that_works_and_exports_nothing_is_no_fault() -> None:
    given, scene = two_pools(is_second_busy=True)

    assert "backends-beyond-pool" not in codes(verdict(*given, **scene))


def test_one_scraped_instance_of_six_accuses_nobody() -> None:
    """The other five have backends, too, at addresses of their own."""
    given = [row for i in range(6) for row in rows(10, 100 + 20 * i, age=60.0, client=f"10.0.0.{i}")]
    figures = [[pool(max_open=10, open=10, in_use=0, waiting=0, source="http://10.0.0.1:9090/metrics")]]

    assert "backends-beyond-pool" not in codes(verdict(*given, pools=figures))


def test_an_address_with_more_backends_than_its_pools_may_open_is_undetermined() -> None:
    given = rows(25, 100, age=60.0, client="10.0.0.1")
    figures = [[pool(max_open=10, open=10, in_use=0, waiting=0, source="http://10.0.0.1:9090/metrics")]]

    assert find(verdict(*given, pools=figures), "backends-beyond-pool").confidence == "undetermined"


def test_a_pool_that_replaces_its_connections_has_a_few_more_for_a_moment() -> None:
    given = rows(12, 100, age=60.0, application="")
    seen = host(*(process(40_000 + row.pid, 7001) for row in given), scraped={SCRAPE: 7001})
    figures = [[pool(name="web", max_open=10, open=12, in_use=0, waiting=0, source=SCRAPE)]]

    assert "backends-beyond-pool" not in codes(verdict(*given, hosts=[seen], pools=figures))


def test_slots_lost_of_a_pool_that_reports_no_waiting_clients_say_that_it_is_not_known() -> None:
    finding = find(
        verdict(*busy(2, application="shop"), pools=[[pool(max_open=6, open=6, in_use=6)]]), "pool-slots-lost"
    )

    assert "waiting clients: unknown" in finding.summary
    assert finding.evidence["waiting"] is None


def test_a_pool_that_is_full_beside_a_server_without_any_backend_leads_elsewhere_or_is_lost() -> None:
    waited, quiet = (
        verdict(pools=[[pool(name="", max_open=10, open=10, in_use=10, waiting=waiting)]]) for waiting in (7, 0)
    )

    assert find(waited, "leak-or-long-hold").severity == "critical"
    assert find(quiet, "leak-or-long-hold").severity == "warning"
    assert "they lead to another server, or are lost" in find(quiet, "leak-or-long-hold").summary
    assert not {"healthy", "pool-slots-lost"} & {*codes(waited), *codes(quiet)}


def test_health_is_certain_only_where_the_pool_of_every_application_has_figures() -> None:
    figures = [[pool(max_open=8, open=8, in_use=2, waiting=0)]]

    alone, beside = (
        verdict(*busy(8), pools=figures),
        verdict(*busy(8), *busy(5, 900, application="cart"), pools=figures),
    )

    assert find(alone, "healthy").confidence == "certain"
    assert find(beside, "healthy").confidence == "likely"
    assert find(verdict(*busy(8, application="")), "healthy").confidence == "likely"


def test_wait_events_of_versions_to_come_change_nothing() -> None:
    """PostgreSQL 19 renames BUFFERPIN to BUFFER; extensions and new versions add types of their own."""
    given = busy(6)
    named = [replace(row, wait=("Buffer", "BufferPin") if row.state == "active" else ("Moon", "Tide")) for row in given]

    assert codes(verdict(*named)) == codes(verdict(*given))


@pytest.mark.parametrize(
    ("name", "is_drivers"),
    [
        ("", True),
        (JDBC, True),
        ("postgres.js", True),
        ("bin/rails", True),
        ("/app/worker.rb", True),
        ("shop", False),
        ("shop/1.4", False),
        ("shop-api", False),
    ],
)
def test_names_that_no_application_chose_are_known(name: str, is_drivers: bool) -> None:
    assert is_drivers_name(name) == is_drivers
