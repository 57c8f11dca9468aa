"""The strip of an alarm: the signal around it, published by `segment` on `ecg/<device>/strip`."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from monitor.alarms.kinds import NORMAL, POOR, VENTRICULAR
from monitor.alarms.messages import check_time
from monitor.alarms.operator_requests import AlarmId
from monitor.errors import Rejected

BEFORE: Final = 10.0
AFTER: Final = 10.0
"""Seconds of a strip before and after the beat that raised the alarm: two rows of paper."""

MAX_LEADS: Final = 3
"""Most leads of a strip: as many as a bedside monitor prints."""

MAX_RATE: Final = 360.0
"""Samples a second at most, the rate of the MIT-BIH Arrhythmia Database: 14 to a millimetre."""

LONGEST: Final = 60 * 500
"""Most samples of a lead that are accepted: more than `BEFORE`, `AFTER` and `MAX_RATE` make."""

MAX_BYTES: Final = 1_000_000
"""Longest payload that is accepted: 20 s of three leads at the highest rate have 150 kB."""

Label = Literal["N", "V", "A"]
"""What a beat was: normal, ventricular, or anomalous in another way."""


class Mark(msgspec.Struct, frozen=True):
    """A beat of a strip.

    Attributes:
        seq: the number of its R peak's sample, as its beat has it.
        at: seconds from the first sample of the strip.
        label: None of a beat that could not be read, or that the monitor has not heard.
    """

    seq: Annotated[int, Meta(ge=0, lt=2**53)]
    at: Annotated[float, Meta(ge=0, le=60)]
    label: Label | None = None


class AlarmStrip(msgspec.Struct, frozen=True, kw_only=True):
    """The signal around an alarm.

    Attributes:
        alarm: the id of the alert that raised it.
        time: of the first sample; RFC 3339, UTC.
        rate: samples a second.
        leads: the samples of each lead by name, all of equal length, None for lost ones.
        at: seconds from the first sample until the alarm was raised.
        unit: of the samples.
        beats: in order.
    """

    alarm: AlarmId
    time: str
    rate: Annotated[float, Meta(gt=0, le=1000)]
    leads: Annotated[
        dict[
            Annotated[str, Meta(max_length=64)],
            Annotated[list[float | None], Meta(min_length=1, max_length=LONGEST)],
        ],
        Meta(min_length=1, max_length=MAX_LEADS),
    ]
    at: Annotated[float, Meta(ge=0, le=60)]
    unit: Literal["mV"] = "mV"
    beats: Annotated[list[Mark], Meta(max_length=600)] = []

    def __post_init__(self) -> None:
        """Refuse a time that is none, leads of different lengths, and names for no eye."""
        check_time(self.time)
        if len({len(samples) for samples in self.leads.values()}) > 1:
            raise ValueError("the leads have different numbers of samples")
        if not all(name.isprintable() for name in self.leads):
            raise ValueError("a lead's name contains a character that is not printable")


_decode = msgspec.json.Decoder(AlarmStrip).decode


def decode(payload: bytes) -> AlarmStrip:
    """Return the strip in a payload.

    Raises:
        Rejected: with the reason.
    """
    if len(payload) > MAX_BYTES:
        raise Rejected("length", f"{len(payload)} bytes; a strip has at most {MAX_BYTES:,}")
    try:
        return _decode(payload)
    except msgspec.ValidationError as error:
        raise Rejected("shape", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("json", str(error)) from None


def label(verdict: int) -> Label | None:
    """Return the letter of a beat by its verdict, one of `monitor.alarms.kinds`."""
    if verdict == POOR:
        return None
    return "N" if verdict == NORMAL else "V" if verdict == VENTRICULAR else "A"


def labelled(strip: AlarmStrip, verdicts: Mapping[int, int]) -> AlarmStrip:
    """Return a strip whose beats are labelled by these verdicts, by their numbers."""
    beats = [
        Mark(each.seq, each.at, label(verdicts[each.seq]) if each.seq in verdicts else None)
        for each in strip.beats
    ]
    return msgspec.structs.replace(strip, beats=beats)
