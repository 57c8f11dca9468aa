"""Write a report on a recording, or on a device from the history: `ecg-monitor report`."""

import time
from pathlib import Path

from monitor.commands.alarms import moment
from monitor.commands.replay import read_record
from monitor.ecg import records
from monitor.errors import Failure, UsageError
from monitor.report import history, recording
from monitor.report.content import Content
from monitor.report.page import page
from monitor.settings import Settings


def of_recording(source: Path, settings: Settings, lead: str | None, out: Path | None) -> None:
    """Write the report on a WFDB record or an EDF file, and print where it is.

    Raises:
        UsageError: the source is no recording, or has no such lead.
        Failure: it cannot be read, or the report cannot be written.
    """
    if not records.is_record(source):
        raise UsageError(f"SOURCE {source}: no WFDB record and no EDF file has this name")
    record = read_record(source, lead, every_lead=lead is None)
    content = recording.report(record, source.stem, settings, records.begin(source))
    _write(content, out or Path(f"{source.stem}.html"))


def of_device(device: str, settings: Settings, since: str, out: Path | None) -> None:
    """Write the report on a device since then, from the history, and print where it is.

    Raises:
        UsageError: `since` is not a time, or nothing is known of the device.
        Failure: there is no history, or the report cannot be written.
    """
    now = time.time()
    begin = moment(since, now)
    if begin >= now:
        raise UsageError(f"--since {since!r}: must be in the past")
    name = "".join(each if each.isalnum() or each in "-_." else "_" for each in device)
    content = history.report(settings.history_file, device, begin, now, settings)
    _write(content, out or Path(f"{name}.html"))


def _write(content: Content, file: Path) -> None:
    try:
        file.write_text(page(content), encoding="utf-8")
    except OSError as error:
        raise Failure(f"--out {file}: cannot be written ({error.strerror})") from None
    print(f"wrote {file}: {len(content.events)} alarms")
