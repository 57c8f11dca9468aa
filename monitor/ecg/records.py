"""Read recordings: WFDB records and EDF files, their ECG leads and annotated beats.

Sources: the WFDB file formats (https://physionet.org/physiotools/wag/), read by the `wfdb` library;
EDF and EDF+ (https://www.edfplus.info/specs/), read by `edfio`.
"""

import re
import warnings
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.rpeaks import Signal
from monitor.ecg.segmenter import CutBeat, Segmenter
from monitor.errors import Failure, UsageError

AAMI: Final = (
    dict.fromkeys("NLReBj", "N")
    | dict.fromkeys("AaJSn", "S")
    | dict.fromkeys("VEr", "V")
    | {"F": "F"}
    | dict.fromkeys("/fQ?", "Q")
)
"""The classes of ANSI/AAMI EC57: normal, supraventricular, ventricular, fusion, and unknown."""

VOLTS: Final = re.compile(r"(m|u|µ|μ|n|milli|micro|nano)?v(olts?)?$", re.IGNORECASE)
"""A unit of volts, in any spelling: the micro sign and the Greek letter mu look alike."""

MILLIVOLTS: Final = {
    "": 1e3,
    "m": 1.0,
    "milli": 1.0,
    **dict.fromkeys(("u", "µ", "μ", "micro"), 1e-3),
    "n": 1e-6,
    "nano": 1e-6,
}
"""Millivolts in a volt with each prefix."""

ECG_LEAD: Final = re.compile(
    r"(ecg|ekg)[\s._:-]*\w{0,8}([\s._/-]+\w{1,8})*$"  # ECG, ECG1, EKG II-ref
    r"|(lead[\s._:-]*)?(m|ml|mc|mcl|mod[\s._]*)?(i{1,3}|av[rlf]|v\d{0,2}r?)([\s._/-]+v\d)?$"
    r"|(cm|cc|cs|d|mv|lead[\s._:-]*)\d{1,2}$"  # CM5, D3, lead 2
    r"|mcl\d{0,2}$",
    re.IGNORECASE,
)
"""The name of an ECG lead: I, aVF, V1, MLII, D3, CM5, ECG, ECG 2, EKG1-ref …"""


class Record(NamedTuple):
    """A recording.

    Attributes:
        signal: the lead that beats are cut from, float64 [n], in millivolts, or in the record's
            units if those are not volts; a lost sample has the value of the one before it.
        rate: samples a second.
        positions: int64 [m], the sample numbers of the annotated beats; empty without annotations.
        classes: [m], the class of each annotated beat, one letter of `AAMI`.
        lead: the name of that lead; empty if it has none in the record.
        leads: all ECG leads of the same rate by name, including that one.
    """

    signal: Signal
    rate: float
    positions: NDArray[np.int64]
    classes: NDArray[np.str_]
    lead: str = ""
    leads: dict[str, Signal] = {}  # noqa: RUF012 - never changed


class _Channel(NamedTuple):
    name: str
    unit: str
    rate: float
    samples: Signal


def is_record(path: Path) -> bool:
    """Return whether `path` is an EDF file, or a WFDB record with or without `.hea`."""
    if path.suffix.lower() == ".edf":
        return True
    return path.suffix == ".hea" or path.with_name(path.name + ".hea").is_file()


def read(path: Path, lead: str | None = None, annotated: bool = True) -> Record:
    """Return a recording.

    Args:
        path: of an EDF file, or of a WFDB record, with or without `.hea`.
        lead: the name of the channel to cut beats from; if None, the first ECG channel.
        annotated: whether to read the annotations of a WFDB record (`.atr`), too.

    Raises:
        Failure: the recording or its annotations cannot be read.
        UsageError: it has no such lead.
    """
    edf = path.suffix.lower() == ".edf"
    name = str(path.with_suffix("") if path.suffix == ".hea" else path)
    channels = _edf(path) if edf else _wfdb(path, name)
    chosen = _chosen(path, channels, lead)
    leads = {
        each.name: _without_holes(each.samples)
        for each in channels
        if each is chosen or (_is_ecg(each) and each.rate == chosen.rate)
    }
    positions, classes = np.empty(0, np.int64), np.empty(0, "<U1")
    if annotated and not edf and Path(f"{name}.atr").is_file():
        positions, classes = _annotations(path, name, chosen.rate)
    return Record(leads[chosen.name], chosen.rate, positions, classes, chosen.name, leads)


def beats(record: Record, start: float = 0, stop: float | None = None) -> list[CutBeat]:
    """Return the beats of a record from second `start` to `stop`; `seq` counts from its start."""
    first = round(start * record.rate)
    last = len(record.signal) if stop is None else round(stop * record.rate)
    segmenter = Segmenter(record.rate, first)
    return segmenter.feed(record.signal[first:last]) + segmenter.finish()


def classes(record: Record, cut: list[CutBeat], within: float = 0.15) -> NDArray[np.str_]:
    """Return the class of the annotation nearest to each beat, "-" if none is near: [n]."""
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


def _chosen(path: Path, channels: list[_Channel], lead: str | None) -> _Channel:
    names = ", ".join(repr(each.name) for each in channels)
    if lead is not None:
        named = [each for each in channels if each.name.casefold() == lead.casefold()]
        if not named:
            raise UsageError(f"--lead {lead!r}: no such lead; {path} has {names}")
        candidates = named
    else:
        candidates = [each for each in channels if _is_ecg(each)] or channels[:1]
    for each in candidates:
        if np.isfinite(each.samples).any():
            return each
    raise Failure(f"{path}: no lead contains a sample (it has {names})")


def _is_ecg(channel: _Channel) -> bool:
    """Return whether a channel is an ECG, judging by its name and unit."""
    volts = not channel.unit or VOLTS.match(channel.unit) is not None
    return volts and ECG_LEAD.match(channel.name.strip()) is not None


def _without_holes(samples: Signal) -> Signal:
    """Return a signal with each lost sample replaced by the one before it: a gap is a flat line."""
    known = np.isfinite(samples)
    if not known.any():
        return np.zeros_like(samples)
    return samples[np.maximum.accumulate(np.where(known, np.arange(len(samples)), known.argmax()))]


def _in_millivolts(samples: Any, unit: str) -> Signal:
    found = VOLTS.match(unit.strip())
    factor = MILLIVOLTS[(found[1] or "").lower()] if found else 1.0
    return np.asarray(samples, np.float64) * factor


def _wfdb(path: Path, name: str) -> list[_Channel]:
    try:
        with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
            import wfdb
    except ModuleNotFoundError:
        raise Failure(f"{path}: a record needs wfdb: pip install 'ecg-monitor[batch]'") from None
    try:
        with warnings.catch_warnings(action="ignore"):
            record = wfdb.rdrecord(name, smooth_frames=False)
        signals = record.e_p_signal
        units = _units(name, list(record.units))
        frames = record.samps_per_frame
        return [
            _Channel(str(title or ""), unit, float(record.fs) * each, _in_millivolts(signal, unit))
            for title, unit, each, signal in zip(
                record.sig_name, units, frames, signals, strict=True
            )
        ]
    except FileNotFoundError as error:
        raise Failure(f"{path}: no WFDB record there: {error.filename} is missing") from None
    except Exception as error:  # wfdb fails on broken files in more ways than it documents
        raise Failure(f"{path}: not a readable WFDB record: {error}") from None


def _units(name: str, read: list[str]) -> list[str]:
    """Return the units in a header as written: wfdb drops every non-ASCII character."""
    content = Path(f"{name}.hea").read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    own = []
    for line in lines[1:]:
        fields = line.split()
        own.append(fields[2].partition("/")[2] if len(fields) > 2 else "")
    return [unit or "mV" for unit in own] if len(own) == len(read) else read


def _annotations(path: Path, name: str, rate: float) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Return the annotated beats at the signal's rate: positions [m] and classes [m]."""
    import wfdb

    try:
        with warnings.catch_warnings(action="ignore"):
            marks = wfdb.rdann(name, "atr")
            frequency = marks.fs or wfdb.rdheader(name).fs
        symbols = [str(symbol) for symbol in marks.symbol]
        at = np.asarray(marks.sample, np.float64) * (rate / float(frequency))
    except Exception as error:  # wfdb fails on broken files in more ways than it documents
        raise Failure(f"{path}: its annotations ({name}.atr) cannot be read: {error}") from None
    is_beat = np.array([symbol in AAMI for symbol in symbols], bool)
    found = np.array([AAMI[symbol] for symbol in symbols if symbol in AAMI], "<U1")
    return np.rint(at[is_beat]).astype(np.int64), found


def _edf(path: Path) -> list[_Channel]:
    try:
        import edfio
    except ModuleNotFoundError:
        raise Failure(f"{path}: EDF needs edfio: pip install 'ecg-monitor[batch]'") from None
    if not path.is_file():
        raise Failure(f"{path}: no such file")
    try:
        with warnings.catch_warnings(action="ignore"):
            return [
                _Channel(
                    signal.label,
                    signal.physical_dimension,
                    float(signal.sampling_frequency),
                    _in_millivolts(signal.data, signal.physical_dimension),
                )
                for signal in edfio.read_edf(path).signals
            ]
    except Exception as error:  # edfio does not document how a corrupt file fails
        raise Failure(f"{path}: not a readable EDF file: {error}") from None
