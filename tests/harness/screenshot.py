"""The pictures of the README: `python -m tests.harness.screenshot docs/page.png` is the live page.

A ward of simulated patients, a real broker, the real daemon and a real Chromium.
`python -m tests.harness.screenshot docs/report.png --report --width 1100 --height 1850` is the
report on a simulated recording.
"""

import argparse
import secrets
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import numpy as np

from monitor.commands.report import of_recording
from monitor.ecg.simulator import Simulator
from monitor.settings import Settings
from tests.harness import signals
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


def take_report(file: Path, width: int, height: int, scheme: str) -> None:
    """Take the picture of a report's beginning: a heart that is fast for a minute, and pauses."""
    rate = 250
    still = 0.01 * np.random.default_rng(1).standard_normal(6 * rate)
    parts = [
        signals.heart(seconds, rate, per_minute, seed)[0]
        for seed, (seconds, per_minute) in enumerate([(900, 72), (60, 165), (840, 80), (600, 64)])
    ]
    signal = np.concatenate([*parts[:3], still, parts[3]])
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        signals.write(Path(folder), "bed-7", rate, {"II": signal, "V1": 0.6 * signal})
        out = Path(folder, "bed-7.html")
        of_recording(Path(folder, "bed-7"), Settings(), None, out)
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        page.goto(out.as_uri())
        page.screenshot(path=file)


def main() -> None:
    """Parse the arguments and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--scheme", choices=("light", "dark"), default="light")
    arguments = parser.parse_args()
    picture = take_report if arguments.report else take
    picture(arguments.file, arguments.width, arguments.height, arguments.scheme)


if __name__ == "__main__":
    main()
