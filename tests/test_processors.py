"""How many processors there really are, in containers of either version of cgroups."""

import os
from pathlib import Path

import pytest

from monitor import processors

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({}, ALL),
        ({"proc/self/cgroup": "0::/\n"}, ALL),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, ALL),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, min(ALL, 2)),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"}, ALL),
        (  # a slice above the service has the limit
            {
                "proc/self/cgroup": "0::/ward.slice/monitor.service\n",
                "sys/fs/cgroup/ward.slice/cpu.max": "90000 100000\n",
                "sys/fs/cgroup/ward.slice/monitor.service/cpu.max": "max 100000\n",
            },
            1,
        ),
        (  # version 1, without a namespace: the container's own group is mounted at the top
            {
                "proc/self/cgroup": "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            ALL,
        ),
    ],
)
def test_a_containers_share_counts(tmp_path: Path, files: dict[str, str], most: int) -> None:
    assert processors.available(tree(tmp_path, files)) == most


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux pins processes")
def test_a_process_that_is_pinned_to_a_processor_has_one(tmp_path: Path) -> None:
    whole = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(whole)})
    try:
        assert processors.available(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, whole)
