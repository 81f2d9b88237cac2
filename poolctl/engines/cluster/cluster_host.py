"""The workers of a Dask cluster as the host of a live run's instances.

Decides which worker gets which instances, how far the clocks of the machines are apart, and when a machine is lost.
Each worker is asked twice a second, in a thread of its own, for what its instances reported; the same question brings
it what they are sent, and keeps them alive.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from math import ceil
from queue import Empty, SimpleQueue
from socket import AF_INET, AF_INET6, create_server
from typing import TYPE_CHECKING, Any

from poolctl.engines.cluster.client import check_packages, check_workers, wait_for_workers
from poolctl.engines.cluster.machine_program import CHECK, CONNECT_TIMEOUT, LEASE
from poolctl.engines.cluster.worker_side import (
    Exchange,
    HostIdentity,
    close_share,
    exchange,
    find_host_identity,
    identify_host,
    open_share,
    read_wall_clock,
)
from poolctl.engines.live.instance_host import HostMachine
from poolctl.errors import CannotConnect, CannotDo, Interrupted
from poolctl.observe.connection import find_address

if TYPE_CHECKING:
    from distributed import Client

PAUSE = 0.5
"""Seconds between two exchanges with a worker that is sent nothing in between."""

SILENCE = LEASE + 0.5
"""Seconds without an answer after which a machine is lost. By then its instances have ended by themselves."""

FIRST_ANSWER = 30.0
"""Seconds for a worker to start its share."""

CLOSING = 1.0
"""Seconds for the workers to take the end of the run. A share that does not get it ends by itself."""

CLOCK_SAMPLES = 5
"""How often a clock is read at least, to find the reading that took the shortest time."""


class ClusterHost:
    """Some workers of the cluster behind ``client``, and on each a share of the ``count`` instances.

    ``library``: as in pool.kind. ``workers``: closed loops of an instance. ``per_worker``: the most instances of a
    worker; None: all workers get equally many. Raises CannotDo when there are too few workers, or one cannot begin.
    """

    report_delay = 2.0

    def __init__(
        self,
        client: "Client",
        address: str,
        *,
        library: str,
        count: int,
        workers: int,
        per_worker: int | None = None,
        stop: Callable[[], bool] = lambda: False,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._arrived: SimpleQueue[tuple[int, dict[str, Any]]] = SimpleQueue()
        self._machines: list[_Machine] = []
        needed = ceil(count / per_worker) if per_worker else 1
        wait_for_workers(client, address, needed, stop, note)
        if stop():
            raise Interrupted("interrupted before the load began")
        check_workers(client, address)
        check_packages(client, address, library)
        scheduler_ahead = _compare_clocks(client)
        places = _choose_workers(client, needed if per_worker else count)
        hosts: dict[str, HostIdentity] = client.run(identify_host, workers=places)
        run = secrets.token_hex(6)
        try:
            for at, place in enumerate(places):
                numbers = tuple(range(at, count, len(places)))
                order = {"library": library, "numbers": numbers, "workers": workers}
                self._machines.append(_Machine(client, run, place, hosts[place], order, scheduler_ahead, self._arrived))
            self._wait_for_first_answers()
        except BaseException:
            self.close()
            raise
        self._of = {number: machine for machine in self._machines for number in machine.numbers}

    @property
    def start_delay(self) -> float:
        """Seconds that the start has to be in the future when it is named."""
        return 0.5 + 8 * max(machine.uncertainty for machine in self._machines)

    def check_server(self, conninfo: str) -> None:
        """Raise CannotConnect if a machine cannot reach the server, CannotDo if one does not answer."""
        if _is_of_this_machine(find_address(conninfo)[0]):
            for machine in self._machines:
                if not machine.is_here:
                    raise CannotDo(
                        f"the server's address in the connection string is one of this machine only, and worker "
                        f"{machine.name} is another machine",
                        hint="name the server by an address that the workers reach",
                    )
        for machine in self._machines:
            machine.send(CHECK, conninfo.encode())
        deadline = time.monotonic() + CONNECT_TIMEOUT + SILENCE
        while any(machine.is_refused is None and not machine.loss for machine in self._machines):
            if time.monotonic() > deadline:
                raise CannotDo("the workers do not report whether they reach the server")
            time.sleep(0.01)
        for machine in self._machines:
            if machine.loss:
                raise CannotDo(f"worker {machine.name} was lost: {machine.loss}")
            if machine.is_refused:
                raise CannotConnect(
                    f"worker {machine.name} cannot connect to the server: {machine.is_refused}",
                    hint="each worker needs the way to the server, and the files that the connection string names",
                )

    def to_clock_of(self, number: int, at: float) -> float:
        """Convert a time of this process's monotonic clock to that of the machine of an instance."""
        return at + self._of[number].ahead

    def send(self, number: int, message: dict[str, Any]) -> None:
        """Send one message."""
        self._of[number].send(b"%d" % number, json.dumps(message).encode())

    def end(self, number: int) -> None:
        """End the process of an instance, and with it its connections."""
        self._of[number].send(b"%d" % number)

    def gather(self, timeout: float) -> list[tuple[int, dict[str, Any]]]:
        """Return the messages that arrive within ``timeout`` seconds; {"ended": how} is the last of an instance."""
        for machine in self._machines:
            machine.check_silence()
        found = []
        try:
            found.append(self._arrived.get(timeout=timeout))
            while True:
                found.append(self._arrived.get_nowait())
        except Empty:
            return found

    def list_machines(self) -> Sequence[HostMachine]:
        """Return the machines, lost ones included."""
        return [machine.describe() for machine in self._machines]

    def close(self) -> None:
        """End all shares, and wait a moment for the workers to take that."""
        for machine in self._machines:
            machine.begin_close()
        deadline = time.monotonic() + CLOSING
        for machine in self._machines:
            machine.join(max(0.0, deadline - time.monotonic()))

    def _wait_for_first_answers(self) -> None:
        deadline = time.monotonic() + FIRST_ANSWER
        while not all(machine.samples >= CLOCK_SAMPLES for machine in self._machines):
            for machine in self._machines:
                if machine.loss or time.monotonic() > deadline:
                    reason = machine.loss or f"no answer within {FIRST_ANSWER:g} s"
                    raise CannotDo(f"worker {machine.name} cannot begin: {reason}")
            time.sleep(0.01)


class _Machine:
    """One worker and its share. Its thread alone exchanges; the fields are read by the thread of the run."""

    def __init__(
        self,
        client: "Client",
        run: str,
        address: str,
        host: HostIdentity,
        order: dict[str, Any],
        scheduler_ahead: float,
        arrived: "SimpleQueue[tuple[int, dict[str, Any]]]",
    ) -> None:
        self.name = address.partition("://")[2]
        where, _, port = self.name.rpartition(":")
        where = where.strip("[]")
        self.is_here = host == find_host_identity() and _has_address(where)
        if _is_of_this_machine(where) and not self.is_here:
            # The scheduler's own host: Debian's /etc/hosts has its name beside 127.0.1.1, and Dask's worker there then
            # calls itself 127.0.0.1.
            self.name = f"{host.name}:{port}"
        self.numbers: tuple[int, ...] = order["numbers"]
        self.loss = ""
        self.is_refused: str | None = None
        """Why the server cannot be reached from there, "": it can, None: not known yet."""
        self.samples = 0
        self.ahead = 0.0
        """Seconds that the machine's monotonic clock is ahead of this one's."""
        self.uncertainty = float("inf")
        """Seconds that ``ahead`` may be wrong by: half the time of the fastest exchange."""
        self._wall_ahead = 0.0
        self._scheduler_ahead = scheduler_ahead
        self._client, self._run, self._address = client, run, address
        self._arrived = arrived
        self._heard_at: float | None = None
        self._unread = b""
        self._outgoing: list[bytes] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._converse, args=(order,), daemon=True)
        self._thread.start()

    def describe(self) -> HostMachine:
        offset = self._wall_ahead - self._scheduler_ahead
        return HostMachine(self.name, self.numbers, self.loss, offset, self.uncertainty)

    def send(self, number: bytes, message: bytes = b"") -> None:
        with self._lock:
            self._outgoing.append(b"%s %s\n" % (number, message) if message else number + b"\n")
        self._wake.set()

    def check_silence(self) -> None:
        """Call the machine lost if it has not answered for too long: it hangs, or the network to it is cut."""
        if self._heard_at is not None and not self.loss and time.monotonic() - self._heard_at > SILENCE:
            self._lose(f"no answer for {SILENCE:g} s")

    def begin_close(self) -> None:
        self._closing = True
        self._wake.set()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _converse(self, order: dict[str, Any]) -> None:
        try:
            if (reason := self._call(open_share, order)) is not None:
                self._lose(reason)
            while not self._closing and not self.loss:
                self._exchange()
                if self.samples >= CLOCK_SAMPLES:
                    self._wake.wait(PAUSE)
            # Also where the loss was noticed by silence alone: the worker may answer again.
            self._call(close_share)
        except Exception as error:  # noqa: BLE001 - whatever Dask raises for a connection that broke
            self._lose((str(error).splitlines() or [type(error).__name__])[0][:200])

    def _exchange(self) -> None:
        self._wake.clear()
        with self._lock:
            lines, self._outgoing = b"".join(self._outgoing), []
        began = time.monotonic()
        wall = time.time()
        answer: Exchange = self._call(exchange, lines)
        ended = time.monotonic()
        if (ended - began) / 2 < self.uncertainty:
            self.uncertainty = (ended - began) / 2
            self.ahead = answer.monotonic - began - self.uncertainty
            self._wall_ahead = answer.wall - wall - self.uncertainty
        self.samples += 1
        self._heard_at = ended
        if self.loss:
            return
        *complete, self._unread = (self._unread + answer.lines).split(b"\n")
        for line in complete:
            number, _, text = line.partition(b" ")
            message = json.loads(text)
            if number == CHECK:
                self.is_refused = message["refused"] or ""
                continue
            if "failed" in message:
                message["failed"]["message"] = f"worker {self.name}: {message['failed']['message']}"
            self._arrived.put((int(number), message))
        if answer.ended is not None:
            self._lose(f"its part of poolctl {answer.ended}")

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._client.run(function, self._run, *arguments, workers=[self._address])[self._address]

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self.loss or self._closing:
                return
            self.loss = reason
        for number in self.numbers:
            self._arrived.put((number, {"ended": f"was lost with {self.name}"}))


def _choose_workers(client: "Client", most: int) -> list[str]:
    """Return the addresses of at most ``most`` workers, on as many hosts as possible."""
    turns: dict[str, int] = {}
    ranked = []
    for address in sorted(client.scheduler_info(n_workers=-1)["workers"]):
        host = address.rpartition(":")[0]
        turns[host] = turns.get(host, 0) + 1
        ranked.append((turns[host], address))
    return [address for _, address in sorted(ranked)[:most]]


def _is_of_this_machine(address: str) -> bool:
    """Return True if every machine takes ``address`` for itself: a worker would load whatever server runs there."""
    if address == "localhost" or address.startswith(("/", "@")) or not address:
        return True
    with suppress(ValueError):
        return ip_address(address).is_loopback
    return False


def _has_address(address: str) -> bool:
    """Return True if this machine itself has ``address``."""
    try:
        create_server((address, 0), family=AF_INET6 if ":" in address else AF_INET).close()
    except OSError:
        return False
    return True


def _compare_clocks(client: "Client") -> float:
    """Return the seconds that the scheduler's clock is ahead of this machine's."""
    samples = []
    for _ in range(CLOCK_SAMPLES):
        began, wall = time.monotonic(), time.time()
        found: float = client.run_on_scheduler(read_wall_clock)
        half = (time.monotonic() - began) / 2
        samples.append((half, found - wall - half))
    return min(samples)[1]
