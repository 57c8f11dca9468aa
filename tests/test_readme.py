"""What the README says is there, is there; and what is there, it says."""

import re
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from monitor.cli import app as monitor_app
from train.cli import app as train_app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(app: typer.Typer) -> list[str]:
    """The names of a program's commands."""
    names = getattr(get_command(app), "commands", {})
    assert names
    return list(names)


@pytest.mark.parametrize("command", commands(monitor_app))
def test_every_command_of_the_daemon_is_in_the_readme(command: str) -> None:
    assert f"ecg-monitor {command}" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists(page: Path) -> None:
    known = {"ecg-monitor": set(commands(monitor_app)), "ecg-train": set(commands(train_app))}
    for program, command in re.findall(
        r"\b(ecg-monitor|ecg-train) ([a-z][a-z-]+)", page.read_text()
    ):
        assert command in known[program], f"{program} {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_and_every_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)`", text, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", MAKEFILE, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


def test_no_figure_is_left_open() -> None:
    assert not re.search(r"@[a-z]+@", README)
