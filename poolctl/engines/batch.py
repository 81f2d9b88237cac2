"""Runs many scenarios in virtual time, on all cores, and hands on what is kept of each.

Decides how the runs are spread over processes and what becomes of them when one is lost or the user has enough.
A run stays in the process that made it: what comes back is what ``keep`` makes of it, so that memory does not grow
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

LOOK = 0.05
"""Seconds between questions to ``stop`` while nothing comes in."""

# -P: a file of the current folder must not stand in for a module. The path is then that of the parent.
_PROGRAM = (
    "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
    "from poolctl.engines.batch import serve; serve(sys.stdin.buffer)"
)


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """What was kept of the run ``number``. ``loss``: how its process ended instead, "" when it did not."""

    number: int
    kept: T | None
    loss: str = ""


def cores() -> int:
    """Processor cores that this process may use."""
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
    """Run each of ``scenarios`` and yield what ``keep`` makes of it, as runs end, in any order.

    ``keep`` is a function at the top of a module, for it is sent to other processes. ``interval``: as in
    ``simulate``. ``processes``: at most so many, None for one a core; a single one runs here. ``stop``: asked 20
    times a second whether the user has enough; what runs then is dropped. Closing the iterator ends the processes.
    """
    count = min(processes or cores(), len(scenarios))
    if count > 1:
        yield from _spread(scenarios, keep, interval, count, stop)
        return
    for number, scenario in enumerate(scenarios):
        run = simulate(scenario, interval=interval, stop=stop)
        if run.interrupted:
            return
        yield Result(number, keep(run))


def _spread(
    scenarios: Sequence[Scenario],
    keep: Callable[[Run], T],
    interval: float,
    count: int,
    stop: Callable[[], bool],
) -> Generator[Result[T], None, None]:
    waiting = iter(enumerate(scenarios))
    with _Workers(count, (keep, interval)) as workers:
        for worker in workers.all:
            workers.give(worker, next(waiting))
        while workers.busy:
            if stop():
                return
            for worker in workers.ready(LOOK):
                yield workers.take(worker)
                following = next(waiting, None)
                if following is not None:
                    workers.give(worker, following)


class _Worker:
    """A process that simulates one scenario after the other, told and telling in pickles."""

    def __init__(self, setting: Any) -> None:
        self._setting = setting
        self.number: int | None = None
        """Of the scenario it works on."""
        self._start()

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in ``end``
        # A session of its own: Ctrl-C in the terminal is for poolctl, which ends its processes itself.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self.tell(sys.path)
        self.tell((os.getpid(), *self._setting))

    def tell(self, message: Any) -> None:
        assert self.process.stdin is not None
        # A process that is gone is noticed, with its last words, where its answer is waited for.
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()

    @property
    def output(self) -> BinaryIO:
        assert self.process.stdout is not None
        return self.process.stdout  # type: ignore[return-value] # BufferedReader is what a binary pipe is

    def hear(self) -> Any:
        """The answer. Raises EOFError when the process ended without one."""
        try:
            return pickle.load(self.output)
        except pickle.UnpicklingError as error:
            raise EOFError(str(error)) from None

    def describe_end(self) -> str:
        code = self.process.wait()
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"was ended by signal {-code} ({_signal_name(-code)})" if code < 0 else f"ended with exit code {code}"
        return f"its process {how}{f': {words[-1]}' if words else ''}"

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                # What was never read by a process that is gone cannot be flushed either.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def renew(self) -> None:
        self.end()
        self._start()


class _Workers:
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
    def busy(self) -> bool:
        return bool(self._selector.get_map())

    def give(self, worker: _Worker, job: tuple[int, Scenario]) -> None:
        worker.number = job[0]
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        worker.tell(job[1])

    def ready(self, timeout: float) -> list[_Worker]:
        return [key.data for key, _ in self._selector.select(timeout)]

    def take(self, worker: _Worker) -> Result[Any]:
        """What ``worker`` has to say; one that is gone is replaced."""
        self._selector.unregister(worker.output)
        number, worker.number = worker.number, None
        assert number is not None
        try:
            return Result(number, worker.hear())
        except EOFError:
            loss = worker.describe_end()
            worker.renew()
            return Result(number, None, loss)


def serve(orders: BinaryIO) -> None:
    """Work off what ``orders`` bring, until they end. The main function of each process."""
    answers = os.fdopen(os.dup(1), "wb")
    # Nothing but answers may go where they go.
    os.dup2(2, 1)
    parent, keep, interval = pickle.load(orders)
    while True:
        try:
            scenario = pickle.load(orders)
        except EOFError:
            return
        # A parent that was killed cannot end its processes, and a long run does not look at its orders.
        run = simulate(scenario, interval=interval, stop=lambda: os.getppid() != parent)
        if run.interrupted:
            return
        pickle.dump(keep(run), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
