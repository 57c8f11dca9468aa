"""A simulated patient for the demo: normal beats, and a run of ectopic ones every minute.

    python simulated_device.py DEVICE

The broker and the login come from the settings, as for every other command.
"""

import sys
from collections.abc import Iterator
from itertools import count
from zlib import crc32

from monitor.commands import replay
from monitor.configuration import load
from monitor.ecg.simulator import Simulator

EVERY = 0.8
"""Seconds between two beats."""

ROUND, RUN = 75, 10
"""Beats of a round, and how many of them are ectopic."""


def beats(device: str) -> Iterator[replay.RecordedBeat]:
    """The beats of a device, without end, and always the same ones."""
    seed = crc32(device.encode())
    simulator = Simulator(seed)
    for number in count():
        ectopic = (number + seed) % ROUND < RUN
        (samples,) = simulator.ectopic(1) if ectopic else simulator.normal(1)
        yield replay.RecordedBeat(samples, number, EVERY * number, 1000 * EVERY)


replay.publish(load(), beats(sys.argv[1]), sys.argv[1], pace=1)
