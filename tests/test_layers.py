"""The house has storeys: a room knows those below it, never those above, and no circle."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]

STOREYS = {
    "monitor": [
        "__init__ errors text processors",
        "journal_file times topics secret_files",
        "ecg",
        "alarms",
        "settings",
        "configuration settings_toml metrics logs terminal",
        "detector history",
        "mqtt web notify",
        "batch",
        "daemon",
        "segment",
        "report",
        "commands",
        "cli",
        "__main__",
    ],
    "train": [
        "__init__ backend",
        "export",
        "detectors images",
        "simulator evaluation learn",
        "cli",
        "__main__",
    ],
}
"""The rooms of each package, from the ground up; those on one storey do not know each other."""


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """Give the modules of ours that a file imports, and whether at its top."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                is_module = (TOP / inner.replace(".", "/")).with_suffix(".py").is_file()
                yield inner if is_module else node.module, node in tree.body
        elif isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node in tree.body


def modules(package: str) -> dict[str, Path]:
    return {
        ".".join(file.relative_to(TOP).with_suffix("").parts): file
        for file in (TOP / package).rglob("*.py")
    }


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("package", STOREYS)
def test_no_room_knows_one_above_it(package: str) -> None:
    storey = {name: i for i, names in enumerate(STOREYS[package]) for name in names.split()}
    assert {room(module) for module in modules(package)} == set(storey)
    wrong = [
        f"{module} imports {other}"
        for module, file in modules(package).items()
        for other, _ in imports(file)
        if other.split(".")[0] == package
        and room(other) != room(module)
        and storey[room(other)] >= storey[room(module)]
    ]
    assert not wrong


@pytest.mark.parametrize("package", STOREYS)
def test_no_circle(package: str) -> None:
    graph = {
        module: {other for other, _ in imports(file) if other in modules(package)}
        for module, file in modules(package).items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_monitor_does_not_know_the_trainer() -> None:
    named = {
        (module, other.split(".")[0])
        for module, file in modules("monitor").items()
        for other, _ in imports(file)
    }
    assert not {module for module, other in named if other in ("train", "tests")}


def test_pure_rooms_know_no_network_clock_or_metrics() -> None:
    banned = {"socket", "time", "paho", "prometheus_client", "structlog", "sqlite3", "threading"}
    wrong = [
        f"{module} imports {other}"
        for module, file in modules("monitor").items()
        if room(module) in ("ecg", "alarms")
        for other, _ in imports(file)
        if other.split(".")[0] in banned
    ]
    assert not wrong
