"""A daemon that writes down how long its slowest turn took, without the waiting for the network.

SLOWEST_TURN=FILE python -m tests.harness.timed run|segment
"""

import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from monitor import cli, terminal
from monitor.mqtt.connection import Connection

DAEMONS = {
    "run": ("monitor.daemon.loop", "Daemon"),
    "segment": ("monitor.segment.loop", "SegmentDaemon"),
}


def main() -> None:
    """Run the daemon that the command line names."""
    module_name, class_name = DAEMONS[sys.argv[1]]
    module = importlib.import_module(module_name)
    daemon = getattr(module, class_name)
    file = Path(os.environ["SLOWEST_TURN"])
    partial = file.with_suffix(".partial")
    wait, turn = module.wait, daemon.turn
    waited = slowest = 0.0

    def timed_wait(connections: Sequence[Connection], timeout: float) -> list[Connection]:
        nonlocal waited
        begun = time.perf_counter()
        ready: list[Connection] = wait(connections, timeout)
        waited += time.perf_counter() - begun
        return ready

    def timed_turn(self: object) -> None:
        nonlocal waited, slowest
        waited, begun = 0.0, time.perf_counter()
        turn(self)
        took = time.perf_counter() - begun - waited
        if took > slowest:
            slowest = took
            partial.write_text(str(took))
            partial.replace(file)  # whoever reads it finds it whole

    module.wait, daemon.turn = timed_wait, timed_turn  # type: ignore[attr-defined]
    terminal.run(cli.app)


if __name__ == "__main__":
    main()
