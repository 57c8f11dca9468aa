"""Three partitions on three nodes of NATS, which become two while alarms stand, and then a node
is killed.

What else may fail takes minutes: `make cluster`.
"""

from collections.abc import Iterator
from pathlib import Path

from monitor.batch.datasets import Beats
from tests.harness.cluster import NODES, Cluster, Load, Partition, run
from tests.harness.devices import Hearts

DEVICES = 12


def faults(
    cluster: Cluster, _partitions: list[Partition], load: Load, second: int
) -> Iterator[str]:
    yield "3 partitions become 2"
    cluster.divide(2)
    load.wait(3 * second)
    yield "a node is killed"
    cluster.kill(NODES - 1)
    load.wait(3 * second)


def test_alarms_are_raised_and_cleared_once_whatever_fails(tmp_path: Path, ecg: Beats) -> None:
    outcome = run(tmp_path, Hearts(ecg), faults, devices=DEVICES, rate=5 * DEVICES)
    assert outcome.sent > 0
    assert (outcome.lost, outcome.alarms, outcome.other) == (0, DEVICES, 0)
    assert outcome.back == 0
