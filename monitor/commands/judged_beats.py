"""Export the beats that raised alarms, labelled by what people said of the alarms.

An alarm's beat is the one that raised it, the last of those that were counted. Only anomalies are
exported: the other kinds of alarm are not about the shape of a beat.
"""

import time
import warnings
from pathlib import Path
from typing import Final

import numpy as np

from monitor.commands.alarms import moment
from monitor.ecg.beat import SAMPLES, Floats
from monitor.ecg.segmenter import AFTER, BEFORE
from monitor.errors import Failure, UsageError
from monitor.history import query
from monitor.history.query import PastAlarm

RATE: Final = round((SAMPLES - 1) / (BEFORE + AFTER))
"""Hz of the record: that of beats as `ecg-monitor segment` cuts them."""

INTERVAL: Final = RATE
"""Samples from one R peak of the record to the next: 60 beats a minute, a normal heart rate, which
leaves as much room between two beats as a beat takes."""


def export(
    file: Path, since: str | None, device: str | None, beats: Path | None, record: Path | None
) -> None:
    """Write the beats of judged anomalies to a CSV file, to a WFDB record, or to both.

    Args:
        file: of the history.
        since: only alarms that were open since then, as `alarms.moment` reads it; None for all.
        device: only alarms of this device; None for all devices.
        beats: the CSV file, 140 values a row and a label: 1 for a false alarm, 0 for a true one.
        record: the WFDB record, its beats annotated N for a false alarm, Q for a true one.

    Raises:
        UsageError: `since` is not a time, or a file cannot have this name.
        Failure: no anomaly with a beat was judged, or a file cannot be read or written.
    """
    if beats is not None and beats.suffix.lower() != ".csv":
        raise UsageError(f"--beats {beats}: the name must end in .csv")
    begin = None if since is None else moment(since, time.time())
    found = [*query.alarms(file, begin, device, judged=True)][::-1]
    judged = [each for each in found if each.kind == "anomaly" and each.beat is not None]
    if not judged:
        raise Failure(f"history.file = '{file}': none of the judged alarms is an anomaly of a beat")
    try:
        if beats is not None:
            _write_csv(beats, judged)
        if record is not None:
            _write_record(record, judged)
    except OSError as error:
        raise Failure(f"{error.filename or beats or record}: {error.strerror or error}") from None
    wrong = sum(_is_normal(each) for each in judged)
    print(
        f"{len(judged)} beats that raised an alarm: {wrong} normal, of false alarms, "
        f"{len(judged) - wrong} abnormal, of true ones"
    )
    if len(found) > len(judged):
        print(f"{len(found) - len(judged)} other judged alarms are not about a beat's shape")


def _is_normal(alarm: PastAlarm) -> bool:
    assert alarm.judged is not None
    return not alarm.judged.verdict


def _table(judged: list[PastAlarm]) -> Floats:
    """Return the beats, float32 [n, 140]."""
    return np.array([each.beat for each in judged], np.float32)


def _write_csv(path: Path, judged: list[PastAlarm]) -> None:
    labels = [_is_normal(each) for each in judged]
    # Nine digits tell any two float32 apart.
    np.savetxt(path, np.column_stack([_table(judged), labels]), "%.9g", ",")


def _write_record(path: Path, judged: list[PastAlarm]) -> None:
    """Write the beats one after the other, each led over smoothly to the next."""
    try:
        with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
            import wfdb
    except ModuleNotFoundError:
        raise Failure(f"{path}: a record needs wfdb: pip install 'ecg-monitor[batch]'") from None
    table = _table(judged).astype(np.float64)
    ramp = (1 - np.cos(np.linspace(0, np.pi, INTERVAL - SAMPLES + 2)[1:-1])) / 2
    ends, starts = table[:, -1:], np.roll(table[:, :1], -1)
    signal = np.hstack([table, ends + (starts - ends) * ramp]).ravel()
    place, name = path.parent, path.name
    try:
        with warnings.catch_warnings(action="ignore"):
            wfdb.wrsamp(
                name,
                RATE,
                ["mV"],
                ["ECG"],
                signal[:, None],
                fmt=["16"],
                comments=["Beats that raised an alarm, one a second, in their device's own units."],
                write_dir=str(place),
            )
            wfdb.wrann(
                name,
                "atr",
                np.arange(len(judged)) * INTERVAL + round(BEFORE * RATE),
                ["N" if _is_normal(each) else "Q" for each in judged],
                aux_note=[each.id for each in judged],
                fs=RATE,
                write_dir=str(place),
            )
    except ValueError as error:  # wfdb allows letters, digits, - and _
        raise UsageError(f"--record {path}: {error}") from None
