"""Reads WFDB records: the raw ECG, and the beats that cardiologists annotated.

Source: the WFDB file formats (https://physionet.org/physiotools/wag/), read by the `wfdb` library.
"""

import warnings
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.rpeaks import Signal
from monitor.ecg.segmenter import CutBeat, Segmenter
from monitor.errors import Failure

AAMI: Final = (
    dict.fromkeys("NLReBj", "N")
    | dict.fromkeys("AaJSn", "S")
    | dict.fromkeys("VEr", "V")
    | {"F": "F"}
    | dict.fromkeys("/fQ?", "Q")
)
"""The classes of ANSI/AAMI EC57: normal, supraventricular, ventricular, fusion, and unknown."""

MILLIVOLTS: Final = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "µv": 1e-3, "nv": 1e-6}
"""What a unit of a header is in millivolts; other units stay as they are."""


class Record(NamedTuple):
    """The first lead of a record.

    Attributes:
        signal: float64 [n], in millivolts, or in the record's units where those are no volts; a
            lost sample has its neighbour's value.
        rate: samples a second.
        positions: int64 [m], the sample numbers of the annotated beats; empty without annotations.
        classes: [m], the class of each, one letter of `AAMI`.
    """

    signal: Signal
    rate: float
    positions: NDArray[np.int64]
    classes: NDArray[np.str_]


def is_record(path: Path) -> bool:
    """Whether `path` names a WFDB record, with or without the ending of its header."""
    return path.suffix == ".hea" or path.with_name(path.name + ".hea").is_file()


def read(path: Path) -> Record:
    """Read the record at `path`, which may end in `.hea`. Raises Failure if it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
            import wfdb
    except ModuleNotFoundError:
        raise Failure(f"{path}: a record needs wfdb: pip install 'ecg-monitor[batch]'") from None
    name = str(path.with_suffix("") if path.suffix == ".hea" else path)
    try:
        record = wfdb.rdrecord(name, channels=[0])
        signal = np.asarray(record.p_signal[:, 0], np.float64)
        signal *= MILLIVOLTS.get(str(record.units[0]).lower(), 1.0)
    except FileNotFoundError as error:
        raise Failure(f"{path}: no WFDB record there: {error.filename} is missing") from None
    except (OSError, ValueError, IndexError, TypeError, KeyError) as error:
        raise Failure(f"{path}: not a WFDB record that can be read: {error}") from None
    known = np.isfinite(signal)
    if not known.any():
        raise Failure(f"{path}: its first lead holds no samples")
    # A sample that was lost stands as the one before it: a hole is a flat lead.
    signal = signal[np.maximum.accumulate(np.where(known, np.arange(len(signal)), known.argmax()))]
    positions, classes = np.empty(0, np.int64), np.empty(0, "<U1")
    if Path(f"{name}.atr").is_file():
        with warnings.catch_warnings(action="ignore"):
            marks = wfdb.rdann(name, "atr")
        is_beat = np.array([symbol in AAMI for symbol in marks.symbol], bool)
        positions = np.asarray(marks.sample, np.int64)[is_beat]
        classes = np.array([AAMI[symbol] for symbol in marks.symbol if symbol in AAMI], "<U1")
    return Record(signal, float(record.fs), positions, classes)


def beats(record: Record, start: float = 0, stop: float | None = None) -> list[CutBeat]:
    """Cut the beats of a record from second `start` to `stop`; `seq` counts from its begin."""
    first = round(start * record.rate)
    last = len(record.signal) if stop is None else round(stop * record.rate)
    segmenter = Segmenter(record.rate, first)
    return segmenter.feed(record.signal[first:last]) + segmenter.finish()


def classes(record: Record, cut: list[CutBeat], within: float = 0.15) -> NDArray[np.str_]:
    """Give each beat the class of the annotation nearest to it, "-" where none is near: [n]."""
    found = np.full(len(cut), "-")
    if not len(record.positions):
        return found
    at = np.array([beat.seq for beat in cut], np.int64)
    after = np.clip(np.searchsorted(record.positions, at), 1, len(record.positions) - 1)
    before = after - 1
    nearer = at - record.positions[before] < record.positions[after] - at
    nearest = np.where(nearer, before, after)
    near = np.abs(record.positions[nearest] - at) <= within * record.rate
    found[near] = record.classes[nearest[near]]
    return found
