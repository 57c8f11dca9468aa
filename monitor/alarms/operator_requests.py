"""What people ask of the monitor, about an alarm or about a patient.

They publish it below `ecg/<device>`, on the topics of `TOPICS`, or send it over HTTP. Pure:
payloads in, requests out.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from monitor.alarms.messages import Kind
from monitor.errors import Rejected

LONGEST_SHELF: Final = 24 * 60
"""Minutes that a device may be shelved for: what is shelved for good is not monitored."""

LONGEST_NOTE: Final = 1000
"""Characters of a note: enough to say why, and less than the beat that an alarm is kept with."""

LONGEST_REASON: Final = 200
"""Characters of a note with an acknowledgement. It stands in the retained alarm, which is published
with every beat, and any number of acknowledgements may be kept."""

Name = Annotated[str, Meta(min_length=1, max_length=100)]

Note = Annotated[str, Meta(max_length=LONGEST_NOTE)]

ShortNote = Annotated[str, Meta(max_length=LONGEST_REASON)]

AlarmId = Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]

Minutes = Annotated[float, Meta(ge=1, le=60)]


class Acknowledge(msgspec.Struct, frozen=True):
    """Somebody has seen an alarm.

    Attributes:
        id: of the alert that raised it or escalated it.
        by: who has seen it.
        note: what they found or did.
    """

    id: AlarmId
    by: Name = "unknown"
    note: ShortNote = ""


class Shelve(msgspec.Struct, frozen=True):
    """Nobody shall be alerted of a device for some minutes; 0 to be alerted again at once.

    Attributes:
        kinds: of alarm to withhold; without any, all but those of the rhythm.
    """

    minutes: Annotated[float, Meta(ge=0, le=LONGEST_SHELF)]
    by: Name = "unknown"
    kinds: Annotated[tuple[Kind, ...], Meta(max_length=100)] = ()


class Judge(msgspec.Struct, frozen=True):
    """Somebody says whether an alarm was right.

    Attributes:
        id: of the alert that raised it or escalated it; the alarm may be open or over.
        verdict: whether the alarm was true or false.
        note: why.
    """

    id: AlarmId
    verdict: bool
    note: Note = ""
    by: Name = "unknown"


class Admit(msgspec.Struct, frozen=True):
    """A patient is at this device: learn his heart, then watch it by a model of his own.

    Attributes:
        minutes: of good beats to learn from; None for `learn.minutes`.
    """

    minutes: Minutes | None = None
    by: Name = "unknown"


class Discharge(msgspec.Struct, frozen=True):
    """The patient has left: clear his alarms and forget the device.

    Attributes:
        keep_model: whether his model stays for his return.
    """

    keep_model: bool = False
    by: Name = "unknown"


class Choose(msgspec.Struct, frozen=True):
    """Which of a device's own models shall watch.

    Attributes:
        model: "new" or "old" ends the trial of a new model; "previous" goes back by one version.
    """

    model: Literal["new", "old", "previous"]
    by: Name = "unknown"


Request = Acknowledge | Shelve | Judge | Admit | Discharge | Choose

_TYPES: dict[str, type[Request]] = {
    "alarm/acknowledge": Acknowledge,
    "alarm/shelve": Shelve,
    "alarm/judge": Judge,
    "admit": Admit,
    "discharge": Discharge,
    "model": Choose,
}
TOPICS = tuple(_TYPES)
"""The levels below a device's topic on which requests come."""


def topic(request: Request) -> str:
    """Return on which of `TOPICS` a request is published."""
    return next(end for end, kind in _TYPES.items() if isinstance(request, kind))


def decode(topic: str, payload: bytes) -> Request:
    """Read a request that came on one of `TOPICS`.

    Raises:
        Rejected: with the reason.
    """
    try:
        request: Request = msgspec.json.decode(payload, type=_TYPES[topic])
    except msgspec.ValidationError as error:
        raise Rejected("shape", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("json", str(error)) from None
    for name in ("by", "note"):
        if not getattr(request, name, "").isprintable():
            raise Rejected("shape", f"`{name}` holds a character that cannot be printed")
    return request


def decode_from(topic: bytes, payload: bytes) -> Request:
    """Read a request by the topic that it came on, which ends in one of `TOPICS`.

    Raises:
        Rejected: with the reason.
    """
    return decode(next(end for end in TOPICS if topic.endswith(b"/" + end.encode())), payload)
