"""What was decided in a turn, of beats, by people and by the clock: one form for all sinks."""

from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import UNSET

from monitor.alarms import messages
from monitor.alarms.decisions import Decision
from monitor.alarms.operator_requests import Admit, Choose, Discharge
from monitor.alarms.ownership import Handover
from monitor.alarms.patients import Patient
from monitor.detector.model_file import Detector
from monitor.mqtt.beat_consumer import Message
from monitor.mqtt.outbox import Waiting
from monitor.times import rfc3339


class Evidence(NamedTuple):
    """The beat that caused an alert, as far as it is known: its score and its reconstruction."""

    score: float | None = None
    beat: list[float] | None = None
    reconstruction: list[float] | None = None


NO_EVIDENCE = Evidence()
"""Of an alert that no beat caused."""


class AlarmEvent(NamedTuple):
    """A decision, and the alert that is published and kept of it.

    Attributes:
        alert: encoded in `payload`.
        cause: the message that caused it, to be acknowledged after it; None where none did.
        deferred: whether it was decided, and counted, while its device was shelved.
    """

    decision: Decision
    alert: messages.Alert
    payload: bytes
    cause: Message | None
    deferred: bool


@dataclass(slots=True)
class Changes:
    """What was decided in a turn.

    Attributes:
        events: in the order in which they were decided.
        unsaved: devices whose retained alarm is to be saved, or removed if the device is
            forgotten, each with the first message that changed it. That message waits to be
            acknowledged, and so do all behind it.
        asked: who is answered only once the retained alarm of a device is with the broker.
        unannounced: devices that Home Assistant has not been told of.
        judged: answers to judgements of alarms.
        handovers: what came from other monitors or went to them, with the alarms that are open.
        patients: what is to be made known of them, by device; None for one who has left.
        connection: whether many devices have fallen silent together, if that has changed.
        passed_on: what people asked over HTTP, or a setting asks, and the learner has to hear, too.
    """

    events: list[AlarmEvent] = field(default_factory=list)
    unsaved: dict[str, Message | None] = field(default_factory=dict)
    asked: dict[str, list[Waiting]] = field(default_factory=dict)
    unannounced: dict[str, None] = field(default_factory=dict)
    judged: list[messages.Judged] = field(default_factory=list)
    handovers: list[Handover] = field(default_factory=list)
    patients: dict[str, Patient | None] = field(default_factory=dict)
    connection: messages.Connection | None = None
    passed_on: list[tuple[str, Admit | Discharge | Choose]] = field(default_factory=list)

    def add(
        self,
        decision: Decision,
        moment: float,
        detector: Detector,
        evidence: Evidence = NO_EVIDENCE,
        cause: Message | None = None,
        deferred: bool = False,
    ) -> None:
        """Add a decision made at `moment`, in seconds since 1970 UTC."""
        alert = messages.Alert(
            id=decision.id,
            alarm=decision.alarm,
            device=decision.device,
            event=decision.event,
            kind=decision.kind,
            priority=decision.priority,
            time=rfc3339(moment),
            since=rfc3339(decision.since),
            score=evidence.score,
            threshold=detector.threshold,
            beats_anomalous=decision.anomalous,
            beats_seen=decision.seen,
            model=detector.name,
            beat=evidence.beat,
            reconstruction=evidence.reconstruction,
            heart_rate=messages.or_unset(decision.heart_rate),
            pause_s=messages.or_unset(decision.pause_s),
            over_since=UNSET if decision.over_since is None else rfc3339(decision.over_since),
        )
        self.events.append(AlarmEvent(decision, alert, messages.encode(alert), cause, deferred))

    def save(self, device: str, cause: Message | None = None, asked: Waiting | None = None) -> None:
        """Have a device's retained alarm saved; `cause` is acknowledged after that, and whoever
        `asked` is answered."""
        self.unsaved.setdefault(device, cause)
        if asked is not None:
            asked.waiting += 1
            self.asked.setdefault(device, []).append(asked)
