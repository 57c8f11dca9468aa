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
    elif not measured.alarms and not measured.stale:
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
    for name, value, acceptable in lines(measured):
        table.add_row(escape(name), value, acceptable)
    console.print(f"{measured.since} to {measured.until}")
    console.print(table)


def lines(measured: Burden) -> list[tuple[str, str, str]]:
    """Return each figure with its name, its value and what ISA-18.2 calls acceptable, if it does.

    The limits are those of ANSI/ISA-18.2-2009 and IEC 62682, clause 16, for one operator position.
    """
    shares = measured.priorities
    mix = " / ".join(f"{100 * shares[name]:.0f}" for name in ("low", "medium", "high"))
    worst = [
        (f"  {each.device}", _with_share(each.alarms, each.share), "") for each in measured.worst
    ]
    return [
        ("alarms", f"{measured.alarms}", ""),
        ("withheld by shelving", f"{measured.withheld}", ""),
        ("alarms in ten minutes", f"{measured.per_ten_minutes:.2f}", "1, at most 2"),
        ("most in any ten minutes", f"{measured.most_in_ten_minutes}", "10"),
        ("floods", f"{measured.floods}", ""),
        ("time in flood", _percent(measured.flood_share), "under 1 %"),
        ("low / medium / high, %", mix, "80 / 15 / 5"),
        ("chattering", _with_share(measured.chattering, measured.chattering_share), "0"),
        ("stale", f"{measured.stale}, {measured.stale_active} active", "under 5"),
        ("acknowledged within, median", _seconds(measured.acknowledged_median), ""),
        ("acknowledged within, 90 %", _seconds(measured.acknowledged_90), ""),
        ("never acknowledged", _percent(measured.unacknowledged_share), ""),
        ("judged false", _of(measured.false_share, measured.judged), ""),
        ("the ten worst devices", _percent(measured.worst_share), ""),
        *worst,
    ]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _with_share(count: int, share: float | None) -> str:
    return f"{count}" if share is None else f"{count}, {_percent(share)}"


def _of(share: float | None, whole: int) -> str:
    return "–" if share is None else f"{_percent(share)} of {whole}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
