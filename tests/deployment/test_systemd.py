"""The unit: systemd takes it, and what it says of its exposure stands in the docs."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.brokers import program

TOP = Path(__file__).parents[2]
UNIT = TOP / "systemd" / "ecg-monitor.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as it would be where the daemon is installed: its program is there."""
    text, replaced = re.subn(r"(?<=^ExecStart=)\S+", "/bin/true", UNIT.read_text(), flags=re.M)
    assert replaced == 1
    path = tmp_path / UNIT.name
    path.write_text(text)
    return path


def test_systemd_takes_the_unit_without_a_word(unit: Path) -> None:
    verify = [program("systemd-analyze"), "verify", str(unit)]
    verdict = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, "", "")


def test_the_exposure_is_the_one_in_the_docs(unit: Path) -> None:
    analyze = [program("systemd-analyze"), "security", "--offline=true", str(unit)]
    verdict = subprocess.run(analyze, capture_output=True, text=True, check=False).stdout
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", verdict)
    assert float(figure) < 2
    words = " ".join((TOP / "docs" / "operating.md").read_text().split())
    assert f"exposure level {figure} of 10" in words


def test_a_mistake_in_a_setting_is_not_tried_again_and_the_watchdog_is_slower_than_the_loop() -> (
    None
):
    lines = dict(
        line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line)
    )
    assert lines["Type"] == "notify"
    assert lines["RestartPreventExitStatus"].split() == ["64", "78"]
    assert int(lines["WatchdogSec"]) >= 5
    assert int(lines["TimeoutStopSec"]) > 5
