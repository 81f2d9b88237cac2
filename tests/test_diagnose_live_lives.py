"""Connections that are opened for a single use and left open, and what looks like them and is not."""

import pytest
from observations import Row, find, host, observe, pool, process, rows

from poolctl.diagnose.finding import Diagnosis
from poolctl.diagnose.live.diagnose import diagnose


def once(count: int, *, every: float = 4.0, batch: int = 1, **same: object) -> list[Row]:
    """Backends that were used when they were opened, ``batch`` of them each ``every`` seconds, the last just now."""
    return [
        Row(100 + i, age=0.5 + every * (i // batch), opened=0.7 + every * (i // batch), **same)  # type: ignore[arg-type]
        for i in range(count)
    ]


def codes(diagnosis: Diagnosis) -> list[str]:
    return [finding.code for finding in diagnosis.findings]


@pytest.mark.parametrize("samples", [1, 7])
def test_backends_opened_one_by_one_and_used_once_are_a_connection_per_request(samples: int) -> None:
    finding = find(diagnose(observe(*once(12), samples=samples)), "connection-per-request")

    assert finding.confidence == "likely"
    assert finding.evidence["used_once"] == 12
    assert finding.evidence["moments"] == 12
    assert finding.holders[0].application == "shop"


@pytest.mark.parametrize(("every", "confidence"), [(1.0, "undetermined"), (20.0, "likely")])
def test_a_few_in_quick_succession_may_be_workers_that_start(every: float, confidence: str) -> None:
    finding = find(diagnose(observe(*once(6, every=every))), "connection-per-request")

    assert finding.confidence == confidence


def test_they_are_certain_where_one_process_of_this_machine_opened_them() -> None:
    owner = [process(40_100 + i, pid=4242) for i in range(12)]

    finding = find(diagnose(observe(*once(12), hosts=[host(*owner)])), "connection-per-request")

    assert finding.confidence == "certain"
    assert finding.holders[0].process is not None


def test_pools_made_again_and_again_are_told_by_their_batches() -> None:
    finding = find(diagnose(observe(*once(20, batch=5, every=10.0))), "connection-per-request")

    assert finding.evidence["moments"] == 4
    assert "about 5 at a time" in finding.summary


@pytest.mark.parametrize(
    ("batch", "ago", "is_known", "found"),
    [
        (5, 20.0, True, "certain"),
        (5, 5000.0, True, "certain"),
        (5, 20.0, False, "undetermined"),
        (5, 5000.0, False, None),
        (1, 20.0, True, None),
    ],
)
def test_a_process_that_made_pools_and_stopped_is_told_by_their_batches(
    batch: int, ago: float, is_known: bool, found: str | None
) -> None:
    """One at a time, long ago: a pool also replaces its connections so, at the end of their lives."""
    made = [Row(100 + i, age=ago + i // batch, opened=ago + 0.2 + i // batch) for i in range(45)]
    owner = [host(*(process(40_100 + i, pid=4242) for i in range(45)))] if is_known else []

    diagnosis = diagnose(observe(*made, hosts=owner))

    told = {finding.code: finding.confidence for finding in diagnosis.findings}
    assert told.get("connection-per-request") == found


def test_a_few_batches_of_a_process_that_stopped_may_be_leaks_by_chance() -> None:
    made = [Row(100 + i, age=20.0 + i // 2, opened=20.2 + i // 2) for i in range(6)]
    owner = host(*(process(40_100 + i, pid=4242) for i in range(6)))

    finding = find(diagnose(observe(*made, hosts=[owner])), "connection-per-request")

    assert finding.confidence == "undetermined"


def test_a_pool_that_opened_another_connection_for_each_that_leaked_made_no_batches() -> None:
    """Go's database/sql, one request in 13 leaks; what is within half a second is by chance."""
    opened = [20.0, 20.1, 20.35, 21.0, 21.4, 21.5, 22.2, 22.3, 22.7, 23.4]
    leaked = [Row(100 + i, age=ago, opened=ago + 0.2) for i, ago in enumerate(opened)]

    owner = host(*(process(40_100 + i, pid=4242) for i in range(10)))

    assert "connection-per-request" not in codes(diagnose(observe(*leaked, hosts=[owner])))


def test_connections_that_did_nothing_since_they_were_opened_count_too() -> None:
    assert "connection-per-request" in codes(diagnose(observe(*once(12, query=None))))


LOOK_ALIKES = {
    "a pool that filled itself at one moment": [Row(100 + i, age=50.0, opened=50.0 + 0.01 * i) for i in range(20)],
    "a pool that filled itself and grew once": [
        *(Row(100 + i, age=90.0, opened=90.2) for i in range(10)),
        *(Row(200 + i, age=20.0, opened=20.2) for i in range(10)),
    ],
    "workers that each opened their one connection when they started, long ago": [
        Row(100 + i, age=3000.0 + i, opened=3000.2 + i) for i in range(12)
    ],
    "a lifo pool whose connections were used after they were opened": [
        Row(100 + i, age=4.0 * i, opened=600.0 + i) for i in range(12)
    ],
    "instances on hosts of their own, each with its first connection": [
        Row(100 + i, age=4.0 * i, opened=4.0 * i + 0.2, client=f"10.0.0.{i}") for i in range(12)
    ],
    "a pool that grew while all of its connections were in use": [
        # Each came to rest only after the last one had been opened.
        Row(100 + i, age=0.5, opened=1.4 - 0.05 * i)
        for i in range(12)
    ],
    "three connections": once(3),
    "listeners that were started one after the other": once(8, query="LISTEN jobs"),
    "one connection for each request among many that are reused": [*once(6), *rows(20, 300, age=1.0, opened=900.0)],
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_what_only_looks_like_it_is_not_called_so(name: str) -> None:
    assert "connection-per-request" not in codes(diagnose(observe(*LOOK_ALIKES[name])))


def test_connections_that_their_pool_counts_as_in_use_are_the_leaks_and_not_this() -> None:
    figures = [[pool(max_open=12, open=12, in_use=12, idle=0, waiting=4)]]

    found = codes(diagnose(observe(*once(12), pools=figures)))

    assert "connection-per-request" not in found
    assert {"leak", "leak-or-long-hold"} & set(found)
