"""Runs many scenarios in virtual time, on all cores, and returns a part of each result.

Decides how the runs are distributed over processes, and what happens if a process is lost or the user ends the batch.
A Run stays in the process that made it. Only what ``keep`` returns for it is sent back, so that memory does not grow
with timelines.
"""

import contextlib
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, Self, TypeVar

from poolctl.engines.model import simulate
from poolctl.errors import CannotDo
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Scenario

T = TypeVar("T")

STOP_CHECK = 0.05
"""Seconds between two calls of ``stop`` while no result arrives."""

# -P: no file of the current folder may be imported in place of a module. The parent then sends its own path.
_PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from poolctl.engines.batch import serve; serve(sys.stdin.buffer)"
)


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What was kept of run ``number``. ``loss``: how its process ended without a result, "": it did not."""

    number: int
    kept: T | None
    loss: str = ""


def count_cores() -> int:
    """Count the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_many(
    scenarios: Sequence[Scenario],
    keep: Callable[[Run], T],
    *,
    interval: float = 0.1,
    processes: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Result[T], None, None]:
    """Run each of ``scenarios`` and yield what ``keep`` returns for it, in the order in which the runs end.

    ``keep`` is a function at the top level of a module, because it is sent to other processes. ``interval``: as in
    ``simulate``. ``processes``: at most so many, None: one for each core; with 1, the runs are made in this process.
    ``stop``: called 20 times a second, returns True if the user ends the batch; runs that are under way are dropped.
    Closing the iterator ends the processes.
    """
    count = min(processes or count_cores(), len(scenarios))
    if count > 1:
        yield from _run_on_processes(scenarios, keep, interval, count, stop)
        return
    for number, scenario in enumerate(scenarios):
        run = simulate(scenario, interval=interval, stop=stop)
        if run.interrupted:
            return
        yield Result(number, keep(run))


def _run_on_processes(
    scenarios: Sequence[Scenario],
    keep: Callable[[Run], T],
    interval: float,
    count: int,
    stop: Callable[[], bool],
) -> Generator[Result[T], None, None]:
    waiting = iter(enumerate(scenarios))
    with _Workers(count, (keep, interval)) as workers:
        for worker in workers.all:
            workers.assign(worker, next(waiting))
        while workers.is_busy:
            if stop():
                return
            for worker in workers.wait_for_results(STOP_CHECK):
                yield workers.collect(worker)
                following = next(waiting, None)
                if following is not None:
                    workers.assign(worker, following)


class _Worker:
    """A process that simulates one scenario after the other. Messages are pickles."""

    def __init__(self, setting: Any) -> None:
        self._setting = setting
        self.number: int | None = None
        """The number of the scenario that it simulates."""
        self._start()

    def _start(self) -> None:
        # A file and not a pipe: a pipe that is not read blocks the process as soon as it is full.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``end``
        # A session of its own: the terminal sends Ctrl-C to poolctl alone, which ends its processes itself.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self.send(sys.path)
        self.send((os.getpid(), *self._setting))

    def send(self, message: Any) -> None:
        """Send one message. If the process has ended, ``receive`` notices that."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()

    @property
    def output(self) -> BinaryIO:
        """The standard output of the process."""
        assert self.process.stdout is not None
        return self.process.stdout  # type: ignore[return-value] # BufferedReader is what a binary pipe is

    def receive(self) -> Any:
        """Return the next message. Raises EOFError if the process ended without one."""
        try:
            return pickle.load(self.output)
        except pickle.UnpicklingError as error:
            raise EOFError(str(error)) from None

    def describe_end(self) -> str:
        """Wait for the end of the process, and describe it with the last line that it wrote to standard error."""
        code = self.process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was ended by signal {-code} ({_signal_name(-code)})" if code < 0 else f"ended with exit code {code}"
        return f"its process {how}{f': {lines[-1]}' if lines else ''}"

    def end(self) -> None:
        """Kill the process if it runs, and close its files."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                # Closing flushes what a process that has ended did not read.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def restart(self) -> None:
        """Replace the process by a new one."""
        self.end()
        self._start()


class _Workers:
    """All processes of a batch. Raises CannotDo if they cannot be started."""

    def __init__(self, count: int, setting: Any) -> None:
        self.all: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        try:
            for _ in range(count):
                self.all.append(_Worker(setting))
        except BaseException as error:
            self.__exit__()
            if isinstance(error, OSError):
                raise CannotDo(f"could not start {count} processes: {error.strerror}") from None
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.all:
            worker.end()
        self._selector.close()

    @property
    def is_busy(self) -> bool:
        """True if a process works on a scenario."""
        return bool(self._selector.get_map())

    def assign(self, worker: _Worker, job: tuple[int, Scenario]) -> None:
        """Send ``worker`` the next scenario."""
        worker.number = job[0]
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        worker.send(job[1])

    def wait_for_results(self, timeout: float) -> list[_Worker]:
        """Wait at most ``timeout`` seconds, and return the workers that have a result or have ended."""
        return [key.data for key, _ in self._selector.select(timeout)]

    def collect(self, worker: _Worker) -> Result[Any]:
        """Receive the result of ``worker``, or replace its process if that has ended."""
        self._selector.unregister(worker.output)
        number, worker.number = worker.number, None
        assert number is not None
        try:
            return Result(number, worker.receive())
        except EOFError:
            loss = worker.describe_end()
            worker.restart()
            return Result(number, None, loss)


def serve(orders: BinaryIO) -> None:
    """Simulate the scenarios that ``orders`` bring, until they end. This is the main function of each process."""
    results = os.fdopen(os.dup(1), "wb")
    # Whatever else writes to standard output must not get between the results.
    os.dup2(2, 1)
    parent, keep, interval = pickle.load(orders)
    while True:
        try:
            scenario = pickle.load(orders)
        except EOFError:
            return
        # A parent that was killed cannot end its processes, and a long run does not read its orders.
        run = simulate(scenario, interval=interval, stop=lambda: os.getppid() != parent)
        if run.interrupted:
            return
        pickle.dump(keep(run), results, protocol=pickle.HIGHEST_PROTOCOL)
        results.flush()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
