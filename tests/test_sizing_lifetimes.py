"""How long connections live and stay idle, how long an acquire waits, and that each says why."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolctl.errors import BadInput
from poolctl.sizing.defaults import fill_defaults
from poolctl.sizing.figures import Figure, Figures
from poolctl.sizing.figures import given as said
from poolctl.sizing.lifetimes import Lifetimes, choose_lifetimes, find_least_idle
from poolctl.sizing.queueing import reopened_share

Known = dict[str, Figure]


def lifetimes(
    known: Known | None = None, *, max_open: int = 10, load: float | None = 4.0, processes: int = 4, slots: int = 100
) -> Lifetimes:
    figures, _ = fill_defaults(Figures(**known or {}))  # type: ignore[arg-type]  # every field named here is a Figure
    return choose_lifetimes(figures, max_open=max_open, load=load, hold_time=0.01, processes=processes, slots=slots)


def why(found: Lifetimes, setting: str) -> str:
    return next(reason.why for reason in found.reasons if reason.setting == setting)


def test_without_anything_known_it_is_25_minutes_and_5_of_jitter() -> None:
    found = lifetimes()

    assert (found.max_lifetime, found.max_lifetime_jitter) == (1500.0, 300.0)
    assert (found.max_idle, found.min_idle, found.max_idle_time, found.acquire_timeout) == (10, 0, 600.0, 1.0)
    assert [reason.setting for reason in found.reasons] == [
        "max_idle",
        "min_idle",
        "max_lifetime",
        "max_lifetime_jitter",
        "max_idle_time",
        "acquire_timeout",
    ]


@pytest.mark.parametrize(
    ("known", "longest", "reason"),
    [
        ({"failover_target": said(300)}, 300, "failover"),
        ({"credential_lifetime": said(900)}, 720, "credentials"),
        ({"connection_age_limit": said(630)}, 600, "age limit"),
        ({"connection_age_limit": said(25)}, 22, "2.5 s before the age limit"),
        ({"connection_age_limit": said(5)}, 4, "age limit"),
        ({"credential_lifetime": said(5)}, 4, "credentials"),
        ({"failover_target": said(7200)}, 1800, "half an hour"),
    ],
)
def test_the_lifetime_with_its_jitter_stays_below_what_ends_connections_anyway(
    known: Known, longest: float, reason: str
) -> None:
    found = lifetimes(known)

    assert found.max_lifetime + found.max_lifetime_jitter == pytest.approx(longest)
    assert found.max_lifetime >= 2
    assert reason in why(found, "max_lifetime")


@pytest.mark.parametrize("limit", ["failover_target", "credential_lifetime", "connection_age_limit"])
def test_a_limit_that_no_pool_could_keep_is_refused(limit: str) -> None:
    with pytest.raises(BadInput, match=f"--{limit.replace('_', '-')} 3 s: no pool can replace its connections"):
        lifetimes({limit: said(3)})


def test_a_lifetime_that_costs_more_reopening_than_it_should_says_so() -> None:
    # 200 connections of 6 ms on 4 cores: 300 s at least.
    known = {"connect_time": said(0.006), "cores": said(4), "failover_target": said(60)}
    found = lifetimes(known, max_open=50, processes=4, slots=1000)

    assert "costs more than 0.1 %" in why(found, "max_lifetime")
    calm = lifetimes(known | {"failover_target": said(600)}, max_open=50, processes=4, slots=1000)
    assert "costs more" not in why(calm, "max_lifetime")


def test_many_connections_get_more_jitter_so_that_the_server_can_open_them_again() -> None:
    few = lifetimes({"failover_target": said(60)}, max_open=10, processes=10, slots=1000)
    many = lifetimes({"failover_target": said(60)}, max_open=100, processes=10, slots=10_000)

    assert few.max_lifetime_jitter == pytest.approx(10.0)
    assert many.max_lifetime_jitter == pytest.approx(30.0)
    assert many.max_lifetime + many.max_lifetime_jitter == pytest.approx(60)


def test_idle_connections_are_kept_unless_slots_are_short() -> None:
    roomy = lifetimes(max_open=20, load=5.0, processes=4, slots=1000)
    tight = lifetimes({"connect_time": said(0.001)}, max_open=20, load=5.0, processes=5, slots=100)

    assert roomy.max_idle == 20
    assert tight.max_idle < 20
    assert "100 of 100 slots" in why(tight, "max_idle")
    assert tight.reopened is not None
    assert tight.reopened * 0.001 <= 0.01 * 0.01


@settings(deadline=None)
@given(load=st.floats(0.01, 60.0), hold=st.floats(0.001, 1.0), connect=st.floats(0.001, 0.1))
def test_the_least_idle_keeps_reopening_within_one_percent_of_the_hold(
    load: float, hold: float, connect: float
) -> None:
    idle = find_least_idle(load, hold, connect)

    assert reopened_share(load, idle) * connect <= 0.01 * hold
    assert idle == 0 or reopened_share(load, idle - 1) * connect > 0.01 * hold


def test_connections_that_open_slower_than_anybody_may_wait_are_kept_ready() -> None:
    assert lifetimes({"connect_time": said(0.2)}, load=3.2).min_idle == 4
    assert lifetimes({"connect_time": said(0.005)}, load=3.2).min_idle == 0
    assert lifetimes({"connect_time": said(0.2)}, load=50.0).min_idle == 10


@pytest.mark.parametrize(
    ("known", "idle_time", "reason"),
    [
        ({"network_idle_limit": said(350)}, 315, "network"),
        ({"session_idle_limit": said(120)}, 108, "idle_session_timeout"),
        ({"burst_gap": said(300)}, 450, "bursts"),
        ({"burst_gap": said(10)}, 60, "bursts"),
        ({"burst_gap": said(3600), "network_idle_limit": said(240)}, 216, "network"),
        ({"failover_target": said(120)}, 100, "max_lifetime"),
    ],
)
def test_idle_connections_end_before_something_else_ends_them(known: Known, idle_time: float, reason: str) -> None:
    found = lifetimes(known)

    assert found.max_idle_time == pytest.approx(idle_time)
    assert reason in why(found, "max_idle_time")


@pytest.mark.parametrize(
    ("known", "timeout"),
    [
        ({}, 1.0),
        ({"wait_target": said(0.1)}, 2.0),
        ({"wait_target": said(2.0)}, 5.0),
        ({"connect_time": said(0.3)}, 3.0),
        ({"request_timeout": said(30)}, 1.0),
        ({"request_timeout": said(1.0)}, 0.5),
        ({"wait_target": said(0.2), "probe_timeout": said(2.0)}, 1.0),
    ],
)
def test_an_acquire_gives_up_before_the_request_and_the_probe_do(known: Known, timeout: float) -> None:
    assert lifetimes(known).acquire_timeout == pytest.approx(timeout)


def test_a_wait_target_beyond_the_request_timeout_is_called_a_contradiction() -> None:
    found = lifetimes({"wait_target": said(3.0), "request_timeout": said(2.0)})

    assert found.acquire_timeout == 1.0
    assert "one of the two cannot be kept" in why(found, "acquire_timeout")


@settings(deadline=None)
@given(
    max_open=st.integers(1, 500),
    processes=st.integers(1, 100),
    load=st.none() | st.floats(0.0, 200.0),
    failover=st.none() | st.floats(5.0, 1e5),
    network=st.none() | st.floats(5.0, 1e4),
    connect=st.none() | st.floats(0.0001, 2.0),
)
def test_the_settings_never_contradict_each_other(
    max_open: int,
    processes: int,
    load: float | None,
    failover: float | None,
    network: float | None,
    connect: float | None,
) -> None:
    known = {"failover_target": failover, "network_idle_limit": network, "connect_time": connect}
    figures = {name: said(value) for name, value in known.items() if value is not None}
    found = lifetimes(figures, max_open=max_open, processes=processes, load=load, slots=max_open * processes)

    assert 0 <= found.min_idle <= found.max_idle <= max_open
    assert 0 < found.max_idle_time <= found.max_lifetime
    assert found.max_lifetime_jitter >= 0.19 * found.max_lifetime
    assert found.max_lifetime + found.max_lifetime_jitter <= min(1800.0, failover or 1800.0) + 1e-6
    assert found.acquire_timeout > 0
    assert network is None or found.max_idle_time < network
