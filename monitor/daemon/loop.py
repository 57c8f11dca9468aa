"""The daemon: collect, score, decide, publish, acknowledge.

One thread does all of it, so that what was read together is scored, decided and acknowledged
together. A message is acknowledged when every publish that it caused is.
"""

import gc
import signal
import time
from types import FrameType
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from monitor import errors
from monitor.alarms import messages, operator_requests
from monitor.alarms.decisions import ANOMALOUS, POOR, Alarms
from monitor.daemon import systemd
from monitor.daemon.announcer import Announcer, Evidence
from monitor.daemon.operator import RequestHandler
from monitor.detector.per_device import Detectors, Scored
from monitor.ecg import codec, quality
from monitor.ecg.beat import Beats, fingerprints, samples
from monitor.errors import ConfigurationError, Failure
from monitor.history.store import History
from monitor.logs import LINES, Throttle
from monitor.metrics import Metrics
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer, Message
from monitor.mqtt.connection import wait
from monitor.mqtt.packets import READ_SIZE
from monitor.mqtt.retained import read_retained_alarms
from monitor.settings import Settings
from monitor.times import rfc3339
from monitor.topics import Topics, subscription, topic_of
from monitor.web.live_feed import EVERY, LiveFeed
from monitor.web.routes import actions, routes
from monitor.web.server import Site, serve

log = structlog.get_logger()

PATIENCE = 0.25
"""Seconds to wait for messages before the flags are looked at again."""

FAREWELL = 3.0
"""Seconds that the last publishes may take when the daemon is asked to stop."""

LAST_LINES = 1.5
"""Seconds that the history may take then to write what waits."""

AT_ONCE = 200
"""Devices that may fall silent, or be forgotten, between two looks at the network."""

QUIET = 16
"""Messages in a batch up to which each beat is saved of a device with anomalous beats in sight."""

BUSY = 100
"""Publishes that wait for the broker, above which a window is saved only when its alarm changes.

Between the two, a window is saved with each anomalous beat. What was not saved is not there after a
crash: the window then looks older than it was.
"""

LAG, LITTLE = 50, 16 * 1024
"""Publishes that wait, from which on so many bytes are read in a turn."""

STALLED = 5.0
"""Seconds without a turn of the loop after which it does not count as alive."""


class Intake(NamedTuple):
    """The beats of one message, whose they are, and where they stand in the batch."""

    message: Message
    device: str
    beats: Beats
    start: int
    stop: int

    @property
    def whose(self) -> tuple[str, int, int]:
        """The device, and its beats' place in the batch."""
        return self.device, self.start, self.stop


class Daemon:
    """Reads beats from the broker until it is told to stop."""

    def __init__(self, settings: Settings, detectors: Detectors, metrics: Metrics) -> None:
        self.settings = settings
        self.detectors = detectors
        self.metrics = metrics
        self.alarms = Alarms(settings.alarm.policy)
        self.topics = Topics(settings.input.topic)
        filters = [subscription(topic) for topic in settings.input.topic]
        self.inbound = BeatConsumer(settings.mqtt, filters, settings.input.qos, metrics)
        asked = [f"{settings.output.topic}/alarm/{end}" for end in operator_requests.ENDS]
        self.whose = Topics(asked)
        self.outbound = AlertSender(
            settings.mqtt, [subscription(topic) for topic in asked], metrics
        )
        self.history = History(settings.history, settings.history_file, metrics.lost)
        self.live = LiveFeed(settings.input.topic)
        self.publisher = Announcer(
            settings, self.alarms, detectors, self.outbound, self.history, self.live, metrics
        )
        self.desk = RequestHandler(self.alarms, self.history, self.publisher)
        self._stop = False
        self._recovered = self._online = False
        self._turned = self._listening = time.monotonic()
        self._next_look = 0.0
        self._rejections = Throttle(LINES)

    # -- its life

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigurationError: the broker will not have us.
        """
        self.startup()
        while not self._stop:
            self.turn()
        self.shutdown()

    def startup(self) -> None:
        """Listen to the signals, and show what runs."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        self._show_models()
        gc.collect()
        gc.freeze()  # what stands now stays: nothing to look through again and again
        log.info(
            "started",
            model=self.detectors.default.name,
            sha256=self.detectors.default.sha256,
            threshold=round(self.detectors.default.threshold, 6),
            topics=self.settings.input.topic,
        )
        systemd.tell(systemd.READY)

    def turn(self) -> None:
        """Do all there is to do, once."""
        patience = EVERY / 2 if self.live.watched else PATIENCE
        ready = wait((self.inbound, self.outbound), patience)
        self.inbound.keep_up()
        self.outbound.keep_up()
        if self.outbound in ready:
            self.outbound.read()
        # With each turn some publishes go out: where many wait, turns are short.
        messages = self.inbound.collect(READ_SIZE if self.outbound.backlog < LAG else LITTLE)
        if not self._recovered and self.inbound.connected and not self._recover():
            messages = []  # they come again; nothing can be decided yet
        if messages:
            self._work(messages)
        if self._recovered:
            self._attend()
        if self.inbound.new_session:
            self.inbound.new_session = False
            self.publisher.renew()
        self._tell_status()
        now = time.monotonic()
        if now - self._turned > STALLED:
            self._listening = now  # what came meanwhile is still to be read
        self._turned = now
        if now >= self._next_look:
            self._next_look = now + 0.5
            systemd.tell(systemd.ALIVE)
            self._look_round(now)
        if self.live.watched:
            self.live.show(self.alarms, self.detectors, now)
        self._speak()
        self.inbound.acknowledge()
        self.inbound.write()
        self.publisher.follow_up()

    def _speak(self) -> None:
        self.outbound.send()
        self.outbound.write()

    def shutdown(self) -> None:
        """Publish and acknowledge what is in hand, say that we stop, and go."""
        systemd.tell(systemd.STOPPING)
        self.outbound.say("stopped")
        self.outbound.finish(FAREWELL)
        self.inbound.acknowledge()
        self.inbound.hang_up()
        self.outbound.hang_up()
        self.history.close(LAST_LINES)
        log.info("stopped")

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _tell_status(self) -> None:
        well = self.inbound.trouble is None
        self._online = self._online or well
        if self._online:
            self.outbound.say("online" if well else "offline")
        self.metrics.connected.set(self.inbound.connected and self.outbound.connected)

    def health(self) -> str | None:
        """What is wrong; None while all is well. Called from other threads."""
        return self.alive() or self.inbound.trouble or self.outbound.trouble

    def alive(self) -> str | None:
        """None while the loop turns, whatever the broker does. Called from other threads."""
        return "the loop does not turn" if time.monotonic() - self._turned > STALLED else None

    # -- its work

    def _work(self, messages: list[Message]) -> None:
        intakes = self._decode(messages)
        if not intakes:
            return
        batch = samples(b"".join([intake.beats.data for intake in intakes]))
        scored = self._score(intakes, batch)
        faults, verdicts = _judge(batch, scored)
        keys = fingerprints(batch).tolist()
        unsaved: dict[str, Message] = {}
        quiet, busy = len(intakes) <= QUIET, self.outbound.backlog > BUSY
        wall = time.time()
        self.metrics.last_beat.set(wall)
        for message, name, beats, start, stop in intakes:
            device = self.alarms.hear(name, message.arrived)
            if self.settings.output.home_assistant:
                self.publisher.announce(name)
            times = beats.times(wall)
            decisions = self.alarms.observe(
                name,
                device,
                verdicts[start:stop],
                beats.keys(keys[start:stop], times),
                times,
                beats.seq,
                message.redelivered,
            )
            for decision in decisions:
                at = decision.beat or 0
                believed = verdicts[start + at] != POOR
                evidence = _evidence(batch, scored, start + at, believed)
                self.publisher.alert(decision, times[at], evidence, message)
            if decisions or (device.unsaved and not busy) or (quiet and not device.clean):
                unsaved.setdefault(name, message)
        self._speak()  # an alert waits for nothing that can be done later
        self._count(intakes, scored, faults, verdicts)
        # Once for each device, and behind the alerts: whoever finds an alarm to stand can rely on
        # its alert. The first message that changed it waits, and so do all behind that one.
        for name, message in unsaved.items():
            self.publisher.save(name, wall, message)
        if self.live.watched:
            heard = ((intake.device, intake.beats, intake.start) for intake in intakes)
            self.live.see(heard, batch, scored, verdicts, wall)
        if self.settings.output.scores:
            self._publish_scores(intakes, verdicts, scored, wall)

    def _decode(self, messages: list[Message]) -> list[Intake]:
        intakes: list[Intake] = []
        expected = self.settings.input.payload
        at = 0
        for message in messages:
            try:
                device = self.topics.device(message.topic)
                beats = codec.decode(message.payload, message.content_type, expected)
            except errors.Rejected as rejected:
                self._reject(message.topic, rejected.reason, str(rejected))
                continue
            intakes.append(Intake(message, device, beats, at, at + len(beats)))
            at += len(beats)
        self.metrics.received.inc(at)
        return intakes

    def _score(self, intakes: list[Intake], batch: NDArray[np.float32]) -> Scored:
        begun = time.perf_counter()
        scored = self.detectors.score(batch, (intake.whose for intake in intakes))
        self.metrics.inference.observe(time.perf_counter() - begun)
        self.metrics.batch.observe(len(batch))
        return scored

    def _count(
        self, intakes: list[Intake], scored: Scored, faults: NDArray[np.uint8], verdicts: bytes
    ) -> None:
        poor = verdicts.count(POOR)
        self.metrics.scored.inc(len(verdicts) - poor)
        self.metrics.anomalous.inc(verdicts.count(ANOMALOUS))
        ratios = scored.scores / scored.thresholds
        if poor:
            ratios = ratios[faults == quality.GOOD]
            for fault, name in enumerate(quality.FAULTS, start=1):
                self.metrics.poor.labels(name).inc(int(np.count_nonzero(faults == fault)))
            bad = faults == quality.NOT_FINITE
            for intake in intakes:
                if bad[intake.start : intake.stop].any():
                    self._reject(
                        intake.message.topic,
                        "not_finite",
                        "a sample is NaN, infinite, or beyond what can be scored",
                    )
        self.metrics.ratio.observe(ratios)

    def _publish_scores(
        self, intakes: list[Intake], verdicts: bytes, scored: Scored, wall: float
    ) -> None:
        for _, name, beats, start, stop in intakes:
            times = beats.times(wall)
            scores = [
                messages.Score(
                    beats.number(i),
                    rfc3339(times[i]),
                    float(scored.scores[start + i]),
                    verdicts[start + i] == 1,
                )
                for i in range(stop - start)
                if verdicts[start + i] != POOR
            ]
            if scores:
                topic = topic_of(self.settings.output.topic, name, "scores")
                self.inbound.publish_unassured(
                    topic, messages.encode(messages.Scores(name, scores))
                )

    def _reject(self, topic: bytes, reason: errors.Reason, detail: str) -> None:
        """Count a message that cannot be understood, and say so, but not more than once a second
        for each reason and topic."""
        self.metrics.rejected.labels(reason).inc()
        if self._rejections.admits((reason, topic), time.monotonic()):
            log.warning(
                "rejected",
                topic=topic.decode(errors="backslashreplace")[:100],
                reason=reason,
                detail=detail[:200],
                withheld=self._rejections.take_withheld(),
            )

    def _attend(self) -> None:
        """Do what people have asked."""
        for asked in self.outbound.take_requests():
            try:
                device = self.whose.device(asked.topic)
                request = operator_requests.decode(
                    asked.topic.rpartition(b"/")[2].decode(), asked.payload
                )
            except errors.Rejected as rejected:
                self._reject(asked.topic, rejected.reason, str(rejected))
            else:
                self.desk.attend(request, device)
        self.desk.answer()

    # -- what is not caused by a beat

    def _look_round(self, now: float) -> None:
        """Model files that have changed, devices that fell silent or are to be forgotten, and how
        far behind we are."""
        self._refresh_models()
        self.inbound.measure()
        wall = time.time()
        for name in self.alarms.due(wall):
            self.desk.unshelve(name, "the clock", wall)
        if self.inbound.connected and self.outbound.backlog < AT_ONCE:
            since = max(self.inbound.since, self._listening)
            for decision in self.alarms.fall_silent(now, since, wall, AT_ONCE):
                self.publisher.alert(decision, wall)
                self.publisher.save(decision.device, wall)
            gone, cleared = self.alarms.forget(now, AT_ONCE)
            for decision in cleared:
                self.publisher.alert(decision, wall)
            for name in gone:
                self.publisher.save(name, wall)
        self.metrics.devices.set(len(self.alarms.devices))

    def _refresh_models(self) -> None:
        for setting, detector, refusal in self.detectors.refresh():
            if detector is None:
                log.warning("model refused, the old one goes on", setting=setting, detail=refusal)
                continue
            self._show_models()
            log.info("model taken over", setting=setting, model=detector.name)

    def _show_models(self) -> None:
        self.metrics.model.clear()
        for detector in self.detectors.all:
            self.metrics.model.labels(detector.name, detector.sha256).set(1)

    def _recover(self) -> bool:
        """Read back the alarms that an earlier process left with the broker, if it is still there.

        Raises:
            ConfigurationError: the broker refuses the login.
        """
        try:
            standing = read_retained_alarms(self.settings)
        except ConfigurationError:
            raise
        except Failure as failure:
            self.inbound.abandon(f"the alarms cannot be read back: {failure}")
            return False
        now = time.monotonic()
        for saved in standing:
            self.alarms.restore(saved, now)
            self.live.note(saved.device, self.alarms.find(saved.device))
            for alarm in saved.alarms:
                self.metrics.alarms.labels(alarm.kind, alarm.priority).inc()
        self.history.end_others(alarm.id for saved in standing for alarm in saved.alarms)
        self._recovered = True
        return True


def _judge(batch: NDArray[np.float32], scored: Scored) -> tuple[NDArray[np.uint8], bytes]:
    """The fault of each beat, and what it was, a byte for each: NORMAL, ANOMALOUS or POOR."""
    faults = quality.assess(batch)
    finite = np.isfinite(scored.scores)
    if not finite.all():
        faults[~finite] = quality.NOT_FINITE
    anomalous = scored.scores > scored.thresholds
    if not faults.any():
        return faults, anomalous.tobytes()
    return faults, np.where(faults == quality.GOOD, anomalous, POOR).astype(np.uint8).tobytes()


def _evidence(batch: NDArray[np.float32], scored: Scored, at: int, believed: bool) -> Evidence:
    beat = batch[at].tolist()
    if not believed:  # JSON has no word for NaN, nor for what is infinite
        return Evidence(beat=beat if np.isfinite(batch[at]).all() else None)
    return Evidence(float(scored.scores[at]), beat, scored.reconstructions[at].tolist())


def run(settings: Settings) -> None:
    """Run the daemon with its metrics until it is told to stop.

    Raises:
        ConfigurationError: a model, the address of the metrics or the broker cannot be used.
    """
    metrics = Metrics(CollectorRegistry())
    daemon = Daemon(settings, Detectors(settings.model), metrics)
    token = settings.metrics.secret
    site = Site(
        routes(
            metrics.registry,
            daemon.health,
            daemon.live,
            daemon.history.file,
            token is not None,
            daemon.alive,
        ),
        actions(daemon.desk.ask),
        token,
        settings.metrics.allowed_hosts,
    )
    host, port = serve(settings.metrics.host, settings.metrics.port, site)
    host = f"[{host}]" if ":" in host else host
    log.info("serving", page=f"http://{host}:{port}/", metrics=f"http://{host}:{port}/metrics")
    daemon.run()
