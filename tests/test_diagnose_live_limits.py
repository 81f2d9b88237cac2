"""Limits that refuse clients: which one it is, how near it is, and what it is not."""

from dataclasses import replace

import pytest
from observations import (
    LEAKS,
    NOW,
    Row,
    busy,
    codes,
    find,
    full_pool,
    held_by,
    host,
    observe,
    pids,
    pool,
    process,
    rows,
    server,
    troubles,
    verdict,
)

from poolctl.diagnose.live.diagnose import diagnose
from poolctl.diagnose.live.facts import LiveFacts
from poolctl.diagnose.live.headroom import find_limits
from poolctl.observe.snapshot import IN_TRANSACTION, BackendTitle, DatabaseFacts, HostSample, Refusal, RoleFacts

FULL = Refusal("superuser-slots", "remaining connection slots are reserved for superusers", "53300", "InitPostgres")


def titles(count: int, state: str = "idle", first: int = 100) -> tuple[BackendTitle, ...]:
    return tuple(BackendTitle(first + i, "app", "app", "127.0.0.1", 40_000 + first + i, state) for i in range(count))


def test_usable_slots_are_less_than_max_connections() -> None:
    facts = server(superuser_reserved=3, reserved=5)

    [limit] = find_limits(LiveFacts(observe(*busy(10), facts=facts)))

    assert (limit.name, limit.limit, limit.used, limit.free, limit.binds) == ("max_connections", 92, 10, 82, False)


def test_walsenders_and_workers_take_no_slot_of_clients() -> None:
    workers = [Row(900 + i, "active", kind=kind) for i, kind in enumerate(["walsender", "autovacuum worker"])]

    assert find_limits(LiveFacts(observe(*busy(4), *workers)))[0].used == 4


def test_the_nearest_limit_comes_first_and_binds_when_it_is_hit() -> None:
    facts = server(
        roles=(RoleFacts("app", connection_limit=10),), databases=(DatabaseFacts("app", connection_limit=50),)
    )

    limits = find_limits(LiveFacts(observe(*busy(10), facts=facts)))

    assert [(limit.scope, limit.free, limit.binds) for limit in limits] == [
        ("role", 0, True),
        ("database", 40, False),
        ("server", 87, False),
    ]


def test_superusers_are_exempt_from_their_roles_limit() -> None:
    facts = server(roles=(RoleFacts("app", connection_limit=5, is_superuser=True),))

    assert [limit.scope for limit in find_limits(LiveFacts(observe(*busy(8), facts=facts)))] == ["server"]


def test_growth_gives_the_time_that_is_left() -> None:
    new = [Row(300 + i, age=1.0, opened=1.2, from_sample=4) for i in range(6)]

    [limit] = find_limits(LiveFacts(observe(*busy(60), *new)))

    assert limit.exhausted_in == pytest.approx(31 * 3 / 6)


def test_a_full_server_comes_first_and_is_certain() -> None:
    diagnosis = verdict(*rows(97, age=30.0, step=1.0))

    assert (diagnosis.findings[0].code, diagnosis.findings[0].confidence) == ("slots-exhausted", "certain")
    assert [limit.scope for limit in diagnosis.limits if limit.binds] == ["server"]
    assert not {"pool-undersized", "slow-database", "healthy", "role-limit", "slots-low"} & set(codes(diagnosis))


def test_what_filled_the_server_comes_before_the_full_server() -> None:
    diagnosis = verdict(*rows(60, state=IN_TRANSACTION, age=4.0, step=1.0), *busy(37))

    assert [f.code for f in diagnosis.findings if f.severity == "critical"] == [
        "leak-in-transaction",
        "slots-exhausted",
    ]


def test_a_refusal_with_titles_alone_still_names_limit_and_leak() -> None:
    seen = HostSample(has_server=True, titles=(*titles(20, IN_TRANSACTION), *titles(50, "idle", 300)))

    diagnosis = verdict(sees_backends=False, facts=None, refusal=FULL, hosts=[seen])

    assert "slots-exhausted" in codes(diagnosis)
    finding = find(diagnosis, "leak-in-transaction")
    assert (finding.confidence, finding.frees) == ("likely", 20)
    assert [limit.scope for limit in diagnosis.limits if limit.binds] == ["server"]


def test_a_server_that_gives_no_answer_while_its_processes_are_there_is_said_to_be_silent() -> None:
    silent = Refusal("unreachable", "no answer within 3 s")
    seen = HostSample(has_server=True, titles=titles(30))

    diagnosis = verdict(sees_backends=False, facts=None, refusal=silent, hosts=[seen])

    assert 'gives no answer ("no answer within 3 s"), although its processes are there' in diagnosis.findings[0].summary
    assert "did not answer" in find(diagnosis, "partial-view").summary


def test_a_refusal_with_titles_and_processes_names_the_fleet() -> None:
    seen = host(*(process(40_100 + i, 7000 + i // 15) for i in range(60)), titles=titles(60))

    diagnosis = verdict(sees_backends=False, facts=None, refusal=FULL, hosts=[seen])

    holders = find(diagnosis, "slots-exhausted").holders
    assert [holder.process and holder.process["pid"] for holder in holders] == [7000, 7001, 7002, 7003]
    finding = find(diagnosis, "fleet-over-budget")
    assert finding.evidence["instances"] == 4
    assert {holder.process and holder.process["pid"] for holder in finding.holders} == {7000, 7001, 7002, 7003}


def test_the_applications_that_fill_the_server_are_named_with_their_clients() -> None:
    old = busy(50, 100, application="shop-v1")
    new = busy(47, 200, application="shop-v2")
    seen = host(*(process(40_000 + row.pid, 7000 + row.pid // 25) for row in (*old, *new)))

    finding = find(verdict(*old, *new, hosts=[seen]), "fleet-over-budget")

    assert held_by(finding) == {"shop-v1", "shop-v2"}
    assert finding.evidence["applications"] == {
        "shop-v1": "50 backends of 2 processes",
        "shop-v2": "47 backends of 2 processes",
    }
    assert "shop-v1: 50 backends of 2 processes" in finding.summary


def test_the_clients_of_one_relay_are_no_two_instances() -> None:
    """36 sessions through one process that passes them on, and one more: by titles only."""
    seen = host(
        *(process(40_100 + i, 7000, command="python relay.py") for i in range(36)),
        process(40_136, 7001),
        titles=titles(37),
    )

    diagnosis = verdict(sees_backends=False, facts=None, refusal=FULL, hosts=[seen])

    assert "fleet-over-budget" not in codes(diagnosis)
    assert "none of the backends did anything" in find(diagnosis, "slots-exhausted").summary


def test_titles_from_several_addresses_are_an_undetermined_fleet() -> None:
    several = tuple(
        replace(title, client=f"10.0.0.{title.pid % 3}", state=("idle", "SELECT")[title.pid % 2])
        for title in titles(60)
    )

    finding = find(
        verdict(sees_backends=False, facts=None, refusal=FULL, hosts=[HostSample(has_server=True, titles=several)]),
        "fleet-over-budget",
    )

    assert finding.confidence == "undetermined"
    assert finding.summary.startswith("Clients at 3 addresses with up to 20 backends each")
    assert "relay" in str(finding.decide_by)


def test_waiters_for_a_lock_that_filled_a_server_are_seen_by_their_titles() -> None:
    root = titles(1, IN_TRANSACTION, first=90)
    seen = host(
        *(process(40_090, 6000), *(process(40_100 + i, 7000) for i in range(60))),
        titles=(*root, *titles(60, "UPDATE waiting")),
    )

    diagnosis = verdict(sees_backends=False, facts=None, refusal=FULL, hosts=[seen])

    finding = find(diagnosis, "lock-queue")
    assert (finding.confidence, pids(finding), finding.frees) == ("likely", {90}, 61)
    assert not (LEAKS | {"fleet-over-budget", "pool-undersized", "healthy"}) & set(codes(diagnosis))


def test_titles_that_are_idle_at_every_look_may_have_worked_in_between() -> None:
    diagnosis = verdict(
        sees_backends=False, facts=None, refusal=FULL, hosts=[HostSample(has_server=True, titles=titles(60))]
    )

    assert not LEAKS & set(codes(diagnosis))


def test_titles_that_move_are_no_leak() -> None:
    one = HostSample(has_server=True, titles=titles(20, IN_TRANSACTION))
    other = HostSample(has_server=True, titles=titles(20, "idle"))

    diagnosis = verdict(sees_backends=False, facts=None, refusal=FULL, hosts=[one, other, one, other, one, other, one])

    assert not LEAKS & set(codes(diagnosis))


def test_a_text_that_a_pooler_relayed_does_not_decide() -> None:
    relayed = Refusal("server-slots", "sorry, too many clients already", "53300", None)

    finding = find(verdict(*busy(10), refusal=relayed), "slots-exhausted")

    assert finding.confidence == "undetermined"
    assert finding.decide_by


def test_a_role_at_its_own_limit_is_not_a_full_server() -> None:
    facts = server(roles=(RoleFacts("app", connection_limit=6),))

    diagnosis = verdict(*busy(6), facts=facts)

    assert find(diagnosis, "role-limit").confidence == "certain"
    assert not (LEAKS | {"slots-exhausted", "pool-undersized", "healthy"}) & set(codes(diagnosis))


def test_the_refusal_of_a_role_is_critical() -> None:
    refused = Refusal("role-limit", 'too many connections for role "app"', "53300", "InitializeSessionUserId")

    assert find(verdict(*busy(6), refusal=refused), "role-limit").severity == "critical"


@pytest.mark.parametrize("text", ['too many connections for role "app"', "ロール「app」からの接続が多すぎます"])
def test_a_refused_role_names_its_own_backends_by_their_titles(text: str) -> None:
    refused = Refusal("role-limit", text, "53300", "InitializeSessionUserId")
    others = tuple(replace(title, pid=title.pid + 500, user="search") for title in titles(4))

    diagnosis = verdict(
        sees_backends=False,
        facts=None,
        refusal=refused,
        hosts=[HostSample(has_server=True, titles=(*titles(6), *others))],
    )

    assert pids(find(diagnosis, "role-limit")) == {title.pid for title in titles(6)}


def test_a_full_server_that_poolctl_counted_itself_is_certain() -> None:
    counted = Refusal("superuser-slots", "only reserved slots are free: 97 clients hold the 97 for everybody")

    diagnosis = verdict(sees_backends=False, refusal=counted, hosts=[HostSample(has_server=True, titles=titles(97))])

    assert find(diagnosis, "slots-exhausted").confidence == "certain"


def test_almost_no_slot_left_is_a_warning() -> None:
    diagnosis = verdict(*busy(90))

    assert (troubles(diagnosis), find(diagnosis, "slots-low").confidence) == (["slots-low"], "certain")


def test_growth_that_takes_the_rest_within_a_minute_is_a_warning() -> None:
    new = [Row(300 + i, age=1.0, opened=1.2, from_sample=4) for i in range(6)]

    finding = find(verdict(*busy(60), *new), "slots-low")

    assert finding.evidence["grown_in_window"] == 6


@pytest.mark.parametrize("count", [20, 60, 85])
def test_a_big_idle_fleet_under_its_limit_is_just_big(count: int) -> None:
    assert troubles(verdict(*rows(count, age=300.0, step=0.01))) == []


def test_one_look_has_no_slope() -> None:
    assert find(verdict(*busy(90), samples=1, window=0.0), "slots-low").confidence == "undetermined"


def test_pools_that_may_open_more_than_the_server_has_are_over_budget_also_when_quiet() -> None:
    fleet = [[pool(name=f"shop-{i}", max_open=30, open=4, in_use=1, waiting=0) for i in range(6)]]

    diagnosis = verdict(*busy(24), pools=fleet)

    finding = find(diagnosis, "fleet-over-budget")
    assert (finding.severity, finding.confidence) == ("warning", "certain")
    assert (finding.evidence["ceiling"], finding.frees) == (180, 83)
    assert "15 connections" in finding.remedy


def test_several_processes_that_fill_the_server_together_are_a_fleet() -> None:
    pods = [row for i in range(5) for row in busy(20, 100 + 20 * i, application=f"shop-{i}")][:97]
    seen = host(*(process(40_000 + row.pid, 7000 + row.pid // 20) for row in pods))

    diagnosis = verdict(*pods, hosts=[seen])

    assert find(diagnosis, "fleet-over-budget").confidence == "likely"
    assert not (LEAKS | {"pool-undersized"}) & set(codes(diagnosis))


def test_a_leak_that_fills_the_server_is_no_fleet_over_budget() -> None:
    leaked = [*rows(50, state=IN_TRANSACTION, age=4.0, step=1.0, application="a"), *busy(47, application="b")]

    assert "fleet-over-budget" not in codes(verdict(*leaked))


def test_idle_sessions_that_fill_a_refusing_server_are_undetermined() -> None:
    diagnosis = verdict(*rows(97, age=30.0, step=1.0))

    assert find(diagnosis, "leak-or-long-hold").confidence == "undetermined"


def test_a_superuser_application_and_missing_reserves_are_advice() -> None:
    facts = server(superuser_reserved=0, roles=(RoleFacts("app", is_superuser=True),))

    diagnosis = verdict(*busy(4), facts=facts)

    finding = find(diagnosis, "no-safety-net")
    assert (finding.severity, diagnosis.findings[0].code) == ("info", "healthy")
    assert {"superuser_applications", "slots_kept_back"} <= finding.evidence.keys()


def test_an_oversized_pool_is_advice_and_only_where_it_is_known_that_nobody_waits() -> None:
    quiet = [[pool(max_open=40, open=40, in_use=1, waiting=0)]]

    diagnosis = verdict(*rows(38, age=300.0, step=2.0), *busy(2), pools=quiet)

    finding = find(diagnosis, "oversized-pool")
    assert (finding.severity, finding.confidence, codes(diagnosis)[0]) == ("info", "likely", "healthy")


def test_a_full_view_of_a_quiet_system_is_the_single_finding_healthy() -> None:
    diagnosis = verdict(*busy(4))

    assert codes(diagnosis) == ["healthy"]
    assert diagnosis.findings[0].confidence == "likely"


def test_a_restart_within_the_window_begins_anew() -> None:
    observation = observe(*busy(4), started_at=NOW - 1.0)

    assert diagnose(observation).findings[0].code == "healthy"


def test_a_pool_that_is_waited_for_is_never_healthy() -> None:
    assert "healthy" not in codes(verdict(*rows(3, age=0.2, turns=2.4), pools=full_pool(8, 3)))
