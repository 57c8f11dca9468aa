"""The records of a folder, one after the other; one that cannot be judged is said, and skipped."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

from monitor.ecg import records
from monitor.ecg.records import Record
from monitor.errors import Failure, UsageError

Row = TypeVar("Row")


def headers(folder: Path, option: str = "--records") -> list[Path]:
    """Return the headers of the WFDB records of a folder, in the order of their names.

    Raises:
        UsageError: there is no such folder, or no record in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{option} {folder}: no such folder")
    found = sorted(folder.glob("*.hea"))
    if not found:
        raise UsageError(f"{option} {folder}: no WFDB records there (*.hea)")
    return found


def annotated(path: Path) -> Record:
    """Read a record with its annotated beats.

    Raises:
        Failure: it cannot be read, or no beat of it is annotated.
    """
    ecg = records.read(path)
    if not len(ecg.positions):
        raise Failure(f"{path}: no annotated beats (.atr)")
    return ecg


def judged(paths: list[Path], judge: Callable[[Path], Row]) -> Iterator[tuple[str, Row]]:
    """Judge each record, and return its name and what `judge` returns.

    A bar shows how far it is on a terminal, elsewhere a line for each record does, both on the
    standard error. A record for which `judge` raises a Failure is said there, and skipped.

    Raises:
        Failure: all are skipped.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    some = False
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("records", total=len(paths))
        for i, path in enumerate(paths, 1):
            try:
                row = judge(path)
            except Failure as reason:
                console.print(f"skipped {path.stem}: {reason}", markup=False)
            else:
                some = True
                if not console.is_terminal:
                    console.print(f"{path.stem}, {i} of {len(paths)}", markup=False)
                yield path.stem, row
            bar.advance(task)
    if paths and not some:
        raise Failure(f"{paths[0].parent}: none of its {len(paths)} records can be judged")
