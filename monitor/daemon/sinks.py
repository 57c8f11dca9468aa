"""Where decisions go: over MQTT, into history and log, into the metrics, to the live page, and to
whoever calls people.

Every sink takes the same `Changes`. MQTT comes first: an alert waits for nothing that can be done
once it is under way.
"""

import time
from collections.abc import Container

import numpy as np
import structlog

from monitor.alarms import messages, operator_requests
from monitor.alarms.decisions import Alarms
from monitor.alarms.device import as_it_stands
from monitor.alarms.kinds import NORMAL, POOR
from monitor.alarms.ownership import Handover
from monitor.alarms.patients import Patient
from monitor.daemon.changes import Changes
from monitor.daemon.pipeline import Rejection, ScoredBatch
from monitor.detector.per_device import Detectors
from monitor.ecg import quality
from monitor.history.writer import HistoryWriter
from monitor.logs import LINES, ClockLog, RejectionLog, Throttle
from monitor.metrics import Metrics
from monitor.mqtt import home_assistant
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.beat_consumer import Message
from monitor.mqtt.outbox import Waiting
from monitor.notify.duty import unanswered
from monitor.notify.notifier import Notifier
from monitor.settings import Settings
from monitor.times import rfc3339
from monitor.topics import topic_of
from monitor.web.live_feed import LiveFeed

log = structlog.get_logger()

CHATTERING = 60.0
"""Seconds after an alarm has cleared within which the next one counts as the same come again.

The metric's help says "within a minute".
"""


class MqttSink:
    """Publishes alerts, retained alarms, and devices to Home Assistant.

    Attributes:
        announced: the devices that Home Assistant has been told of; None where it is not told.
    """

    def __init__(
        self,
        settings: Settings,
        alarms: Alarms,
        sender: AlertSender,
        settling: Container[str] = (),
        leaving: Container[str] = (),
    ) -> None:
        """Publish of these alarms.

        What is retained of devices that are `settling` or `leaving` changes later: their alarms are
        saved again then. So do the patients of those that are `leaving`.
        """
        self._settling, self._leaving = settling, leaving
        self._held: dict[str, list[Waiting]] = {}  # devices not retained yet, and what waits for it
        self._unsaid: dict[str, Patient | None] = {}  # patients not made known yet
        self.announced: set[str] | None = set() if settings.output.home_assistant else None
        self._topic, self._client_id = settings.output.topic, settings.mqtt.client_id
        self._prefix = settings.output.home_assistant_prefix
        self._alarms, self._sender = alarms, sender

    def publish(self, changes: Changes, now: float) -> None:
        """Hand the alerts to the network, and queue behind them what is retained or passed on.

        Whoever finds an alarm retained can so rely on its alert. Nobody is alerted of a device
        that is shelved.

        Args:
            changes: what was decided.
            now: in seconds since 1970 UTC.
        """
        for name in changes.unannounced:
            self._announce(name)
        for event in changes.events:
            if event.decision.withheld_by is None:
                topic = topic_of(self._topic, event.decision.device, "alerts")
                self._sender.publish(topic, event.payload, cause=event.cause, timed=True)
        for judged in changes.judged:
            topic = topic_of(self._topic, judged.device, "alarm/judged")
            self._sender.publish(topic, messages.encode(judged))
        self.flush()
        for handover in changes.handovers:
            if handover.taken:
                continue
            self._sender.withdraw(topic_of(self._topic, handover.device, "alarm"))
            if self.announced is not None:  # the other announces it under its own name
                self.announced.discard(handover.device)
                self._sender.publish(self._discovery_topic(handover.device), b"", retain=True)
        for name, cause in changes.unsaved.items():
            asked = changes.asked.get(name, [])
            if self._is_held(name):
                self._hold(name, cause, asked)
                continue
            device = self._alarms.find(name)
            payload = b""
            if device is not None:
                device.unsaved = False
                payload = messages.encode(as_it_stands(name, device, now, self._client_id))
            elif self.announced is not None:  # also by an earlier process
                self.announced.discard(name)
                self._sender.publish(self._discovery_topic(name), b"", retain=True)
            topic = topic_of(self._topic, name, "alarm")
            waiting = [*self._held.pop(name, []), *asked]
            self._sender.publish(topic, payload, retain=True, cause=cause, waiting=waiting)
        for name in [each for each in self._held if not self._is_held(each)]:  # another's now
            for each in self._held.pop(name):
                each.waiting -= 1
        if changes.connection is not None:
            topic = f"ecg-monitor/{self._client_id}/connection"
            payload = messages.encode(changes.connection)
            self._sender.publish(topic, payload, retain=True, apart=True)
        patients, self._unsaid = self._unsaid | changes.patients, {}
        for name, patient in patients.items():
            if name in self._leaving:
                self._unsaid[name] = patient
                continue
            payload = b"" if patient is None else messages.encode(patient)
            topic = topic_of(self._topic, name, "patient")
            self._sender.publish(topic, payload, retain=True, apart=True)
        for name, request in changes.passed_on:
            topic = topic_of(self._topic, name, operator_requests.topic(request))
            self._sender.publish(topic, messages.encode(request), apart=True)

    def _is_held(self, name: str) -> bool:
        return name in self._settling or name in self._leaving

    def _hold(self, name: str, cause: Message | None, asked: list[Waiting]) -> None:
        """Keep a message from being acknowledged, and who asked from being answered, until a
        device is retained."""
        held = self._held.setdefault(name, [])
        held += asked
        if cause is not None:
            cause.waiting += 1
            held.append(cause)

    def flush(self) -> None:
        """Write as many publishes as the broker takes at once."""
        self._sender.send()
        self._sender.write()

    def _announce(self, name: str) -> None:
        if self.announced is None or name in self.announced:
            return
        self.announced.add(name)
        alarm = topic_of(self._topic, name, "alarm")
        status = f"ecg-monitor/{self._client_id}/status"
        payload = home_assistant.announcement(name, self._client_id, alarm, status)
        self._sender.publish(self._discovery_topic(name), payload, retain=True)

    def _discovery_topic(self, name: str) -> str:
        return home_assistant.topic(name, self._client_id, self._prefix)


class HistorySink:
    """Keeps the alerts in the history, and a line of each in the log."""

    def __init__(self, history: HistoryWriter, detectors: Detectors) -> None:
        self._history, self._detectors = history, detectors
        self._lines = Throttle(LINES)
        self._lost = False

    def keep(self, changes: Changes) -> None:
        """Keep every alert, those withheld from people as well, and where alarms go on."""
        self._log_connection(changes.connection)
        for handover in changes.handovers:
            if handover.taken:
                self._keep_taken(handover)
            else:
                self._history.move([alarm.id for _, alarm in handover.alarms], handover.other or "")
            self._log_handover(handover)
        for decision, alert, payload, _, _ in changes.events:
            self._history.keep(alert, payload, decision.withheld_by)
            if self._lines.admits(decision.id, time.monotonic()):
                log.info(
                    decision.event,
                    device=decision.device,
                    kind=decision.kind,
                    priority=decision.priority,
                    beats=f"{decision.anomalous}/{decision.seen}",
                    shelved_by=decision.withheld_by,
                    withheld=self._lines.take_withheld(),
                )

    def _keep_taken(self, handover: Handover) -> None:
        """Keep the beginning of alarms that another monitor has raised, without their beats."""
        detector = self._detectors.for_device(handover.device)
        for kind, alarm in handover.alarms:
            since = rfc3339(alarm.since)
            alert = messages.Alert(
                id=alarm.id,
                alarm=alarm.id,
                device=handover.device,
                event="raised",
                kind=kind,
                priority=alarm.priority,
                time=since,
                since=since,
                score=None,
                threshold=detector.threshold,
                beats_anomalous=0,
                beats_seen=0,
                model=detector.name,
                beat=None,
                reconstruction=None,
                heart_rate=messages.or_unset(alarm.heart_rate),
                pause_s=messages.or_unset(alarm.pause_s),
            )
            self._history.keep(alert, messages.encode(alert))

    def _log_connection(self, connection: messages.Connection | None) -> None:
        """Log that devices have fallen silent together, and that they are back."""
        lost = connection is not None and connection.state == "lost"
        if connection is None or lost == self._lost:
            return
        self._lost = lost
        if lost:
            log.warning("connection lost", devices=connection.devices, of=connection.of)
        else:
            log.info("connection back")

    def _log_handover(self, handover: Handover) -> None:
        event = "taken over" if handover.taken else "given away"
        if self._lines.admits((event, handover.device), time.monotonic()):
            log.info(
                event,
                device=handover.device,
                other=handover.other,
                alarms=[kind for kind, _ in handover.alarms],
                withheld=self._lines.take_withheld(),
            )


class MetricsSink:
    """Counts beats, rejected messages and alarms."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rejections = RejectionLog(metrics.rejected)
        self._clocks = ClockLog(metrics.times_rejected)
        self._cleared: dict[tuple[str, messages.Kind], float] = {}  # the longest ago first

    def count(self, batch: ScoredBatch, changes: Changes, now: float) -> None:
        """Count a batch received `now`, in seconds since 1970 UTC, and every change of an alarm.

        One that was deferred has been counted before.
        """
        self._count_batch(batch, now)
        if changes.connection is not None:
            self._metrics.connection_lost.set(changes.connection.devices)
        for judged in changes.judged:
            if judged.kind is not None:
                verdict = "true" if judged.verdict else "false"
                self._metrics.judged.labels(judged.kind, verdict).inc()
        for handover in changes.handovers:
            for kind, alarm in handover.alarms:
                change = 1 if handover.taken else -1
                self._metrics.alarms.labels(kind, alarm.priority).inc(change)
        for event in changes.events:
            if event.deferred:
                continue
            decision, gauge = event.decision, self._metrics.alarms
            kind, priority = decision.kind, decision.priority
            self._metrics.alerts.labels(kind, decision.event, priority).inc()
            if decision.before is not None:
                gauge.labels(kind, decision.before).dec()
            cleared = decision.event == "cleared"
            if not cleared:
                gauge.labels(kind, priority).inc()
            self._count_chattering((decision.device, kind), cleared, time.monotonic())

    def _count_chattering(
        self, alarm: tuple[str, messages.Kind], cleared: bool, now: float
    ) -> None:
        """Count an alarm that is raised again soon after it has cleared."""
        while self._cleared and next(iter(self._cleared.values())) + CHATTERING <= now:
            del self._cleared[next(iter(self._cleared))]
        before = self._cleared.pop(alarm, None)
        if cleared:
            self._cleared[alarm] = now
        elif before is not None:
            self._metrics.recurring.inc()

    def _count_batch(self, batch: ScoredBatch, now: float) -> None:
        for rejection in batch.rejected:
            self.count_rejection(rejection)
        for device, given in batch.misdated:
            self._clocks.add(device, given, now)
        if not batch.messages:
            return
        metrics, verdicts = self._metrics, batch.verdicts
        metrics.last_beat.set(now)
        metrics.received.inc(len(verdicts))
        metrics.inference.observe(batch.seconds)
        metrics.batch.observe(len(verdicts))
        poor = verdicts.count(POOR)
        metrics.scored.inc(len(verdicts) - poor)
        metrics.anomalous.inc(len(verdicts) - poor - verdicts.count(NORMAL))
        with np.errstate(divide="ignore", invalid="ignore"):  # to a threshold of 0 there is none
            ratios = batch.scored.scores / batch.scored.thresholds
        if poor:
            ratios = ratios[batch.faults == quality.GOOD]
            for fault, name in enumerate(quality.FAULTS, start=1):
                metrics.poor.labels(name).inc(int((batch.faults == fault).sum()))
        metrics.ratio.observe(ratios[np.isfinite(ratios)])

    def count_rejection(self, rejection: Rejection) -> None:
        """Count a message that cannot be understood, and log it."""
        self._rejections.add(*rejection)


class LiveSink:
    """Keeps the live page's open alarms, and the beats of the devices that somebody watches."""

    def __init__(self, live: LiveFeed, alarms: Alarms) -> None:
        self._live, self._alarms = live, alarms

    def update(self, batch: ScoredBatch, changes: Changes, now: float) -> None:
        """Take over what changed, `now` in seconds since 1970 UTC."""
        for name in changes.unsaved:
            self._live.update_device(name, self._alarms.find(name))
        for handover in changes.handovers:
            self._live.update_device(handover.device, self._alarms.find(handover.device))
        if self._live.watched and batch.messages:
            heard = ((each.device, each.beats, each.start) for each in batch.messages)
            self._live.take_beats(heard, batch.samples, batch.scored, batch.verdicts, now)


class NotifySink:
    """Hands the alarms that want somebody over to whoever calls people."""

    def __init__(self, notifier: Notifier, alarms: Alarms) -> None:
        self._notifier, self._alarms = notifier, alarms
        self._known: dict[str, list[str]] = {}

    def call(self, changes: Changes) -> None:
        """Hand over the alarms of every device where other ones want somebody now.

        One that goes to another monitor is called of by that one.
        """
        for name in changes.unsaved:
            self.update(name)
        for handover in changes.handovers:
            self.update(handover.device)

    def update(self, name: str) -> None:
        """Hand over the alarms of a device if other ones want somebody now."""
        if not self._notifier.people:
            return
        device = self._alarms.find(name)
        if name not in self._known and (device is None or not device.open):
            return  # an anomalous beat that raised nothing: nearly always
        alarms = unanswered(name, device)
        alerts = [each.alert for each in alarms]
        if alerts != self._known.pop(name, []):
            self._notifier.update(name, alarms)
        if alerts:
            self._known[name] = alerts
