"""What people ask of the monitor: to note that they have seen an alarm, or to shelve a device.

They publish it on `ecg/<device>/alarm/acknowledge` and `ecg/<device>/alarm/shelve`, or send it over
HTTP. Pure: payloads in, requests out.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from monitor.alarms.messages import Kind
from monitor.errors import Rejected

LONGEST_SHELF: Final = 24 * 60
"""Minutes that a device may be shelved for: what is shelved for good is not monitored."""

Name = Annotated[str, Meta(min_length=1, max_length=100)]


class Acknowledge(msgspec.Struct, frozen=True):
    """Somebody has seen an alarm.

    Attributes:
        id: of the alert that raised it or escalated it.
        by: who has seen it.
    """

    id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    by: Name = "unknown"


class Shelve(msgspec.Struct, frozen=True):
    """Nobody shall be alerted of a device for some minutes; 0 to be alerted again at once.

    Attributes:
        kinds: of alarm to withhold; without any, all but those of the rhythm.
    """

    minutes: Annotated[float, Meta(ge=0, le=LONGEST_SHELF)]
    by: Name = "unknown"
    kinds: Annotated[tuple[Kind, ...], Meta(max_length=100)] = ()


Request = Acknowledge | Shelve

_KINDS: dict[str, type[Acknowledge] | type[Shelve]] = {"acknowledge": Acknowledge, "shelve": Shelve}
ENDS = tuple(_KINDS)
"""The last level of the topics that requests come on."""


def decode(end: str, payload: bytes) -> Request:
    """Read a request that came on a topic with this end.

    Raises:
        Rejected: with the reason.
    """
    try:
        request: Request = msgspec.json.decode(payload, type=_KINDS[end])
    except msgspec.ValidationError as error:
        raise Rejected("shape", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("json", str(error)) from None
    if not request.by.isprintable():
        raise Rejected("shape", "`by` holds a character that cannot be printed")
    return request
