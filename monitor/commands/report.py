"""Write a report on a recording: `ecg-monitor report`."""

from pathlib import Path

from monitor.commands.replay import read_record
from monitor.ecg import records
from monitor.errors import Failure, UsageError
from monitor.report import recording
from monitor.report.page import page
from monitor.settings import Settings


def of_recording(source: Path, settings: Settings, lead: str | None, out: Path | None) -> None:
    """Write the report on a WFDB record or an EDF file, and print where it is.

    Raises:
        UsageError: the source is no recording, or has no such lead.
        Failure: it cannot be read, or the report cannot be written.
    """
    if not records.is_record(source):
        raise UsageError(f"SOURCE {source}: must be a WFDB record or an EDF file")
    record = read_record(source, lead, every_lead=lead is None)
    content = recording.report(record, source.stem, settings)
    file = out or Path(f"{source.stem}.html")
    try:
        file.write_text(page(content), encoding="utf-8")
    except OSError as error:
        raise Failure(f"--out {file}: cannot be written ({error.strerror})") from None
    print(f"wrote {file}: {len(content.events)} alarms")
