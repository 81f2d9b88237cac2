"""Many scenarios in virtual time on the workers of a Dask cluster, one task each.

Gives what ``engines.batch`` gives on this machine: results in the order in which they end, equal bit for bit, since a
run depends on its scenario alone. Dask computes a lost worker's tasks again on another one.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from poolctl.engines.batch import STOP_CHECK, Result
from poolctl.engines.cluster.client import connect_cluster
from poolctl.engines.model import simulate
from poolctl.errors import CannotDo
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Scenario

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T")

AHEAD = 4
"""Tasks that are handed in for each thread of the workers: enough that none waits, and memory stays flat."""


def run_on_cluster(
    scenarios: Sequence[Scenario],
    keep: Callable[[Run], T],
    address: str,
    *,
    interval: float = 0.1,
    stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], None] = lambda _: None,
) -> Generator[Result[T], None, None]:
    """Run each of ``scenarios`` on the cluster at ``address`` and yield what ``keep`` returns for it, as ``run_many``.

    ``stop``: called 20 times a second, True cancels what is left; a worker finishes the run that it is in the middle
    of, and drops it. Closing the iterator cancels, too. Raises what ``connect_cluster`` raises, and CannotDo when the
    scheduler is lost.
    """
    with connect_cluster(address, stop=stop, note=note) as client:
        done: SimpleQueue[tuple[int, Future]] = SimpleQueue()
        waiting = iter(enumerate(scenarios))
        running: dict[int, Future] = {}
        lost = CannotDo(f"--on {address}: the scheduler is gone", hint="what was done until then is lost")

        def submit() -> bool:
            following = next(waiting, None)
            if following is None:
                return False
            number, scenario = following
            # Not "pure": Dask would take two equal scenarios for one task.
            future = client.submit(run_cell, scenario, keep, interval, pure=False)
            running[number] = future
            # Called in Dask's own thread as soon as the task has ended, however it did.
            future.add_done_callback(lambda ended, number=number: done.put((number, ended)))
            return True

        try:
            ahead = AHEAD * max(1, sum(client.nthreads().values()))
            while len(running) < ahead and submit():
                pass
            while running:
                if stop():
                    return
                if _is_gone(client):
                    raise lost
                try:
                    number, future = done.get(timeout=STOP_CHECK)
                except Empty:
                    continue
                running.pop(number)
                yield _take(number, future)
                submit()
        except Exception as error:
            # The scheduler may be lost between the question above and what is asked of it then.
            if error is lost or not _is_gone(client):
                raise
            raise lost from error
        finally:
            if running and not _is_gone(client):
                # Without a scheduler there is nothing to cancel.
                with suppress(Exception):
                    client.cancel(list(running.values()))


def _is_gone(client: "Client") -> bool:
    return client.status not in ("running", "connecting")


def run_cell(scenario: Scenario, keep: Callable[[Run], T], interval: float) -> T:
    """Simulate one scenario on a worker and keep a part of the run."""
    return keep(simulate(scenario, interval=interval))


def _take(number: int, future: "Future") -> Result[T]:
    error = future.exception() if future.status == "error" else None
    if future.status == "cancelled":
        return Result(number, None, "it was cancelled by the scheduler")
    if error is not None:
        # KilledWorker: its workers died again and again, as when the run needs more memory than they have.
        return Result(number, None, f"it failed on the cluster: {(str(error).splitlines() or [''])[0][:200]}")
    return Result(number, future.result())
