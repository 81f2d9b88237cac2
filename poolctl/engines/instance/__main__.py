"""One instance of the application under test, in a process of its own.

The live engine starts it as ``python -m poolctl.engines.instance LIBRARY`` and sends it a job on standard input
(see ``channel``). The instance keeps its connections open until its standard input ends.
"""

import os
import sys

from poolctl.engines.instance.channel import InstanceChannel
from poolctl.engines.pool_kinds import REAL_LIBRARIES
from poolctl.errors import PoolctlError


def main() -> None:
    """Run one instance until the live engine ends it."""
    library = sys.argv[1]
    _allow_many_sockets()
    # The library is an argument and not only in the job, so that it loads while the server still starts.
    if library in REAL_LIBRARIES:
        from poolctl.engines.instance.library_drivers import preload
        from poolctl.engines.instance.threads import drive

        preload(library)
    else:
        from poolctl.engines.instance.event_loop import drive
    channel = InstanceChannel(sys.stdin, sys.stdout)
    try:
        drive(channel.read_job(), channel)
        channel.wait_for_end()
    except PoolctlError as error:
        channel.send_failure(error)
    # Threads may still wait in a real library's pool. A normal exit would wait for them, without limit.
    os._exit(0)


def _allow_many_sockets() -> None:
    """Raise the limit on open files to the hard limit: the usual 1,024 are too few for 1,500 connections."""
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
