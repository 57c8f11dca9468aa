"""The life cycle of an alarm, as a table.

Theory of operation: an alarm is raised, may escalate once, and is cleared. Its device may be
shelved meanwhile, so that nobody is to be alerted; therefore a state says two things: what stands,
and what of it has been withheld from people. Whoever hears the published alerts alone must end with
the alarms that stand. From that follow the rows:

- What was published before a shelf stays as it is; the shelf only withholds what comes.
- The end of an alarm is withheld only if nobody was told of its beginning.
- What was withheld of an alarm that still stands is published when the shelf is over, as one alert:
  its beginning if that was withheld, at the priority that it has by then; else its escalation.

Whether somebody has seen the alarm is a second state beside the first: `SEEN`.

An alarm may be set to latch: its condition being over, it stays until somebody has seen it, and is
cleared then (a latching alarm signal of IEC 60601-1-8). Whoever was told of it comes to see it;
what nobody was told of does not latch. If the condition comes back, the same alarm goes on.

A trigger that has no row in a state cannot come there. A restart is no transition: `restored` gives
the state that an earlier process made known. This file knows nothing else of the monitor.
`python -m monitor.alarms.lifecycle` draws the table; docs/operating.md shows the drawing.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Final, Literal, NamedTuple

Event = Literal["raised", "escalated", "cleared"]
"""What people are alerted of."""

Withheld = Literal["raised", "escalated"]


class State(Enum):
    """The event that an alarm came to last, the first one that has been withheld, and whether it
    is latched."""

    NONE = None, None, False
    RAISED = "raised", None, False
    RAISED_UNTOLD = "raised", "raised", False
    RAISED_LATCHED = "raised", None, True
    ESCALATED = "escalated", None, False
    ESCALATED_UNTOLD = "escalated", "raised", False
    ESCALATION_UNTOLD = "escalated", "escalated", False
    ESCALATED_LATCHED = "escalated", None, True

    @property
    def withheld(self) -> Withheld | None:
        """The event that people are alerted of once the shelf is over."""
        withheld: Withheld | None = self.value[1]
        return withheld

    @property
    def latched(self) -> bool:
        """Whether the condition is over, and the alarm stays until somebody has seen it."""
        latched: bool = self.value[2]
        return latched


class Trigger(Enum):
    """What happens to an alarm.

    LATCH is the end of the condition of an alarm that is set to latch and that nobody has seen.
    """

    RAISE = "raise"
    ESCALATE = "escalate"
    CLEAR = "clear"
    LATCH = "latch"
    ACKNOWLEDGE = "acknowledge"
    SHELVE = "shelve"
    UNSHELVE = "unshelve"
    FORGET = "forget"


class Row(NamedTuple):
    """What follows from a trigger.

    Attributes:
        state: the next one.
        event: what people are to be alerted of; None for nothing.
        published: whether they are alerted; else the alert is withheld.
    """

    state: State
    event: Event | None = None
    published: bool = False


NONE, RAISED, RAISED_UNTOLD, RAISED_LATCHED, *_ESCALATED = State
ESCALATED, ESCALATED_UNTOLD, ESCALATION_UNTOLD, ESCALATED_LATCHED = _ESCALATED
RAISE, ESCALATE, CLEAR, LATCH, ACKNOWLEDGE, SHELVE, UNSHELVE, FORGET = Trigger
OFF, ON = False, True
PUBLISHED, WITHHELD = True, False

# fmt: off
TABLE: Final[dict[tuple[State, Trigger, bool], Row]] = {
    # state            what happens  its shelf       next state         alert
    (NONE,              RAISE,       OFF):      Row(RAISED,            "raised",    PUBLISHED),
    (NONE,              RAISE,       ON):       Row(RAISED_UNTOLD,     "raised",    WITHHELD),
    (RAISED_LATCHED,    RAISE,       OFF):      Row(RAISED),
    (RAISED_LATCHED,    RAISE,       ON):       Row(RAISED),
    (ESCALATED_LATCHED, RAISE,       OFF):      Row(ESCALATED),
    (ESCALATED_LATCHED, RAISE,       ON):       Row(ESCALATED),

    (RAISED,            ESCALATE,    OFF):      Row(ESCALATED,         "escalated", PUBLISHED),
    (RAISED,            ESCALATE,    ON):       Row(ESCALATION_UNTOLD, "escalated", WITHHELD),
    (RAISED_UNTOLD,     ESCALATE,    ON):       Row(ESCALATED_UNTOLD,  "escalated", WITHHELD),

    (RAISED,            CLEAR,       OFF):      Row(NONE,              "cleared",   PUBLISHED),
    (RAISED,            CLEAR,       ON):       Row(NONE,              "cleared",   PUBLISHED),
    (RAISED_UNTOLD,     CLEAR,       ON):       Row(NONE,              "cleared",   WITHHELD),
    (RAISED_LATCHED,    CLEAR,       OFF):      Row(NONE,              "cleared",   PUBLISHED),
    (RAISED_LATCHED,    CLEAR,       ON):       Row(NONE,              "cleared",   PUBLISHED),
    (ESCALATED,         CLEAR,       OFF):      Row(NONE,              "cleared",   PUBLISHED),
    (ESCALATED,         CLEAR,       ON):       Row(NONE,              "cleared",   PUBLISHED),
    (ESCALATED_UNTOLD,  CLEAR,       ON):       Row(NONE,              "cleared",   WITHHELD),
    (ESCALATION_UNTOLD, CLEAR,       ON):       Row(NONE,              "cleared",   PUBLISHED),
    (ESCALATED_LATCHED, CLEAR,       OFF):      Row(NONE,              "cleared",   PUBLISHED),
    (ESCALATED_LATCHED, CLEAR,       ON):       Row(NONE,              "cleared",   PUBLISHED),

    (RAISED,            LATCH,       OFF):      Row(RAISED_LATCHED),
    (RAISED,            LATCH,       ON):       Row(RAISED_LATCHED),
    (RAISED_UNTOLD,     LATCH,       ON):       Row(NONE,              "cleared",   WITHHELD),
    (ESCALATED,         LATCH,       OFF):      Row(ESCALATED_LATCHED),
    (ESCALATED,         LATCH,       ON):       Row(ESCALATED_LATCHED),
    (ESCALATED_UNTOLD,  LATCH,       ON):       Row(NONE,              "cleared",   WITHHELD),
    (ESCALATION_UNTOLD, LATCH,       ON):       Row(NONE,              "cleared",   PUBLISHED),

    (RAISED_LATCHED,    ACKNOWLEDGE, OFF):      Row(NONE,              "cleared",   PUBLISHED),
    (RAISED_LATCHED,    ACKNOWLEDGE, ON):       Row(NONE,              "cleared",   PUBLISHED),
    (ESCALATED_LATCHED, ACKNOWLEDGE, OFF):      Row(NONE,              "cleared",   PUBLISHED),
    (ESCALATED_LATCHED, ACKNOWLEDGE, ON):       Row(NONE,              "cleared",   PUBLISHED),

    (RAISED,            SHELVE,      ON):       Row(RAISED),
    (RAISED_UNTOLD,     SHELVE,      ON):       Row(RAISED_UNTOLD),
    (RAISED_LATCHED,    SHELVE,      ON):       Row(RAISED_LATCHED),
    (ESCALATED,         SHELVE,      ON):       Row(ESCALATED),
    (ESCALATED_UNTOLD,  SHELVE,      ON):       Row(ESCALATED_UNTOLD),
    (ESCALATION_UNTOLD, SHELVE,      ON):       Row(ESCALATION_UNTOLD),
    (ESCALATED_LATCHED, SHELVE,      ON):       Row(ESCALATED_LATCHED),

    (RAISED,            UNSHELVE,    OFF):      Row(RAISED),
    (RAISED_UNTOLD,     UNSHELVE,    OFF):      Row(RAISED,            "raised",    PUBLISHED),
    (RAISED_LATCHED,    UNSHELVE,    OFF):      Row(RAISED_LATCHED),
    (ESCALATED,         UNSHELVE,    OFF):      Row(ESCALATED),
    (ESCALATED_UNTOLD,  UNSHELVE,    OFF):      Row(ESCALATED,         "raised",    PUBLISHED),
    (ESCALATION_UNTOLD, UNSHELVE,    OFF):      Row(ESCALATED,         "escalated", PUBLISHED),
    (ESCALATED_LATCHED, UNSHELVE,    OFF):      Row(ESCALATED_LATCHED),

    # The alarms of a device that is not heard any more. One that is shelved is not forgotten, nor
    # one with an alarm that is latched.
    (RAISED,            FORGET,      OFF):      Row(NONE,              "cleared",   PUBLISHED),
    (ESCALATED,         FORGET,      OFF):      Row(NONE,              "cleared",   PUBLISHED),

    **{(state, ACKNOWLEDGE, shelf): Row(state)
       for state in State if state is not NONE and not state.latched
       for shelf in (OFF, ON) if shelf or state.withheld is None},
}
# fmt: on
"""For each state, trigger, and whether alerts of this alarm are shelved once it has come."""

SEEN: Final[dict[Trigger, bool]] = {RAISE: False, ACKNOWLEDGE: True, ESCALATE: False}
"""Whether somebody has seen the alarm, after a trigger; after all others that stays as it was."""


def restored(
    escalated: bool, withheld: Withheld | None, shelved: bool, latched: bool = False
) -> State:
    """Return the state that an earlier process made known.

    Nothing is withheld of an alarm that is not shelved or is latched, nor an escalation that has
    not been.
    """
    if not shelved or latched or (withheld == "escalated" and not escalated):
        withheld = None
    return State(("escalated" if escalated else "raised", withheld, latched))


def diagram() -> str:
    """Draw the table as a Mermaid state diagram. What changes nothing is left out."""
    return "\n".join(["stateDiagram-v2", *(f"    {line}" for line in _lines())])


def _lines() -> Iterator[str]:
    for state in State:
        if state is not NONE:
            event, withheld, latched = state.value
            rest = f", “{withheld}” withheld" if withheld else ", latched" if latched else ""
            yield f"{_name(state)} : {event}{rest}"
    rows: dict[tuple[State, Trigger, Row], list[bool]] = {}
    for (state, trigger, shelf), row in TABLE.items():
        if row.state is not state or row.event is not None:
            rows.setdefault((state, trigger, row), []).append(shelf)
    for (state, trigger, row), shelves in rows.items():
        when = f"{trigger.value} (shelved)" if shelves == [ON] else trigger.value
        what = f" / “{row.event}” {'published' if row.published else 'withheld'}"
        yield f"{_name(state)} --> {_name(row.state)} : {when}{what if row.event else ''}"


def _name(state: State) -> str:
    return "[*]" if state is NONE else state.name.lower()


if __name__ == "__main__":
    print(diagram())
