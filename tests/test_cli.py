"""The two programs: that they answer at once, and import no more than they need."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import monitor.cli
import train.cli
from monitor import __version__

HEAVY = {"tensorflow", "keras", "pandas", "sklearn", "scipy", "matplotlib"}


def commands(app: typer.Typer) -> list[str]:
    return sorted(typer.main.get_group(app).commands)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def user_seconds(*arguments: str) -> float:
    """Return the CPU time of a program: the machine may be busy with other work."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime


@pytest.mark.parametrize("program", ["monitor", "train"])
def test_help_costs_less_than_a_second(program: str) -> None:
    run("-m", program, "--help")  # compiled by now
    assert min(user_seconds("-m", program, "--help") for _ in range(3)) < 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["monitor"],
        ["train"],
        *(["monitor", command] for command in commands(monitor.cli.app)),
        *(["train", command] for command in commands(train.cli.app)),
    ],
    ids=" ".join,
)
def test_every_command_explains_itself_without_anything_heavy(arguments: list[str]) -> None:
    script = (
        "import sys, runpy\n"
        f"sys.argv = [{arguments[0]!r}, *{arguments[1:]!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_module({arguments[0]!r}, run_name='__main__', alter_sys=False)\n"
        "except SystemExit as end:\n"
        "    print('ended', end.code)\n"
        "print('modules', *sys.modules)\n"
    )
    ran = run("-c", script)
    assert ran.returncode == 0
    assert ran.stderr == ""
    said, _, modules = ran.stdout.rpartition("\nmodules ")
    assert said.endswith("ended 0")
    assert "Usage: " in said
    assert not HEAVY & set(modules.split())


def test_the_daemon_imports_nothing_that_only_the_others_need() -> None:
    ran = run("-c", "import sys, monitor.daemon.loop; print(*sys.modules)")
    assert ran.returncode == 0, ran.stderr
    modules = set(ran.stdout.split())
    assert "monitor.mqtt.connection" in modules
    assert not modules & (HEAVY | {"train", "pyarrow", "pooch", "wfdb", "amqtt", "onnx"})


def test_the_version_is_the_project_s() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    assert project["project"]["version"] == __version__
    ran = run("-m", "monitor", "--version")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{__version__}\n", "")


def test_no_arguments_show_the_help() -> None:
    ran = run("-m", "monitor")
    assert "Usage: " in ran.stdout + ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    script = f"{sys.executable} -m monitor run --print-config | true"
    ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in ran.stderr
