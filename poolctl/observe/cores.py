"""How many cores a process may use: what the machine has, its affinity allows and its control groups leave it."""

import math
import os
from contextlib import suppress
from pathlib import Path


def usable_cores(pid: int, *, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Whole cores, a part of one counting as one; None where the machine does not say how many it has.

    Quotas: cpu.max of every group above the process (cgroup v2), cpu.cfs_quota_us (v1).
    """
    cores = float(os.cpu_count() or 0) or None
    if hasattr(os, "sched_getaffinity"):
        with suppress(OSError):
            cores = float(len(os.sched_getaffinity(pid)))
    quotas = [quota for group in _groups_of(pid, proc, groups) if (quota := _quota(group)) is not None]
    limits = [limit for limit in (cores, *quotas) if limit is not None]
    return max(1, math.ceil(min(limits))) if limits else None


def _groups_of(pid: int, proc: Path, groups: Path) -> list[Path]:
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


def _quota(group: Path) -> float | None:
    """Cores; None without a limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (group / "cpu.max").read_text().split()[:2]
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    return None
