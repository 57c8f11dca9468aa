"""Print the burden of alarms on people, beside what ISA-18.2 calls acceptable."""

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitor.alarms import burden
from monitor.alarms.burden import Burden
from monitor.alarms.messages import encode
from monitor.commands.alarms import moment
from monitor.errors import UsageError
from monitor.history import query


def show(file: Path, since: str | None, devices: str | None, as_json: bool) -> None:
    """Print the burden since then, as a table or as a JSON object.

    Args:
        file: of the history.
        since: a time or a duration; None for the first alarm of the history.
        devices: a pattern of device names; None for all devices.
        as_json: print JSON.

    Raises:
        UsageError: `since` is no time, or in the future.
        Failure: there is no history, or it cannot be read.
    """
    until = time.time()
    begin = None if since is None else moment(since, until)
    if begin is not None and begin >= until:
        raise UsageError(f"--since {since!r}: is in the future")
    found = list(query.episodes(file, devices or "*"))
    if begin is None:
        begin = min((each.raised for each in found), default=until)
    measured = burden.measure(found, begin, max(begin, until))
    if as_json:
        print(encode(measured).decode())
    elif measured.empty:
        print("no alarms")
    else:
        _print_table(measured)


def _print_table(measured: Burden) -> None:
    console = Console(highlight=False)
    console = Console(highlight=False, width=None if console.is_terminal else 120)
    table = Table(box=None)
    table.add_column("", overflow="fold")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("acceptable", justify="right", no_wrap=True)
    for name, value, acceptable in burden.lines(measured) + burden.worst_lines(measured):
        table.add_row(escape(name), value, acceptable)
    console.print(f"{measured.since} to {measured.until}")
    console.print(table)
