"""The cores that a server may use, where its processes are on this machine.

Reads a few files of one process, which takes no time on the busiest machine, where the list of all processes may take
seconds.
"""

import math
import os
from contextlib import suppress
from pathlib import Path

_PREFIX = b"postgres: "


def count_cores_of_backend(pid: int, *, proc: Path = Path("/proc")) -> int | None:
    """Count the cores that the server of a backend may use; None where no process here has that id and its title.

    The title is compared because the server may count its processes in a namespace of its own.
    """
    try:
        title = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    return count_usable_cores(pid) if title.startswith(_PREFIX) else None


def count_usable_cores(pid: int, *, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Count the cores that a process may use, a part of one as one; None where the machine does not report any.

    Quotas: cpu.max of every group above the process (cgroup v2), cpu.cfs_quota_us (v1).
    """
    cores = float(os.cpu_count() or 0) or None
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            cores = float(len(os.sched_getaffinity(pid)))
    quotas = [quota for group in _list_groups(pid, proc, groups) if (quota := _read_quota(group)) is not None]
    limits = [limit for limit in (cores, *quotas) if limit is not None]
    return max(1, math.ceil(min(limits))) if limits else None


def _list_groups(pid: int, proc: Path, groups: Path) -> list[Path]:
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found: list[Path] = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = groups / controllers if controllers else groups
        own = base / path.lstrip("/")
        found += [group for group in (own, *own.parents) if group == base or base in group.parents]
    return found


def _read_quota(group: Path) -> float | None:
    """Read the limit of a control group, in cores; None without one."""
    # Version 2 of control groups, then version 1; a machine may have both.
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (group / "cpu.max").read_text().split()[:2]
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    return None
