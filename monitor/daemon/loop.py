"""The daemon: receive, score, decide, publish, acknowledge, housekeeping.

One thread does all of it (a second one judges the signals of large batches while they are scored),
so that what was read together is scored, decided and acknowledged together. A message is
acknowledged when every publish that it caused is.
"""

import time
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry

from monitor.alarms import messages, operator_requests, strips
from monitor.alarms.decisions import Alarms
from monitor.alarms.ownership import Ownership
from monitor.alarms.patients import STATES
from monitor.daemon.changes import Changes
from monitor.daemon.lifecycle import Lifecycle, serve_site
from monitor.daemon.model_watch import DriftWatch, TrialWatch
from monitor.daemon.operator import RequestHandler
from monitor.daemon.patients import Patients
from monitor.daemon.pipeline import Pipeline, Rejection, ScoredBatch, scores
from monitor.daemon.recovery import Recovery
from monitor.daemon.sinks import HistorySink, LiveSink, MetricsSink, MqttSink, NotifySink
from monitor.daemon.trends import TrendSink
from monitor.detector.per_device import Detectors
from monitor.errors import Rejected, UsageError
from monitor.history.writer import HistoryWriter
from monitor.metrics import Metrics
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer, Message
from monitor.mqtt.connection import wait
from monitor.mqtt.other_monitors import OtherMonitors
from monitor.mqtt.packets import Publish
from monitor.mqtt.retained import RetainedAlarms
from monitor.notify.notifier import Notifier
from monitor.settings import Settings
from monitor.topics import Topics, subscription, topic_of, topic_to_publish
from monitor.web.live_feed import REFRESH_INTERVAL, LiveFeed
from monitor.web.live_signal import LiveSignal
from monitor.web.routes import actions, health_and_metrics, routes

log = structlog.get_logger()

POLL_TIMEOUT = 0.25
"""Seconds to wait for messages before the stop flag and the clock are looked at again."""

DRAIN_TIMEOUT = 3.0
"""Seconds that the last publishes may take when the daemon is asked to stop."""

HISTORY_DRAIN_TIMEOUT = 1.5
"""Seconds that the history may take then to write what waits."""

CALLS_DRAIN_TIMEOUT = 1.0
"""Seconds that calls of people may take then to end. Others are made again at the next start."""

MAX_SILENT_PER_TURN = 200
"""Devices that may fall silent, or be forgotten, between two looks at the network."""

MAX_PATIENTS_PER_TURN = 200
"""Unacknowledged publishes from which on what changes for patients waits."""

BACKLOG_SKIP_SAVES = 100
"""Unacknowledged publishes above which a window is saved only when its alarm changes.

What was not saved is missing after a crash: the window then looks older than it was.
"""

LONG_READ = 512 * 1024
"""Bytes read in a turn, at most: 900 beats. With half as many, a beat of a flood takes an eighth
more of the processor's time; with twice as many, a thirtieth less."""

BACKLOG_SHORT_READS, SHORT_READ = 50, 16 * 1024
"""Unacknowledged publishes from which on only so many bytes are read in a turn.

With each turn some publishes go out: where many wait, turns are short. So they are while patients'
own models are opened, which takes 10 ms each: after a start, the beats that the broker kept are of
all of them at once.
"""

CLOCK_INTERVAL = 0.5
"""Seconds between two looks at what no beat causes: silence, shelves, patients, models, gauges."""


_REQUESTED = tuple(f"/{topic}".encode() for topic in (*operator_requests.TOPICS, "strip"))


class Daemon:
    """Reads beats from the broker until it is told to stop."""

    def __init__(self, settings: Settings, detectors: Detectors, metrics: Metrics) -> None:
        self.settings, self.detectors, self.metrics = settings, detectors, metrics
        alarm = settings.alarm
        self.alarms = Alarms(alarm.policy, alarm.latch, alarm.silent_together)
        self.ownership = Ownership(self.alarms, settings.mqtt.client_id)
        filters = [subscription(topic) for topic in settings.input.topic]
        self.consumer = BeatConsumer(settings.mqtt, filters, settings.input.qos, metrics)
        self.history = HistoryWriter(settings.history, settings.history_file, metrics.lost)
        self._trials = TrialWatch(detectors, settings.alarm.policy)
        self._drifts = DriftWatch(detectors, self.history)
        self.patients = Patients(
            settings,
            detectors,
            self.alarms,
            self._trials,
            self._drifts,
            time.monotonic(),
            self.ownership.elsewhere,
        )
        requests = [
            f"{settings.output.topic}/{topic}" for topic in (*operator_requests.TOPICS, "strip")
        ]
        self._request_topics = Topics(requests)
        filters = [subscription(topic) for topic in requests] + self.patients.filters
        retained = RetainedAlarms(settings.output.topic, settings.mqtt.client_id)
        self.recovery = Recovery(self.alarms, self.ownership, retained, self.history, detectors)
        self.others = OtherMonitors(settings.output.topic, settings.mqtt.client_id)
        self.sender = AlertSender(
            settings.mqtt,
            filters,
            metrics,
            retained=retained,
            others=self.others,
            left=self.patients.left,
        )
        self.notifier = Notifier(settings, metrics)
        raw = settings.segment
        self.live = LiveFeed(
            settings.input.topic,
            self.patients.patient,
            lambda: LiveSignal(raw.rate, raw.per_millivolt),
        )
        self._signals: dict[bytes, str] = {}  # the devices whose raw signal is heard, by its topic
        self.lifecycle = Lifecycle((self.consumer, self.sender))
        topics = Topics(settings.input.topic)
        self._pipeline = Pipeline(
            topics,
            settings.input.payload,
            detectors,
            self.alarms,
            settings.rhythm.for_device,
            settings.segment.rate,
            settings.mqtt.longest_held,
            self.ownership,
            self.patients.unwatched,
        )
        self.operator = RequestHandler(
            self.alarms,
            self.history,
            detectors,
            self.patients,
            self._pipeline,
            self.ownership.elsewhere,
        )
        self._mqtt = MqttSink(
            settings, self.alarms, self.sender, self.ownership.settling, self.operator.leaving
        )
        self._kept = HistorySink(self.history, detectors)
        self._counted = MetricsSink(metrics)
        self._trends = TrendSink(self.history)
        self._shown = LiveSink(self.live, self.alarms)
        self._called = NotifySink(self.notifier, self.alarms)
        self._alone = True  # whether no other monitor was ever there
        self._next_clock = 0.0
        self._opening = detectors.has_own

    def startup(self) -> None:
        """Show which model scores, and log what runs."""
        self._show_models()
        log.info(
            "started",
            model=self.detectors.default.name,
            sha256=self.detectors.default.sha256,
            threshold=round(self.detectors.default.threshold, 6),
            topics=self.settings.input.topic,
        )

    def turn(self) -> None:
        """Do all there is to do, once.

        Raises:
            ConfigurationError: the broker refuses the daemon.
        """
        received = self._receive()
        now, monotonic = time.time(), time.monotonic()
        self.lifecycle.tick(monotonic)
        changes = Changes()
        if self.recovery.due:
            self._recover(changes, now, monotonic)
        clock_is_due = monotonic >= self._next_clock
        batch = self._score(received, now)
        self._log_scales()
        self._decide(batch, changes, now, monotonic, clock_is_due)
        self._publish(batch, changes, now)
        self._acknowledge()
        self._keep_house(monotonic, clock_is_due)

    def shutdown(self) -> None:
        """Answer, publish and acknowledge what is in hand, say "stopped", disconnect."""
        changes, now = Changes(), time.time()
        self.operator.finish(changes, now)
        self._mqtt.publish(changes, now)
        self.sender.publish_status("stopped")
        self.sender.finish(DRAIN_TIMEOUT)
        self.operator.finish(Changes(), now)  # who waited for what is published by now
        self.consumer.acknowledge()
        self.consumer.disconnect()
        self.sender.disconnect()
        self._drifts.write(force=True)
        self._trends.flush(time.time(), everything=True)
        self.history.close(HISTORY_DRAIN_TIMEOUT)
        self.notifier.close(CALLS_DRAIN_TIMEOUT)
        log.info("stopped")

    # -- the stations of a turn

    def _receive(self) -> list[Message]:
        """Return the messages that have come, after waiting for some."""
        timeout = REFRESH_INTERVAL / 2 if self.live.watched else POLL_TIMEOUT
        ready = wait((self.consumer, self.sender), timeout)
        self.consumer.maintain()
        self.sender.maintain()
        self.consumer.pause(self.sender.full or not self.recovery.begun)
        if self.sender in ready:
            self.sender.read()
        short = self._opening or self.sender.backlog >= BACKLOG_SHORT_READS
        return self.consumer.collect(SHORT_READ if short else LONG_READ)

    def _score(self, received: list[Message], now: float) -> ScoredBatch:
        """Return the messages scored; note whether patients' models had to be opened for it."""
        opens = self.detectors.opens
        batch = self._pipeline.score(received, now)
        if received:
            self._opening = self.detectors.opens > opens
        return batch

    def _decide(
        self,
        batch: ScoredBatch,
        changes: Changes,
        now: float,
        monotonic: float,
        clock_is_due: bool,
    ) -> None:
        """Add what other monitors, beats, people and the clock change, in this order."""
        skip_saves = self.sender.backlog > BACKLOG_SKIP_SAVES
        self._hear_others(changes, now, monotonic)
        self._pipeline.decide(batch, now, skip_saves, self._mqtt.announced, changes)
        if not self.recovery.begun:
            return
        self._decide_requests(changes, now)
        if self.consumer.new_session:
            self.consumer.new_session = False
            self._save_all(changes)
        if clock_is_due:
            self._decide_by_the_clock(changes, now, monotonic)

    def _publish(self, batch: ScoredBatch, changes: Changes, now: float) -> None:
        """Give the changes to the sinks: first to the network, where alerts wait for nothing, then
        to metrics, history, live page, and whoever calls people."""
        self._mqtt.publish(changes, now)
        if self.settings.output.scores:
            for each in scores(batch, now):
                topic = topic_of(self.settings.output.topic, each.device, "scores")
                self.consumer.publish_unassured(topic, messages.encode(each))
        trouble = self.consumer.trouble if self.recovery.begun else self.sender.trouble
        self.lifecycle.publish_status(self.sender, trouble)
        self._mqtt.flush()
        self._counted.count(batch, changes, now)
        self._kept.keep(changes)
        self._trends.count(batch, now)
        self._shown.update(batch, changes, now)
        self._called.call(changes)
        self._trials.observe(batch, now)
        self.patients.touch(self._drifts.observe(batch, now))

    def _acknowledge(self) -> None:
        """Acknowledge the messages whose publishes the broker has acknowledged."""
        self.consumer.acknowledge()
        self.consumer.write()

    def _keep_house(self, monotonic: float, clock_is_due: bool) -> None:
        """Refresh the live page, and twice a second models and gauges."""
        self.metrics.connected.set(self.consumer.connected and self.sender.connected)
        if self.live.watched:
            self.live.refresh(self.alarms, self.detectors, monotonic)
        if clock_is_due:
            self._next_clock = monotonic + CLOCK_INTERVAL
            self._refresh_models()
            self._drifts.write()
            self.consumer.measure()
            self._trends.flush(time.time())
            self._watch_signals()
            self.metrics.devices.set(len(self.alarms.devices))
            self.metrics.relearn.set(self._drifts.hints)
            for state in STATES:
                self.metrics.patients.labels(state).set(self.patients.counts[state])

    # -- what is decided without a beat

    def _hear_others(self, changes: Changes, now: float, monotonic: float) -> None:
        """Give away what another monitor hears now, and take in what it makes known."""
        if self._alone and self.others.present:
            self._alone = False
            self.alarms.save_all()
        for name, saved, earlier in self.others.take_alarms():
            detector = self.detectors.for_device(name)
            heard = self.ownership.hear(
                name, saved, monotonic, now, detector.tells_ventricular, earlier
            )
            if heard.handover is not None:
                changes.handovers.append(heard.handover)
            if name in self.ownership.elsewhere:
                self.patients.give_away(name)
            for decision in heard.decisions:
                changes.add(decision, now, detector)
            if heard.unsaved:
                changes.save(name)
        for name in self.ownership.settled(monotonic):
            changes.save(name)

    def _decide_requests(self, changes: Changes, now: float) -> None:
        """Do what people have asked, over MQTT and over HTTP, and take in what comes beside it."""
        for message in self.sender.take_requests():
            try:
                self._take(message, changes, now)
            except Rejected as error:
                self._counted.count_rejection(Rejection(message.topic, error.reason, str(error)))
        self.operator.answer(changes, now)

    def _take(self, message: Publish, changes: Changes, now: float) -> None:
        """Take in a report of the learner, what is retained of a patient, samples, or a request.

        Raises:
            Rejected: it cannot be understood.
        """
        topic, payload = message.topic, message.payload
        if self.patients.is_report(topic):
            self.patients.report(topic, payload, now, time.monotonic())
        elif self.patients.is_patient(topic):
            if message.retain:  # else it is ours, as everybody hears it
                self.patients.recover(
                    topic, payload, time.monotonic(), self.recovery.is_of_who_left
                )
        elif message.retain:
            return  # it may be of any age
        elif not topic.endswith(_REQUESTED):
            self.live.take_samples(self._signals.get(topic, ""), payload)
        elif topic.endswith(b"/strip"):
            self._keep_strip(self._request_topics.device(topic), payload)
        else:
            device = self._request_topics.device(topic)
            request = operator_requests.decode_from(topic, payload)
            self.operator.handle(request, device, changes, now)

    def _keep_strip(self, device: str, payload: bytes) -> None:
        """Keep the signal around an alarm, its beats labelled.

        Raises:
            Rejected: the payload is no strip.
        """
        strip = strips.labelled(strips.decode(payload), self._trends.verdicts(device))
        self.history.keep_strip(strip.alarm, device, messages.encode(strip))

    def _watch_signals(self) -> None:
        """Hear the raw signal of the devices that somebody watches, and of no others."""
        signals = {}
        for name in self.live.watched_devices:
            for topic in self.settings.segment.topic:
                with suppress(UsageError):  # no device publishes there
                    if self.alarms.find(name) is not None:
                        signals[topic_to_publish(topic, name).encode()] = name
        if signals != self._signals:
            self._signals = signals
            self.sender.watch({topic.decode() for topic in signals})

    def _decide_by_the_clock(self, changes: Changes, now: float, monotonic: float) -> None:
        """Unshelve devices, find those that fell silent or are to be forgotten, and what has
        changed for patients."""
        for name in self.alarms.due(now):
            self.operator.unshelve(name, "the clock", now, changes)
        self._decide_on_patients(changes, now, monotonic)
        if not self.consumer.connected or self.sender.backlog >= MAX_SILENT_PER_TURN:
            return
        since = max(self.consumer.since, self.lifecycle.attentive_since)
        for decision in self.alarms.fall_silent(monotonic, since, now, MAX_SILENT_PER_TURN):
            changes.add(decision, now, self.detectors.for_device(decision.device))
            changes.save(decision.device)
        for name in self.alarms.lost.changed:
            if self.alarms.find(name) is not None:  # else it is gone, and another's perhaps
                changes.save(name)
        self.alarms.lost.changed.clear()
        changes.connection = self.alarms.lost.news(now)
        changed, cleared = self.alarms.forget(monotonic, now, MAX_SILENT_PER_TURN)
        for decision in cleared:
            changes.add(decision, now, self.detectors.for_device(decision.device))
        for name in changed:
            changes.save(name)
            if self.alarms.find(name) is None:
                self.patients.forget(name)

    def _decide_on_patients(self, changes: Changes, now: float, monotonic: float) -> None:
        """Add which patients to make known, and to admit, unless the network is behind."""
        self.patients.appear(self.alarms.appeared, monotonic)
        self.alarms.appeared.clear()
        if self.sender.backlog >= MAX_PATIENTS_PER_TURN:
            return
        changes.patients.update(self.patients.changes(now, monotonic))
        for name in self.patients.to_admit(monotonic):
            changes.passed_on.append((name, operator_requests.Admit(by="automatic")))

    def _save_all(self, changes: Changes) -> None:
        """Save every open alarm again, for a broker that has lost its memory."""
        if self._mqtt.announced is not None:
            self._mqtt.announced.clear()  # each is announced again with its next beat
        self.alarms.lost.repeat()
        for devices in (self.alarms.devices, self.alarms.silent):
            for name, device in devices.items():
                kept = device.open or device.shelf is not None or device.silent_since is not None
                if kept or not device.clean:
                    changes.save(name)

    # -- housekeeping

    def _refresh_models(self) -> None:
        for setting, detector, refusal in self.detectors.refresh():
            if detector is None:
                log.warning("model refused, the old one goes on", setting=setting, detail=refusal)
                continue
            self._show_models()
            log.info("model taken over", setting=setting, model=detector.name)
        for begun, ended, news in (
            ("model taken over", "model given up", self.detectors.refresh_own()),
            ("model tried", "trial over", self.detectors.refresh_trials()),
        ):
            for device, own, refusal in news:
                self.patients.touch([device])
                if refusal:
                    log.warning("model refused, the old one goes on", device=device, detail=refusal)
                elif own is None:
                    log.info(ended, device=device)
                else:
                    log.info(begun, device=device, model=own.name)

    def _log_scales(self) -> None:
        scales = self.detectors.scales
        for device, factor in scales.changes:
            log.warning(
                "beats in another unit than the model's, divided by the factor before scoring",
                device=device,
                model=self.detectors.for_device(device).name,
                factor=float(f"{factor:.3g}"),
            )
        scales.changes.clear()

    def _show_models(self) -> None:
        self.metrics.model.clear()
        for detector in self.detectors.all:
            self.metrics.model.labels(detector.name, detector.sha256).set(1)

    def _recover(self, changes: Changes, now: float, monotonic: float) -> None:
        """Take over the alarms that an earlier process left, and let beats come."""
        for saved in self.recovery.take(monotonic):
            self.live.update_device(saved.device, self.alarms.find(saved.device))
            self._called.update(saved.device)
            for alarm in saved.alarms:
                self.metrics.alarms.labels(alarm.kind, alarm.priority).inc()
            if self.recovery.is_of_who_left(saved.device, saved.time):
                just_left = saved.device in self.alarms.discharged
                self.operator.forget(saved.device, now, changes)
                if not just_left:  # what the broker has kept is the next patient's
                    del self.alarms.discharged[saved.device]
        self.notifier.begin()


def run(settings: Settings) -> None:
    """Run the daemon and serve its pages until it is told to stop.

    Raises:
        ConfigurationError: a model, the address of the metrics or the broker cannot be used.
    """
    metrics = Metrics(CollectorRegistry())
    daemon = Daemon(settings, Detectors(settings.model), metrics)
    lifecycle, token = daemon.lifecycle, settings.metrics.secret
    calls = daemon.notifier.trouble
    pages = routes(lifecycle.health, daemon.live, daemon.history.file, token is not None, calls)
    serve_site(
        settings.metrics,
        health_and_metrics(metrics.registry, lifecycle) | pages,
        actions(daemon.operator.ask),
        token,
    )
    lifecycle.run(daemon)
