"""Many scenarios in virtual time on the workers of a Dask cluster, some of them in each task.

Gives what ``engines.batch`` gives on this machine: results in the order in which they end, equal bit for bit, since a
run depends on its scenario alone. Dask computes a lost worker's tasks again on another one.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

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
MOST = 20
"""Scenarios of a task. Dask takes some 15 ms of processor time for a task, which many a scenario does not take."""
TASK_TIME = 0.2
"""Seconds after which a task begins no further scenario. What is left of it is handed in again."""


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
        done: SimpleQueue[Future] = SimpleQueue()
        waiting = deque(range(len(scenarios)))
        failed: set[int] = set()
        running: dict[Future, list[int]] = {}
        threads = max(1, sum(client.nthreads().values()))
        lost = CannotDo(f"--on {address}: the scheduler is gone", hint="what was done until then is lost")

        def submit() -> None:
            # Towards the end fewer each, so that no worker waits for the last one.
            most = 1 if waiting[0] in failed else max(1, min(MOST, len(waiting) // (2 * threads)))
            numbers = [waiting.popleft() for _ in range(most)]
            # Not "pure": Dask would take two equal scenarios for one task.
            future = client.submit(run_cells, [scenarios[each] for each in numbers], keep, interval, pure=False)
            running[future] = numbers
            # Called in Dask's own thread as soon as the task has ended, however it did.
            future.add_done_callback(done.put)

        try:
            while waiting or running:
                while waiting and len(running) < AHEAD * threads:
                    submit()
                if stop():
                    return
                if _is_gone(client):
                    raise lost
                try:
                    future = done.get(timeout=STOP_CHECK)
                except Empty:
                    continue
                numbers = running.pop(future)
                kept, loss = _take(future)
                if loss and len(numbers) > 1:
                    # Each alone: the others of the task are not to be lost with the one that failed.
                    failed.update(numbers)
                elif loss:
                    yield Result(numbers.pop(), None, loss)
                else:
                    for number, each in zip(numbers, kept, strict=False):
                        yield Result(number, each)
                waiting.extendleft(reversed(numbers[len(kept) :]))
        except Exception as error:
            # The scheduler may be lost between the question above and what is asked of it then.
            if error is lost or not _is_gone(client):
                raise
            raise lost from error
        finally:
            if running and not _is_gone(client):
                # Without a scheduler there is nothing to cancel.
                with suppress(Exception):
                    client.cancel(list(running))


def _is_gone(client: "Client") -> bool:
    return client.status not in ("running", "connecting")


def run_cells(scenarios: Sequence[Scenario], keep: Callable[[Run], T], interval: float) -> list[T]:
    """Simulate scenarios on a worker, in their order, for ``TASK_TIME``, and keep a part of each run."""
    began = time.monotonic()
    kept: list[T] = []
    while len(kept) < len(scenarios) and (not kept or time.monotonic() - began < TASK_TIME):
        kept.append(keep(simulate(scenarios[len(kept)], interval=interval)))
    return kept


def _take(future: "Future") -> tuple[list[Any], str]:
    """Return what was kept of the runs of a task, and how it was lost without a result, "": it was not."""
    error = future.exception() if future.status == "error" else None
    if future.status == "cancelled":
        return [], "it was cancelled by the scheduler"
    if error is not None:
        # KilledWorker: its workers died again and again, as when the run needs more memory than they have.
        return [], f"it failed on the cluster: {(str(error).splitlines() or [''])[0][:200]}"
    return future.result(), ""
