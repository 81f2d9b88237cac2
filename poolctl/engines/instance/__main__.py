"""A pod: one instance of the application under test, in an operating-system process of its own.

Started by the live engine as ``python -m poolctl.engines.instance KIND``, with a job on its standard input
(see ``channel``). It keeps its connections until its input ends.
"""

import os
import sys

from poolctl.engines.instance.channel import InstanceChannel
from poolctl.errors import PoolctlError


def main() -> None:
    kind = sys.argv[1]
    _allow_many_sockets()
    # The driver is chosen before the job is known, so that its libraries load while the server still starts.
    if kind == "database/sql":
        from poolctl.engines.instance.event_loop import drive
    else:
        from poolctl.engines.instance.library_drivers import preload
        from poolctl.engines.instance.threads import drive

        preload(kind)
    link = InstanceChannel(sys.stdin, sys.stdout)
    try:
        drive(link.read_job(), link)
        link.wait_to_leave()
    except PoolctlError as error:
        link.failed(error)
    # Threads may still wait in a real library's pool, and would hold the process for as long as it likes.
    os._exit(0)


def _allow_many_sockets() -> None:
    """Raise the limit on open files as far as it may be raised: 1,500 connections are more than the usual 1,024."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
