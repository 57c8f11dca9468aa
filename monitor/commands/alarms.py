"""Print the history: alarms, who acknowledged them, and which devices were shelved."""

import csv
import re
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monitor.alarms.messages import encode
from monitor.commands import fhir
from monitor.errors import UsageError
from monitor.history import query
from monitor.history.query import PastAlarm
from monitor.history.store import Action
from monitor.times import from_rfc3339, local, rfc3339

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def show(
    file: Path,
    since: str | None,
    device: str | None,
    as_json: bool,
    as_csv: bool,
    judged: bool = False,
    as_fhir: bool = False,
) -> None:
    """Print the alarms that were open since then: a table, a JSON array, CSV, or FHIR Bundles.

    With `judged`, only those that somebody has judged.

    Raises:
        UsageError: `since` is not a time.
        Failure: there is no history, or it cannot be read; or FHIR needs a library.
    """
    if as_json + as_csv + as_fhir > 1:
        raise UsageError("--json, --csv and --fhir exclude each other")
    begin = None if since is None else moment(since, time.time())
    found = query.alarms(file, begin, device, judged=judged)
    if as_json:
        _print_json(found)
    elif as_csv:
        _print_csv(found)
    elif as_fhir:
        fhir.write(found, file, time.time())
    else:
        _print_table(list(found), [] if judged else query.care(file, begin, device))


def moment(text: str, now: float) -> float:
    """Return the seconds since 1970 of a time, or of a duration before `now`.

    >>> moment("12h", 50_000.0)
    6800.0
    >>> moment("1970-01-01T01:00:00Z", 0.0)
    3600.0

    Raises:
        UsageError: `text` is neither.
    """
    if ago := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return now - float(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"--since {text!r}: allowed is a duration such as 30m, 12h or 2d, or a time such as "
            "2026-11-21 or 2026-11-21T22:00:00Z"
        ) from None


def _print_json(found: Iterable[PastAlarm]) -> None:
    separator = "["
    for alarm in found:
        print(separator, encode(alarm).decode(), sep="", end="")
        separator = ",\n"
    print("[]" if separator == "[" else "]")


def _print_csv(found: Iterable[PastAlarm]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(
        ["id", "device", "kind", "priority", "raised", "escalated", "cleared", "acknowledged_by",
         "acknowledged_at", "shelved_by", "score", "threshold", "beats_anomalous", "beats_seen",
         "model", "verdict", "note", "judged_by", "judged_at", "acknowledged_note"]
    )  # fmt: skip
    for alarm in found:
        seen, said = alarm.acknowledged, alarm.judged
        writer.writerow(
            [alarm.id, _no_formula(alarm.device), alarm.kind, alarm.priority, alarm.raised,
             alarm.escalated, alarm.cleared, seen and _no_formula(seen.by), seen and seen.time,
             alarm.shelved_by and _no_formula(alarm.shelved_by), alarm.score, alarm.threshold,
             alarm.beats_anomalous, alarm.beats_seen, alarm.model,
             said and str(said.verdict).lower(), said and _no_formula(said.note),
             said and _no_formula(said.by), said and said.time, seen and _no_formula(seen.note)]
        )  # fmt: skip


def _no_formula(text: str) -> str:
    """Return text that no spreadsheet takes for a formula (OWASP, "CSV Injection")."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _print_table(found: list[PastAlarm], actions: list[Action]) -> None:
    console = Console(highlight=False)
    console = Console(highlight=False, width=None if console.is_terminal else 120)
    table = Table(box=None)
    any_judged = any(alarm.judged for alarm in found)
    columns = ["raised", "duration", "device", "kind", "priority", "acknowledged", "id"]
    for column in columns + ["judged"] * any_judged:
        whole = column not in ("device", "acknowledged", "judged")
        table.add_column(column, no_wrap=whole, overflow="ignore" if whole else "fold")
    for alarm in reversed(found):
        seen = alarm.acknowledged
        by = f"{escape(seen.by)}, {local(seen.time)}" if seen else ""
        by += f": {escape(seen.note)}" if seen and seen.note else ""
        if alarm.shelved_by:
            by += f" (shelved by {escape(alarm.shelved_by)})"
        said = alarm.judged
        why = f": {escape(said.note)}" if said and said.note else ""
        verdict = f"{str(said.verdict).lower()}, by {escape(said.by)}{why}" if said else ""
        table.add_row(
            local(alarm.raised),
            escape(_duration(alarm)),
            escape(alarm.device),
            alarm.kind,
            alarm.priority,
            by.strip(),
            alarm.id[:8],
            *[verdict] * any_judged,
        )
    console.print(table if found else "no alarms")
    for action in actions:
        until = f" until {local(rfc3339(action.until))}" if action.until else ""
        of = f", {', '.join(action.kinds)} only" if action.kinds else ""
        console.print(
            f"{local(rfc3339(action.time))} {escape(action.device)} {action.done} by "
            f"{escape(action.by)}{until}{of}"
        )


def _duration(alarm: PastAlarm) -> str:
    if alarm.cleared is None:
        return "open"
    seconds = round(from_rfc3339(alarm.cleared) - from_rfc3339(alarm.raised))
    hours, minutes = divmod(seconds // 60, 60)
    end = ", lost" if alarm.lost else f", moved to {alarm.moved_to}" if alarm.moved_to else ""
    return f"{hours}:{minutes:02}:{seconds % 60:02}{end}"
