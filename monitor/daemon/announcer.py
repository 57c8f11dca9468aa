"""What the daemon makes known: alerts and alarms, over MQTT, in history, metrics and log."""

import time
from collections import deque
from typing import NamedTuple

import structlog

from monitor.alarms import messages
from monitor.alarms.decisions import Alarms, Decision
from monitor.alarms.device import as_it_stands
from monitor.detector.per_device import Detectors
from monitor.history.store import History
from monitor.logs import LINES, Throttle
from monitor.metrics import Metrics
from monitor.mqtt import home_assistant
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.beat_consumer import Message
from monitor.settings import Settings
from monitor.times import rfc3339
from monitor.topics import topic_of
from monitor.web.live_feed import LiveFeed

log = structlog.get_logger()

RECURRENT = 60.0
"""Seconds after an alarm has cleared within which it counts as come again."""


class Evidence(NamedTuple):
    """The beat that caused an alert, as far as it is known: its score and its reconstruction."""

    score: float | None = None
    beat: list[float] | None = None
    reconstruction: list[float] | None = None


class Announcer:
    """Makes changes of alarms known, and alarms as they stand."""

    def __init__(
        self,
        settings: Settings,
        alarms: Alarms,
        detectors: Detectors,
        outbound: AlertSender,
        history: History,
        live: LiveFeed,
        metrics: Metrics,
    ) -> None:
        self._output, self._client_id = settings.output, settings.mqtt.client_id
        self._alarms, self._detectors = alarms, detectors
        self._outbound, self._history, self._metrics = outbound, history, metrics
        self._live = live
        self._events = Throttle(LINES)
        self._to_keep: deque[tuple[Decision, messages.Alert, bytes]] = deque()
        self._to_count: deque[Decision] = deque()
        self._announced: set[str] = set()
        self._cleared: dict[tuple[str, messages.Kind], float] = {}  # the longest ago first

    def alert(
        self,
        decision: Decision,
        moment: float,
        evidence: Evidence = Evidence(),  # noqa: B008 - it cannot be changed
        cause: Message | None = None,
    ) -> None:
        """Alert of a change of an alarm, `moment` seconds since 1970.

        Of a device that is shelved nobody is alerted; the history has the alert all the same.
        """
        self._tell(decision, moment, evidence, cause)
        self._to_count.append(decision)

    def alert_late(self, decision: Decision, moment: float) -> None:
        """Alert of a change that was withheld while the device was shelved."""
        self._tell(decision, moment, Evidence(), None)

    def follow_up(self) -> None:
        """Count what was alerted of, keep it, and log it; by now it is under way."""
        while self._to_keep:
            self._keep(*self._to_keep.popleft())
        while self._to_count:
            self._count(self._to_count.popleft())

    def _tell(
        self, decision: Decision, moment: float, evidence: Evidence, cause: Message | None
    ) -> None:
        detector = self._detectors.for_device(decision.device)
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
        )
        payload = messages.encode(alert)
        if decision.withheld_by is None:
            topic = topic_of(self._output.topic, decision.device, "alerts")
            self._outbound.publish(topic, payload, cause=cause, timed=True)
        self._to_keep.append((decision, alert, payload))

    def _keep(self, decision: Decision, alert: messages.Alert, payload: bytes) -> None:
        self._history.keep(alert, payload, decision.withheld_by)
        if self._events.admits(decision.id, time.monotonic()):
            log.info(
                decision.event,
                device=decision.device,
                kind=decision.kind,
                priority=decision.priority,
                beats=f"{decision.anomalous}/{decision.seen}",
                shelved_by=decision.withheld_by,
                withheld=self._events.take_withheld(),
            )

    def _count(self, decision: Decision) -> None:
        kind, gauge = decision.kind, self._metrics.alarms
        self._metrics.alerts.labels(kind, decision.event, decision.priority).inc()
        if decision.before is not None:
            gauge.labels(kind, decision.before).dec()
        if decision.event != "cleared":
            gauge.labels(kind, decision.priority).inc()
        self._count_recurrence(decision, time.monotonic())

    def _count_recurrence(self, decision: Decision, now: float) -> None:
        """Count an alarm that is raised again soon after it has cleared."""
        while self._cleared and next(iter(self._cleared.values())) + RECURRENT <= now:
            del self._cleared[next(iter(self._cleared))]
        cleared = self._cleared.pop((decision.device, decision.kind), None)
        if decision.event == "cleared":
            self._cleared[decision.device, decision.kind] = now
        elif cleared is not None:
            self._metrics.recurring.inc()

    def announce(self, name: str) -> None:
        """Show a device to Home Assistant, and its alarm as it stands, though there be none."""
        device = self._alarms.find(name)
        if not self._output.home_assistant or name in self._announced or device is None:
            return
        self._announced.add(name)
        alarm = topic_of(self._output.topic, name, "alarm")
        status = f"ecg-monitor/{self._client_id}/status"
        payload = home_assistant.announcement(name, alarm, status)
        self._outbound.publish(home_assistant.topic(name), payload, retain=True)
        device.unsaved = True

    def save(self, name: str, wall: float, cause: Message | None = None) -> None:
        """Make a device's alarm known as it stands; gone, if the device was forgotten."""
        device = self._alarms.find(name)
        self._live.note(name, device)
        payload = b""
        if device is not None:
            device.unsaved = False
            payload = messages.encode(as_it_stands(name, device, wall))
        elif name in self._announced:
            self._announced.remove(name)
            self._outbound.publish(home_assistant.topic(name), b"", retain=True)
        topic = topic_of(self._output.topic, name, "alarm")
        self._outbound.publish(topic, payload, retain=True, cause=cause)

    def renew(self) -> None:
        """Make the open alarms known again to a broker that has lost its memory."""
        self._announced.clear()  # each is announced again with its next beat
        wall = time.time()
        for devices in (self._alarms.devices, self._alarms.silent):
            for name, device in list(devices.items()):
                if not device.clean or device.shelf is not None:
                    self.save(name, wall)
