"""What a PgBouncer says of the load that it hides."""

from dataclasses import replace

from poolctl.observe.snapshot import BouncerPool, BouncerSample, BouncerStats, Observation, Snapshot
from poolctl.sizing.figures import Figures
from poolctl.sizing.measure_pooler import measure_poolers


def sample(transactions: int, *, active: int = 2, waiting: int = 0, mode: str = "transaction") -> BouncerSample:
    """5 ms of each transaction in use, 1 ms in line."""
    own = BouncerStats("pgbouncer", transactions=9_999 * (transactions > 0))
    shop = BouncerStats("shop", transactions, transaction_time=0.005 * transactions, wait_time=0.001 * transactions)
    pool = BouncerPool("shop", "app", servers_active=active, clients_waiting=waiting, mode=mode)
    return BouncerSample("pgb1:6432", pools=(pool,), stats=(own, shop))


def observed(*samples: BouncerSample) -> Observation:
    return Observation(tuple(Snapshot(float(10 * at), bouncers=(each,)) for at, each in enumerate(samples)))


def test_its_totals_are_throughput_hold_and_wait_of_all_clients() -> None:
    figures = measure_poolers(observed(sample(0), sample(4_000, active=4)), Figures(is_behind_pooler=True))

    assert figures is not None
    assert not figures.is_behind_pooler
    measured = (
        figures.throughput,
        figures.hold_time,
        figures.wait_time,
        figures.parallelism,
        figures.parallelism_counted,
    )
    assert [round(figure.value, 6) if figure else None for figure in measured] == [400, 0.005, 0.001, 3, 2]


def test_clients_in_its_queue_mean_that_more_was_asked_for_than_was_in_use() -> None:
    figures = measure_poolers(observed(sample(0), sample(100, waiting=3)), Figures())

    assert figures is not None
    assert figures.censored_share is not None
    assert figures.censored_share.value == 0.5


def test_a_pool_that_lends_for_whole_sessions_says_nothing_of_holds() -> None:
    assert measure_poolers(observed(sample(0, mode="session"), sample(100, mode="session")), Figures()) is None


def test_a_pooler_that_was_restarted_or_idle_says_nothing() -> None:
    assert measure_poolers(observed(sample(500), sample(3)), Figures()) is None
    assert measure_poolers(observed(sample(5), sample(5)), Figures()) is None
    assert measure_poolers(Observation((Snapshot(0.0),)), Figures()) is None


def test_several_poolers_are_added_up() -> None:
    first, second = observed(sample(0), sample(1_000)), observed(sample(0), sample(3_000))
    both = Observation(
        tuple(
            replace(one, bouncers=(*one.bouncers, *(replace(each, target="pgb2:6432") for each in two.bouncers)))
            for one, two in zip(first.snapshots, second.snapshots, strict=True)
        )
    )

    figures = measure_poolers(both, Figures())

    assert figures is not None
    assert figures.throughput is not None
    assert figures.throughput.value == 400
