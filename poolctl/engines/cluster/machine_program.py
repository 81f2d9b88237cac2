"""One machine's share of a live run on a cluster: starts its instances and passes on what they and the client say.

A Dask worker starts it as ``python -m poolctl.engines.cluster.machine_program ORDER`` (see ``worker_side``), so that
neither the instances nor their messages pass through a thread of the worker that has other things to do.

    in    NUMBER MESSAGE for an instance, NUMBER alone to end it, ``check CONNINFO``, or an empty line
    out   NUMBER MESSAGE of an instance, or ``check`` and {"refused": reason or null}

Ends by itself, and its instances with it, when its input ends or has been silent for ``LEASE`` seconds: the client,
the scheduler, the worker or the network between them is then gone.
"""

import json
import os
import signal
import sys
import threading

from poolctl.engines.live.instance_host import LocalHost, check_memory
from poolctl.errors import CannotDo

LEASE = 4.0
"""Seconds without a line of input after which everything ends. The client sends one each half second."""

CHECK = b"check"
"""Stands for the number where a message is not about an instance."""

CONNECT_TIMEOUT = 5
"""Seconds for the connection that shows whether this machine reaches the server."""


def main() -> None:
    """Serve until the client is done or gone."""
    order = json.loads(sys.argv[1])
    # SIGALRM's default action ends the process even while it waits for a worker that no longer reads. The pipes to the
    # instances then close, which ends them.
    signal.setitimer(signal.ITIMER_REAL, LEASE)
    # What the worker's own environment says about servers was not meant for these instances.
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    numbers: list[int] = order["numbers"]
    try:
        check_memory(len(numbers), order["workers"])
        host = LocalHost(order["library"], numbers)
    except CannotDo as error:
        failure = json.dumps({"failed": {"code": error.code, "message": error.message, "hint": error.hint}}).encode()
        _write([(b"%d" % numbers[0], failure)])
        return
    with host:
        threading.Thread(target=_read_input, args=(host,), daemon=True).start()
        while True:
            _write([(b"%d" % number, line) for number, line in host.gather_lines(1.0)])


def _read_input(host: LocalHost) -> None:
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, LEASE)
        number, _, message = line.rstrip(b"\n").partition(b" ")
        if number == CHECK:
            threading.Thread(target=_check_server, args=(message.decode(),), daemon=True).start()
        elif message:
            host.send_line(int(number), message)
        elif number:
            host.end(int(number))
    os._exit(0)


def _check_server(conninfo: str) -> None:
    """Connect once, and report why that is impossible. A server that is full was reached."""
    import psycopg

    from poolctl.engines.instance.error_origin import classify, is_refusal

    reason = None
    try:
        psycopg.connect(conninfo, connect_timeout=CONNECT_TIMEOUT).close()
    except psycopg.Error as error:
        kind = classify(str(error))
        reason = None if is_refusal(kind) else kind.message
    _write([(CHECK, json.dumps({"refused": reason}).encode())])


_writing = threading.Lock()


def _write(lines: list[tuple[bytes, bytes]]) -> None:
    if not lines:
        return
    with _writing:
        try:
            sys.stdout.buffer.write(b"".join(b"%s %s\n" % line for line in lines))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os._exit(1)


if __name__ == "__main__":
    main()
