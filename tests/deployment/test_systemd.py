"""The units: systemd takes them, and what it says of their exposure stands in the docs."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.harness.brokers import program

TOP = Path(__file__).parents[2]
UNITS = sorted((TOP / "systemd").glob("*.service"))

every_unit = pytest.mark.parametrize("shipped", UNITS, ids=lambda path: path.stem)


@pytest.fixture
def unit(tmp_path: Path, shipped: Path) -> Path:
    """Return a unit as it would be where the daemon is installed: its program is there."""
    text, replaced = re.subn(r"(?<=^ExecStart=)\S+", "/bin/true", shipped.read_text(), flags=re.M)
    assert replaced == 1
    path = tmp_path / shipped.name
    path.write_text(text)
    return path


def settings(unit: Path) -> list[tuple[str, str]]:
    """Return the lines of a unit, without comments: names and values."""
    lines = [line for line in unit.read_text().splitlines() if re.match(r"\w+=", line)]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


@every_unit
def test_systemd_takes_the_unit_without_a_word(unit: Path) -> None:
    verify = [program("systemd-analyze"), "verify", str(unit)]
    verdict = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (verdict.returncode, verdict.stdout, verdict.stderr) == (0, "", "")


@every_unit
def test_the_exposure_is_the_one_in_the_docs(unit: Path) -> None:
    analyze = [program("systemd-analyze"), "security", "--offline=true", str(unit)]
    verdict = subprocess.run(analyze, capture_output=True, text=True, check=False).stdout
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", verdict)
    assert float(figure) < 2
    words = " ".join((TOP / "docs" / "operating.md").read_text().split())
    assert f"exposure level {figure} of 10" in words


@every_unit
def test_a_mistake_in_a_setting_is_not_tried_again_and_the_watchdog_is_slower_than_the_loop(
    shipped: Path,
) -> None:
    lines = dict(settings(shipped))
    assert lines["Type"] == "notify"
    assert lines["RestartPreventExitStatus"].split() == ["64", "78"]
    assert int(lines["WatchdogSec"]) >= 5
    assert int(lines["TimeoutStopSec"]) > 5


def test_the_units_differ_in_what_runs_and_where_it_writes_alone() -> None:
    own = {"Description", "ExecStart", "Environment", "StateDirectory"}
    learner, one, other = (
        {line for line in settings(unit) if line[0] not in own} for unit in sorted(UNITS)
    )
    assert one == other
    # TensorFlow compiles, and has many threads; it runs as the monitor's user, to share a folder.
    assert one - learner == {
        ("MemoryDenyWriteExecute", "yes"),
        ("MemoryMax", "1G"),
        ("SystemCallFilter", "~@privileged @resources"),
        ("TasksMax", "64"),
    } and learner - one == {
        ("MemoryMax", "3G"),
        ("OOMPolicy", "continue"),
        ("SystemCallFilter", "~@privileged"),
        ("TasksMax", "1024"),
        ("User", "ecg-monitor"),
    }


@every_unit
def test_the_daemon_writes_into_its_own_state_directory_alone(shipped: Path) -> None:
    lines = settings(shipped)
    folder, *shared = dict(lines)["StateDirectory"].split()
    assert folder == shipped.stem
    written = [text for name, text in lines if name == "Environment" and "%S" in text]
    calls = f"ECG_MONITOR_NOTIFY__JOURNAL=%S/{folder}/notify.db"
    assert (calls in written) == (shipped.stem == "ecg-monitor")
    file, *models = (each for each in written if each != calls)
    assert file.partition("=")[2].startswith(f"%S/{folder}/")
    _, command, *_ = dict(lines)["ExecStart"].split()
    settings_of = {"run": "HISTORY__FILE", "segment": "SEGMENT__JOURNAL", "learn": "LEARN__JOURNAL"}
    assert file.startswith(f"ECG_MONITOR_{settings_of[command]}=")
    assert models == [f"ECG_MONITOR_MODEL__FOLDER=%S/{name}" for name in shared]
    assert shared == ([] if command == "segment" else ["ecg-monitor-models"])
