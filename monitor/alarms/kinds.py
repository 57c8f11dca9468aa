"""The kinds of alarm: what raises each, at which priorities, and what keeps it from people."""

from typing import Final, Literal, NamedTuple

from monitor.alarms.messages import Kind, Priority


class Properties(NamedTuple):
    """What tells a kind of alarm from the others.

    Attributes:
        priorities: when raised, and once it has escalated, if it can.
        raised_by: the last beats of a device ("window"), or their absence ("silence").
        shelved: whether a shelf that names no kinds withholds it.
    """

    priorities: tuple[Priority, ...]
    raised_by: Literal["window", "silence"]
    shelved: bool


KINDS: Final[dict[Kind, Properties]] = {
    "anomaly": Properties(("medium", "high"), "window", shelved=True),
    "signal-quality": Properties(("low", "medium"), "window", shelved=True),
    "silent": Properties(("medium",), "silence", shelved=True),
}
"""The most serious first: in this order the open alarms of a device are listed."""
