"""Read recordings: WFDB records, EDF and BDF files, their ECG leads and annotated beats.

Sources: the WFDB file formats (https://physionet.org/physiotools/wag/), read by the `wfdb` library;
EDF and EDF+ (https://www.edfplus.info/specs/), read by `edfio`.
"""

import contextlib
import re
import warnings
from collections import Counter
from datetime import UTC, datetime
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

VOLTS: Final = re.compile(r"(m|u|µ|μ|n|(?:milli|micro|nano)[\s-]?)?v(olts?)?$", re.IGNORECASE)
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

UNCALIBRATED: Final = re.compile(
    r"(nu|adus?|adc|a\.?u\.?|n/?a|counts?|bits?|lsb|raw|none|normali[sz]ed)?$", re.IGNORECASE
)
"""The unit of a signal without one: arbitrary units, or the numbers of the converter."""

ECG_LEAD: Final = re.compile(
    r"(ecg|ekg)[\s._:-]*\w{0,8}([\s._/-]+\w{1,8})*$"  # ECG, ECG1, EKG II-ref
    r"|(.*[^a-z])?(ecg|ekg|ele[ck]tro[ck]ardiogram+)([^a-z]|$)"  # EEG EKG1-REF, II (ECG)
    r"|[+-]?(lead[\s._:-]*)?(m|ml|mc|mcl|mod[\s._]*)?"
    r"(i{1,3}|av[rlf]|v\d{0,2}r?|v[xyz])([\s._/-]+v\d)?$"
    r"|(cm|cc|cs|d|ml|mv|lead[\s._:-]*)\d{1,2}$"  # CM5, D3, ML2, lead 2
    r"|mcl\d{0,2}$"
    r"|(e-s|a-s|a-i)$",  # the leads of EASI
    re.IGNORECASE,
)
"""The name of an ECG lead: I, aVF, V1, MLII, D3, CM5, ECG, ECG 2, EKG1-ref, vx …

"Chest" and "Thorax" are not: in recordings of sleep they are the breathing.
"""

BDF: Final = b"\xffBIOSEMI"
"""The first bytes of BDF, which is EDF with samples of 24 bits."""

ANNOTATIONS: Final = (b"EDF Annotations", b"BDF Annotations")
"""The label of the signal that contains annotations."""

LONGEST: Final = 31 * 86400.0
"""Longest recording, in seconds: as long as a Holter patch is worn, twice over. The gaps of a file
that claims more would take all memory."""


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
    unit: str  # as in the file; samples in volts are converted to millivolts
    rate: float
    samples: Signal


def is_record(path: Path) -> bool:
    """Return whether `path` is an EDF or BDF file, or a WFDB record with or without a suffix."""
    return _is_edf(path) or _name(path) is not None


def _is_edf(path: Path) -> bool:
    """Return whether a file is EDF or BDF, by its suffix or else, as of `.rec`, its first bytes."""
    if path.suffix.lower() in (".edf", ".bdf"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(8) in (b"0       ", BDF)
    except OSError:
        return False


def _name(path: Path) -> Path | None:
    """Return a WFDB record's path without suffix, if `path` is its name or a file of it."""
    if not path.name:  # as "." and "/" have none
        return None
    if path.suffix == ".hea":
        return path.with_suffix("")
    if path.with_name(path.name + ".hea").is_file():
        return path
    of_record = path.suffix in (".dat", ".mat", ".atr") and path.with_suffix(".hea").is_file()
    return path.with_suffix("") if of_record else None


def read(path: Path, lead: str | None = None, annotated: bool = True) -> Record:
    """Return a recording.

    Args:
        path: of an EDF or BDF file, or of a WFDB record, with or without `.hea`.
        lead: the name of the channel to cut beats from; if None, the first ECG channel, or else
            the first in volts.
        annotated: whether to read the annotations of a WFDB record (`.atr`), too.

    Raises:
        Failure: the recording or its annotations cannot be read.
        UsageError: it has no such lead.
    """
    edf = _is_edf(path)
    name = _name(path) or path
    channels = _distinct(_edf(path) if edf else _wfdb(path, name))
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


def begin(path: Path) -> float | None:
    """Return when a recording began, in seconds since 1970; None if its header does not say.

    Headers have no time zone: UTC is assumed, which `segment.record` writes. 1985-01-01 is what
    EDF has of recordings that were made anonymous.
    """
    with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
        if _is_edf(path):
            with path.open("rb") as file:
                moment = datetime.strptime(file.read(184)[168:].decode(), "%d.%m.%y%H.%M.%S")
            return None if moment.year == 1985 else moment.replace(tzinfo=UTC).timestamp()
        lines = Path(f"{_name(path) or path}.hea").read_text("latin-1").splitlines()
        fields = next(line for line in lines if line.strip() and line[0] != "#").split()
        form = "%H:%M:%S.%f %d/%m/%Y" if "." in fields[4] else "%H:%M:%S %d/%m/%Y"
        return datetime.strptime(" ".join(fields[4:6]), form).replace(tzinfo=UTC).timestamp()
    return None


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


def _distinct(channels: list[_Channel]) -> list[_Channel]:
    """Return channels of which no two have one name: the second ECG is "ECG (2)"."""
    seen: Counter[str] = Counter()
    named = []
    for each in channels:
        seen[each.name] += 1
        count = seen[each.name]
        named.append(each if count == 1 else each._replace(name=f"{each.name} ({count})".strip()))
    return named


def _chosen(path: Path, channels: list[_Channel], lead: str | None) -> _Channel:
    names = ", ".join(repr(each.name) for each in channels)
    if lead is not None:
        candidates = [each for each in channels if _plain(each.name) == _plain(lead)]
        if not candidates:
            raise UsageError(f"--lead {lead!r}: no such lead; {path} has {names}")
    else:
        ecg = [each for each in channels if _is_ecg(each)]
        candidates = ecg or sorted(channels, key=lambda each: not VOLTS.match(each.unit))
    for each in candidates:
        if np.isfinite(each.samples).any():
            return each
    raise Failure(f"{path}: no lead contains a sample (it has {names})")


def _plain(name: str) -> str:
    """Return a name without case, and without the comma that some records end their names with."""
    return name.strip(" ,;:+?").casefold()


def _is_ecg(channel: _Channel) -> bool:
    """Return whether a channel is an ECG, judging by its name and unit."""
    volts = VOLTS.match(channel.unit) or UNCALIBRATED.match(channel.unit)
    return volts is not None and ECG_LEAD.match(_plain(channel.name)) is not None


def _without_holes(samples: Signal) -> Signal:
    """Return a signal with each lost sample replaced by the one before it: a gap is a flat line."""
    known = np.isfinite(samples)
    if not known.any():
        return np.zeros_like(samples)
    return samples[np.maximum.accumulate(np.where(known, np.arange(len(samples)), known.argmax()))]


def _channel(name: str, unit: str, rate: float, samples: Any) -> _Channel:
    """Return a channel, in millivolts if its unit is one of volts."""
    unit = unit.strip(" []()_")
    found = VOLTS.match(unit)
    factor = MILLIVOLTS[(found[1] or "").strip(" -").lower()] if found else 1.0
    return _Channel(name.strip(), unit, rate, np.asarray(samples, np.float64) * factor)


def _check_length(path: Path, seconds: float) -> None:
    if not seconds <= LONGEST:
        raise Failure(
            f"{path}: lasts {seconds / 86400:.0f} days, at most {LONGEST / 86400:.0f} are read"
        )


# -- WFDB


def _wfdb(path: Path, name: Path) -> list[_Channel]:
    try:
        with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
            import wfdb  # noqa: F401
    except ModuleNotFoundError:
        raise Failure(f"{path}: a record needs wfdb: pip install 'ecg-monitor[batch]'") from None
    try:
        header = _header(name)
        if "/" in header[0][0]:
            return _joined(path, name, header)
        return _segment(name, header)
    except FileNotFoundError as error:
        raise Failure(f"{path}: no WFDB record there: {error.filename} is missing") from None
    except Failure:
        raise
    except Exception as error:  # wfdb fails on broken files in more ways than it documents
        raise Failure(f"{path}: not a readable WFDB record: {error}") from None


def _header(name: Path) -> list[list[str]]:
    """Return the fields of each line of a header but comments; wfdb drops what is not ASCII.

    Raises ValueError if there is none.
    """
    content = name.with_name(name.name + ".hea").read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = [line.split() for line in text.splitlines()]
    fields = [line for line in lines if line and not line[0].startswith("#")]
    if not fields:
        raise ValueError("its header is empty")
    return fields


def _frame_rate(header: list[list[str]]) -> float:
    """Return the frames a second: 250, as header(5) says, where none or no positive number is."""
    first = header[0][2] if len(header[0]) > 2 else "0"
    rate = float(re.split(r"[/(]", first)[0])
    return rate if 0 < rate < np.inf else 250.0


def _segment(name: Path, header: list[list[str]]) -> list[_Channel]:
    """Read a record of one segment. Of its units and names, the header has the last word."""
    import wfdb

    with warnings.catch_warnings(action="ignore"):
        record = wfdb.rdrecord(str(name), smooth_frames=False)
    rate = _frame_rate(header)
    channels = []
    for i, samples in enumerate(record.e_p_signal):
        fields = header[i + 1]
        unit = (fields[2].partition("/")[2] if len(fields) > 2 else "") or "mV"
        title = " ".join(fields[8:])
        channels.append(_channel(title, unit, rate * record.samps_per_frame[i], samples))
    return channels


def _joined(path: Path, name: Path, header: list[list[str]]) -> list[_Channel]:
    """Read a record of several segments: what a segment does not have is lost, `~` is a gap.

    Each segment is read by itself, for its units, its leads and their order may be its own.
    """
    frame_rate, frames = _frame_rate(header), 0
    pieces: dict[str, list[tuple[int, _Channel]]] = {}
    for segment, length in ((line[0], int(line[1])) for line in header[1:]):
        if segment != "~" and length > 0:  # a segment of length 0 is the layout
            own = name.with_name(segment)
            for channel in _distinct(_segment(own, _header(own))):
                pieces.setdefault(channel.name, []).append((frames, channel))
        frames += length
    _check_length(path, frames / frame_rate)
    channels = []
    for title, found in pieces.items():
        first = found[0][1]
        per_frame = first.rate / frame_rate
        samples = np.full(round(frames * per_frame), np.nan)
        for start, piece in found:
            if piece.rate != first.rate:
                raise ValueError(
                    f"{title!r} has {first.rate:g} Hz, and in another segment {piece.rate:g}"
                )
            at = round(start * per_frame)
            samples[at : at + len(piece.samples)] = piece.samples[: len(samples) - at]
        channels.append(_Channel(title, first.unit, first.rate, samples))
    return channels


def _annotations(path: Path, name: Path, rate: float) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Return the annotated beats at the signal's rate: positions [m] and classes [m]."""
    import wfdb

    try:
        with warnings.catch_warnings(action="ignore"):
            marks = wfdb.rdann(str(name), "atr")
        frequency = marks.fs or _frame_rate(_header(name))
        symbols = [str(symbol) for symbol in marks.symbol]
        at = np.asarray(marks.sample, np.float64) * (rate / float(frequency))
        if len(at) and (at[0] < 0 or np.any(np.diff(at) < 0)):
            raise ValueError("they are not in the order of time")
    except Exception as error:  # wfdb fails on broken files in more ways than it documents
        raise Failure(f"{path}: its annotations ({name}.atr) cannot be read: {error}") from None
    is_beat = np.array([symbol in AAMI for symbol in symbols], bool)
    found = np.array([AAMI[symbol] for symbol in symbols if symbol in AAMI], "<U1")
    return np.rint(at[is_beat]).astype(np.int64), found


# -- EDF


def _edf(path: Path) -> list[_Channel]:
    try:
        import edfio
    except ModuleNotFoundError:
        raise Failure(f"{path}: EDF needs edfio: pip install 'ecg-monitor[batch]'") from None
    if not path.is_file():
        raise Failure(f"{path}: no such file")
    try:
        content = path.read_bytes()
        if len(content) < 256:
            raise ValueError("its header is incomplete")
        read = edfio.read_bdf if content[:8] == BDF else edfio.read_edf
        with warnings.catch_warnings(action="ignore"):
            # Latin-1 never fails, and keeps the bytes of what is UTF-8.
            file = read(_with_points(content), header_encoding="latin-1")
            onsets = _onsets(content, file.num_data_records)
            if len(onsets):
                _check_length(path, onsets[-1] - onsets[0])
            return [
                _channel(
                    _text(signal.label),
                    _text(signal.physical_dimension),
                    float(signal.sampling_frequency),
                    _placed(signal.data, onsets, float(signal.sampling_frequency)),
                )
                for signal in file.signals
            ]
    except Failure:
        raise
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # edfio does not document how a corrupt file fails
        raise Failure(f"{path}: not a readable EDF file: {error}") from None


def _text(field: str) -> str:
    """Return a field that was read as Latin-1, as UTF-8 if it is; EDF allows neither."""
    with contextlib.suppress(UnicodeError):
        return field.encode("latin-1").decode()
    return field


def _with_points(content: bytes) -> bytes:
    """Return a file with decimal points in its ranges and duration: some programs write commas."""
    n = int(content[252:256])
    start, stop = 256 + 104 * n, 256 + 136 * n  # physical and digital minimum and maximum
    points = content[start:stop].replace(b",", b".")
    return (
        content[:244]
        + content[244:252].replace(b",", b".")
        + content[252:start]
        + points
        + content[stop:]
    )


def _onsets(content: bytes, records: int) -> NDArray[np.float64]:
    """Return the onset of each data record of a discontinuous file, in seconds: [records].

    It is empty for any other file. Each data record begins its first list of annotations with its
    own onset, "+12.5\\x14\\x14" (https://www.edfplus.info/specs/edfplus.html#timekeeping).
    """
    if content[192:197] not in (b"EDF+D", b"BDF+D"):
        return np.empty(0)
    n, width = int(content[252:256]), 3 if content[:8] == BDF else 2
    labels = [content[256 + 16 * i : 272 + 16 * i].strip() for i in range(n)]
    sizes = [width * int(content[256 + 216 * n + 8 * i :][:8]) for i in range(n)]
    first = next(i for i, label in enumerate(labels) if label in ANNOTATIONS)
    start, step = 256 * (n + 1) + sum(sizes[:first]), sum(sizes)
    marks = (content[start + step * i :][: sizes[first]] for i in range(records))
    return np.array([float(mark.partition(b"\x14")[0].partition(b"\x15")[0]) for mark in marks])


def _placed(samples: Signal, onsets: NDArray[np.float64], rate: float) -> Signal:
    """Return the samples of a discontinuous file at their times; what was not recorded is lost."""
    if not len(onsets):
        return samples
    records = samples.reshape(len(onsets), -1)
    size = records.shape[1]
    starts = np.rint((onsets - onsets[0]) * rate).astype(np.int64)
    least = np.arange(len(onsets)) * size  # no record begins before the one before it has ended
    starts = least + np.maximum.accumulate(starts - least)
    placed = np.full(starts[-1] + size, np.nan)
    placed[(starts[:, None] + np.arange(size)).ravel()] = samples
    return placed
