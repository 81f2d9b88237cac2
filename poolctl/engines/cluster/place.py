"""Where a batch of model runs is computed: on this machine, or on a Dask cluster."""

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from poolctl.engines.batch import Result, run_many
from poolctl.errors import BadInput
from poolctl.scenario.run import Run
from poolctl.scenario.scenario import Scenario

T = TypeVar("T")


def run_at(
    place: str,
    scenarios: Sequence[Scenario],
    keep: Callable[[Run], T],
    *,
    interval: float = 0.1,
    stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], None] = lambda _: None,
) -> Generator[Result[T], None, None]:
    """Run each of ``scenarios`` at ``place`` (see ``parse_place``) and yield what ``keep`` returns for it.

    ``note`` is called with what a cluster is waited for. Raises what ``run_many`` and ``run_on_cluster`` raise.
    """
    processes, address = parse_place(place)
    if not address:
        return run_many(scenarios, keep, interval=interval, processes=processes, stop=stop)
    from poolctl.engines.cluster.cluster_batch import run_on_cluster

    return run_on_cluster(scenarios, keep, address, interval=interval, stop=stop, note=note)


def check_place(place: str, *, stop: Callable[[], bool], note: Callable[[str], None]) -> None:
    """Raise what ``run_at`` would, before anything else is done: a cluster has to answer, and to fit."""
    _, address = parse_place(place)
    if address:
        from poolctl.engines.cluster.client import connect_cluster

        with connect_cluster(address, stop=stop, note=note):
            pass


def parse_place(place: str) -> tuple[int | None, str]:
    """Return for ``local``, ``local:N``, ``tcp://HOST:PORT`` or ``tls://HOST:PORT`` the processes and the address.

    The processes are None for all cores; the address is "" for this machine. Raises BadInput for anything else.
    """
    kind, colon, rest = place.partition(":")
    if kind == "local" and not colon:
        return None, ""
    if kind == "local" and rest.isdecimal() and 1 <= int(rest) <= 1024:
        return int(rest), ""
    host, _, port = rest.removeprefix("//").rpartition(":")
    is_plain = host and "@" not in host and port.isdecimal() and int(port) <= 65535
    if kind in ("tcp", "tls") and rest.startswith("//") and is_plain:
        return None, place
    raise BadInput(
        f"--on {place}: is neither this machine nor a Dask scheduler",
        hint="local, local:4, tcp://scheduler:8786 or tls://scheduler:8786",
    )
