"""The number of processors that this process may use."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def available(root: Path = Path("/")) -> int:
    """Return how many processors this process really has, at least 1.

    A container sees all processors of its host, but may be allowed the time of two of them
    (`docker run --cpus 2`): threads beyond that only wait for each other. The limits are those of
    cgroups, https://docs.kernel.org/admin-guide/cgroup-v2.html, and `taskset`'s.

    Args:
        root: of the file system in which the kernel shows them.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux only
        number = len(os.sched_getaffinity(0))
    else:
        number = os.cpu_count() or 1
    quotas = [math.ceil(quota) for quota in _quotas(root)]
    return max(1, min([number, *quotas]))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the processors' time that each cgroup of this process may use, in processors."""
    cgroups = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, name = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = cgroups / "cpu" if controllers else cgroups
        own = Path(name.lstrip("/"))
        for group in (own, *own.parents):
            if controllers:
                quota = _read(top / group / "cpu.cfs_quota_us")
                period = _read(top / group / "cpu.cfs_period_us")
            else:
                quota, _, period = _read(top / group / "cpu.max").partition(" ")
            if quota.strip().isdecimal() and period.strip().isdecimal() and int(period):
                yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
