"""The kinds of alarm: what raises each, at which priorities, and what keeps it from people."""

from typing import Final, Literal, NamedTuple

from monitor.alarms.messages import Kind, Priority

NORMAL, ANOMALOUS, POOR, ATYPICAL, VENTRICULAR = range(5)
"""What a beat was. Of a detector that can tell ventricular beats from others, what is anomalous is
either VENTRICULAR or ATYPICAL; of any other one it is ANOMALOUS."""


class Properties(NamedTuple):
    """What tells a kind of alarm from the others.

    Attributes:
        priorities: when raised, and once it has escalated, if it can.
        raised_by: the rhythm of the heart, a window of beats, or that none came.
        shelved: whether a shelf that names no kinds withholds it.
        explains: whether its beats are abnormal anyway, so that no anomaly is raised beside it.
    """

    priorities: tuple[Priority, ...]
    raised_by: Literal["rhythm", "window", "silence"]
    shelved: bool
    explains: bool = False


KINDS: Final[dict[Kind, Properties]] = {
    "ventricular-fibrillation": Properties(("high",), "rhythm", shelved=False, explains=True),
    "asystole": Properties(("high",), "rhythm", shelved=False, explains=True),
    "ventricular-tachycardia": Properties(("high",), "rhythm", shelved=False, explains=True),
    "bradycardia": Properties(("high",), "rhythm", shelved=False),
    "tachycardia": Properties(("medium", "high"), "rhythm", shelved=False),
    "anomaly": Properties(("medium", "high"), "window", shelved=True),
    "signal-quality": Properties(("low", "medium"), "window", shelved=True),
    "silent": Properties(("medium",), "silence", shelved=True),
}
"""The most serious first: in this order the open alarms of a device are listed.

Whoever shelves a patient who is being washed expects noise; a heart that stops then is to be told.
"""

RHYTHM_KINDS: Final = tuple(kind for kind, each in KINDS.items() if each.raised_by == "rhythm")
"""The kinds of the rhythm, the most serious first."""
