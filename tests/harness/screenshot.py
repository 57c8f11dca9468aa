"""The picture of the live page in the README: `python -m tests.harness.screenshot FILE`.

A ward of simulated patients, a real broker, the real daemon and a real Chromium.
"""

import argparse
import secrets
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

from monitor.ecg.simulator import Simulator
from tests.harness.brokers import Mosquitto
from tests.harness.browser import chromium
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Sent, Ward

BEDS = 7
ILL, WELL_AGAIN = "bed-2", "bed-5"
EVERY = 0.8
"""Seconds between two beats of a patient."""

SECONDS = 15
"""Seconds of beats on the page before the picture is taken."""


def beats(seed: int = 5) -> list[list[Sent]]:
    """Return the beats of all patients, moment by moment.

    One has ectopic beats; the lead of another was off at first.
    """
    simulator = Simulator(seed)
    hearts = np.random.default_rng(seed).normal(1000 * EVERY, 25, (int(SECONDS / EVERY) + 30, BEDS))
    ward = []
    for number, intervals in enumerate(hearts):
        moment = []
        for bed, interval in enumerate(intervals, start=1):
            ectopic = f"bed-{bed}" == ILL and number > 7 and number % 3 != 1
            samples = simulator.ectopic(1) if ectopic else simulator.normal(1)
            samples *= f"bed-{bed}" != WELL_AGAIN or number > 3
            beat = {"beats": samples.tolist(), "seq": number, "rr_ms": [round(interval)]}
            moment.append(Sent(f"bed-{bed}", msgspec.json.encode(beat)))
        ward.append(moment)
    return ward


def take(file: Path, width: int, height: int, scheme: str) -> None:
    """Take the picture of the full page; `scheme` is the color scheme, light or dark."""
    over = threading.Event()

    def play(ward: Ward) -> None:
        for moment in beats():
            ward.send(moment)
            if over.wait(EVERY):
                return

    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        with (
            Mosquitto(Path(folder)) as broker,
            RunningDaemon(Path(folder), broker.url, METRICS__TOKEN=secrets.token_hex(16)) as daemon,
        ):
            with Ward(broker.port, listen=False) as ward:
                page = browser.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if scheme == "dark" else "light",
                    reduced_motion="reduce",  # no picture of half a beat
                )
                page.goto(f"http://{daemon.address}/#device={ILL}")
                page.get_by_role("switch", name="Sound").click()
                patients = threading.Thread(target=play, args=(ward,))
                patients.start()
                time.sleep(SECONDS)
                page.wait_for_selector("#score.anomalous")
                page.screenshot(path=file, full_page=True)
                over.set()
                patients.join()


def main() -> None:
    """Parse the arguments and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    arguments = parser.parse_args()
    take(arguments.file, arguments.width, arguments.height, arguments.scheme)


if __name__ == "__main__":
    main()
