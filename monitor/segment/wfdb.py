"""Recordings as WFDB has them: header, samples in format 16, annotations in MIT format. No disk.

Written by its specification (https://wfdb.io/spec: header(5), signal(5), annot(5)), so that the
daemon needs no library for it; the tests read what it writes with PhysioNet's own.
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Digits = NDArray[np.int16]

GAIN: Final = 1000
"""Units a millivolt: a microvolt each, and 32 mV on either side, more than any electrode's offset
that changes within an hour."""

LOST: Final = -32768
"""What format 16 has for a sample that is lost."""

CODES: Final = {"N": 1, "V": 5, "~": 14, '"': 22, "+": 28}
"""Of the annotations that are written: beats, change of quality, note, change of rhythm."""

_SKIP, _AUX = 59, 63


class Annotation(NamedTuple):
    """A beat or a remark at a sample; `text` is its auxiliary information."""

    sample: int
    symbol: str
    text: str = ""


def baseline(middle: float) -> int:
    """Return the digits of 0 mV if `middle`, in mV, has digit 0, as far as a header can say it."""
    limit = 2_000_000_000 / GAIN
    return -round(min(limit, max(-limit, float(middle))) * GAIN)


def digits(millivolts: NDArray[np.float32], baselines: Sequence[int]) -> Digits:
    """Return samples in millivolts, [n, leads], as numbers of format 16: int16 [n, leads]."""
    exact = np.round(millivolts.astype(np.float64) * GAIN) + np.asarray(baselines)
    whole = np.clip(np.nan_to_num(exact), LOST + 1, 32767)
    return np.where(np.isnan(exact), LOST, whole).astype("<i2")


class Lead(NamedTuple):
    """What the header says of a lead.

    Attributes:
        name: of it; empty if the device gives none.
        baseline: the digits of 0 mV.
        initial: its first sample, in digits.
        checksum: the sum of all its digits.
    """

    name: str
    baseline: int
    initial: int = 0
    checksum: int = 0


def header(
    name: str, rate: float, begin: float, leads: Sequence[Lead], device: str, length: int | None
) -> str:
    """Return the header of a record.

    Args:
        name: of the record.
        rate: samples a second.
        begin: of the first sample, in seconds since 1970.
        leads: in the order of their samples.
        device: that sent it.
        length: samples of each lead; None while they are being written: readers then ask the file.
    """
    moment = datetime.fromtimestamp(begin, UTC)
    size = "" if length is None else f" {length} {moment:%H:%M:%S.%f %d/%m/%Y}"
    lines = [f"{name} {len(leads)} {rate:.12g}{size}"]
    for lead in leads:
        checksum = (lead.checksum + 32768) % 65536 - 32768
        lines.append(
            f"{name}.dat 16 {GAIN}({lead.baseline})/mV 16 0 {lead.initial} {checksum} 0 "
            f"{lead.name or 'ECG'}"
        )
    lines += [f"# device: {device}", f"# begin: {moment.isoformat()}"]
    return "\n".join(lines) + "\n"


def annotations(found: Iterable[Annotation], last: int) -> bytes:
    """Return annotations, in order, whose first one follows one at the sample `last`."""
    out = bytearray()
    for sample, symbol, text in found:
        step, last = sample - last, sample
        if not 0 <= step < 1024:
            # The interval's high half comes first, each half little-endian.
            out += struct.pack("<HHH", _SKIP << 10, (step >> 16) & 0xFFFF, step & 0xFFFF)
            step = 0
        out += struct.pack("<H", CODES[symbol] << 10 | step)
        aux = text.encode("ascii", "replace")[:255]
        if aux:
            out += struct.pack("<H", _AUX << 10 | len(aux)) + aux + b"\0" * (len(aux) % 2)
    return bytes(out)


END: Final = b"\0\0"
"""The end of a file of annotations."""
