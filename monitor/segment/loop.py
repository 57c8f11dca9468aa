"""The daemon for raw samples: receive, cut, publish, acknowledge, housekeeping.

It is built as the daemon for beats is, on the same connections: one thread, one session of its own,
and a chunk is acknowledged when the beats that it completed are. What beats are still to be cut
from stands in the journal, so a process that is killed goes on where it stood.
"""

import sqlite3
import time
from collections import deque
from dataclasses import replace

import msgspec
import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from monitor.daemon.lifecycle import Lifecycle, serve_site
from monitor.ecg import chunks, quality
from monitor.ecg.chunks import Chunk
from monitor.ecg.segmenter import LOWEST_RATE, CutBeat, Segmenter
from monitor.ecg.streams import Stream, Streams, Taken
from monitor.errors import ConfigurationError, Rejected, UsageError
from monitor.logs import LINES, ClockLog, RejectionLog, Throttle
from monitor.metrics import SegmentMetrics
from monitor.mqtt.alert_sender import AlertSender
from monitor.mqtt.beat_consumer import BeatConsumer, Message
from monitor.mqtt.connection import wait
from monitor.mqtt.packets import READ_SIZE
from monitor.segment.journal import Entry, Journal, WantedStrip
from monitor.segment.messages import messages
from monitor.segment.recorder import Recorder
from monitor.segment.strips import Strips
from monitor.settings import Settings
from monitor.topics import Topics, subscription, topic_of, topic_to_publish
from monitor.web.routes import health_and_metrics

log = structlog.get_logger()

POLL_TIMEOUT = 0.25
"""Seconds to wait for chunks before the stop flag and the clock are looked at again."""

DRAIN_TIMEOUT = 3.0
"""Seconds that the last publishes may take when the daemon is asked to stop."""

TOLD_EVERY = 2.0
"""Seconds of signal without a beat after which the rhythm is told by itself: its device is heard,
and its alarm goes on, also while its heart stands still."""

CLOCK_INTERVAL = 0.5
"""Seconds between two looks for streams that have ended."""

TRIM_INTERVAL = 5.0
"""Seconds between two trims of the journal: a quarter of what it keeps."""


MAX_STRIPS = 50
"""Strips under way to the broker at most, 8 MB: if it takes none, beats must not wait for them."""


RECORDER_DRAIN_TIMEOUT = 3.0
"""Seconds that recordings may take at the end; what they do not get written is missing in them."""

RHYTHMS = {
    "ventricular-fibrillation": "(VFIB",
    "asystole": "(ASYS",
    "ventricular-tachycardia": "(VT",
}
"""Names of rhythms that PhysioNet's databases have. A rate alone is no rhythm, but a note."""


class InHand:
    """A chunk whose beats are not all with the broker; `waiting` counts those that are not."""

    __slots__ = ("arrived", "number", "waiting")

    def __init__(self, number: int, arrived: float) -> None:
        self.number = number
        self.arrived = arrived
        self.waiting = 0


class SegmentDaemon:
    """Cuts the samples that arrive into beats until it is told to stop."""

    def __init__(self, settings: Settings, metrics: SegmentMetrics) -> None:
        own = settings.segment
        try:  # says what is missing before the broker is asked
            Segmenter(own.rate or LOWEST_RATE)
        except ConfigurationError as error:
            raise ConfigurationError(f"segment.rate = {own.rate}: {error}") from None
        self._settings, self._metrics = settings, metrics
        self._topics = Topics(own.topic)
        name = f"{settings.mqtt.client_id}-segment"
        filters = [subscription(topic) for topic in own.topic]
        self._consumer = BeatConsumer(
            settings.mqtt, filters, own.qos, metrics, client_id=name, setting="segment.topic"
        )
        alerts = topic_of(settings.output.topic, "{device}", "alerts")
        self._alert_topics = Topics([alerts])
        self._sender = AlertSender(settings.mqtt, [subscription(alerts)], metrics, client_id=name)
        self._journal = Journal(settings.segment_journal)
        self._recorder = None
        if own.record is not None:
            self._recorder = Recorder(
                own.record, own.record_days, own.record_megabytes, own.per_millivolt, metrics
            )
        self._strips = Strips(self._journal.strips(), own.per_millivolt)
        self._strips_sent: list[tuple[WantedStrip, InHand]] = []
        self._streams = Streams(
            own.rate, own.lead, settings.rhythm.for_device, settings.mqtt.longest_held
        )
        self.lifecycle = Lifecycle((self._consumer, self._sender))
        self._in_hand: deque[InHand | Message] = deque()
        self._numbers: dict[int, int] = {}  # of the journal's entries, by id of what is in hand
        self._unwritten: list[Entry] = []
        self._rejections = RejectionLog(metrics.rejected)
        self._clocks = ClockLog(metrics.times_rejected)
        self._notices = Throttle(LINES)
        self._next_clock = self._next_trim = 0.0

    # -- its life

    def startup(self) -> None:
        """Cut once more what the journal has, and publish what was not published."""
        entries = self._journal.read()
        for entry in entries:
            try:
                stream, taken = self._take_again(entry)
            except Rejected:  # its settings may have changed since
                continue
            if stream is not None and not entry.done:
                in_hand = InHand(entry.number, time.monotonic())
                self._publish(entry, stream, taken, in_hand)
        log.info("started", topics=self._settings.segment.topic, streams=len(self._streams))

    def turn(self) -> None:
        """Do all there is to do, once.

        Raises:
            ConfigurationError: the broker refuses the daemon.
        """
        received = self._receive()
        now, monotonic = time.time(), time.monotonic()
        self.lifecycle.tick(monotonic)
        for message in received:
            self._cut(message, now)
        self._hear_alerts(now)
        self._sender.send()
        self._sender.write()
        self._acknowledge()
        if monotonic >= self._next_clock:
            self._next_clock = monotonic + CLOCK_INTERVAL
            self._keep_house(now, monotonic)

    def shutdown(self) -> None:
        """Publish and acknowledge what is in hand, publish the status "stopped", disconnect."""
        self._sender.publish_status("stopped")
        self._sender.finish(DRAIN_TIMEOUT)
        self._acknowledge()
        self._mark_strips()
        self._consumer.disconnect()
        self._sender.disconnect()
        self._journal.close()
        if self._recorder is not None:
            self._recorder.close(RECORDER_DRAIN_TIMEOUT)
        log.info("stopped")

    # -- the stations of a turn

    def _receive(self) -> list[Message]:
        ready = wait((self._consumer, self._sender), POLL_TIMEOUT)
        self._consumer.maintain()
        self._sender.maintain()
        self._consumer.pause(self._sender.full)
        if self._sender in ready:
            self._sender.read()
        return self._consumer.collect(READ_SIZE)

    def _cut(self, message: Message, now: float) -> None:
        """Take in a chunk, and publish the beats that it completes."""
        try:
            device = self._topics.device(message.topic)
            chunk = chunks.decode(message.payload)
            taken = self._streams.take(device, chunk, message.arrived, message.redelivered, now)
        except Rejected as rejected:
            self._rejections.add(message.topic, rejected.reason, str(rejected))
            return
        if taken.notice is not None:
            self._metrics.streams_broken.inc()
            if self._notices.admits(device, message.arrived):
                log.warning("a new stream begins", device=device, reason=taken.notice)
        if taken.misdated is not None:
            self._clocks.add(device, taken.misdated, now)
        self._metrics.chunks.inc()
        self._metrics.last_chunk.set(now)
        if taken.first is None:
            return  # it came before
        self._metrics.samples.inc(len(chunk) * len(chunk.leads))
        self._metrics.lost.inc(taken.lost)
        first = taken.first if chunk.seq is None else chunk.seq
        entry = Entry(self._journal.number(), device, first, message.payload, now, False)
        self._unwritten.append(entry)
        stream = self._streams.find(device)
        assert stream is not None
        if self._recorder is not None:
            self._record(self._recorder, device, stream, chunk, taken)
        self._publish(entry, stream, taken, message)

    def _record(
        self, recorder: Recorder, device: str, stream: Stream, chunk: Chunk, taken: Taken
    ) -> None:
        """Have the new samples of a chunk recorded, its beats, and what is new of the rhythm."""
        if taken.ended is not None:
            self._record_beats(recorder, *taken.ended)
            recorder.end(taken.ended[0].number)
        assert taken.first is not None
        new = {name: own[taken.first - stream.expected :] for name, own in chunk.leads.items()}
        begin = stream.moment_of(taken.first)
        recorder.samples(stream.number, device, taken.first, stream.rate, begin, new)
        self._record_beats(recorder, stream, taken.beats)
        if taken.rhythm_changed:
            self._record_rhythm(recorder, stream)

    def _record_beats(self, recorder: Recorder, stream: Stream, beats: list[CutBeat]) -> None:
        if not beats:
            return
        faults = quality.assess(np.array([beat.samples for beat in beats], np.float32))
        for beat, fault in zip(beats, faults, strict=True):
            if fault == quality.GOOD:  # others are windows in a pause, or in noise
                symbol = "V" if stream.ventricular(beat.seq) else "N"
                recorder.annotate(stream.number, beat.seq, symbol)

    def _record_rhythm(self, recorder: Recorder, stream: Stream) -> None:
        """Record the most serious arrhythmia at its onset, or that there is none any more."""
        standing = stream.rhythm()
        if not standing:
            recorder.annotate(stream.number, stream.expected, "+", "(N")
            return
        kind, since = standing[0].kind, standing[0].since
        ago = stream.moment_of(stream.expected) - since
        number = stream.expected - round(ago * stream.rate)
        if kind in RHYTHMS:
            recorder.annotate(stream.number, number, "+", RHYTHMS[kind])
        else:
            recorder.annotate(stream.number, number, '"', kind)

    def _take_again(self, entry: Entry) -> tuple[Stream | None, Taken]:
        """Return the stream of an entry of the journal, and what the entry brought it.

        Raises Rejected for a chunk that cannot be taken any more.
        """
        if entry.payload:
            chunk = replace(chunks.decode(entry.payload), seq=entry.first)
            taken = self._streams.take(entry.device, chunk, time.monotonic(), wall=entry.arrived)
            return self._streams.find(entry.device), taken
        if self._streams.find(entry.device) is None:
            return None, Taken([])
        stream, beats = self._streams.end(entry.device)
        return stream, Taken(beats)

    def _publish(self, entry: Entry, stream: Stream, taken: Taken, cause: InHand | Message) -> None:
        """Publish the beats of a device in order, and its rhythm with them or by itself.

        The entry is done, and its message may be acknowledged, when the broker has them.
        """
        if taken.ended is not None:  # its beats are of its own time, and of its own rhythm
            self._publish_beats(entry.device, *taken.ended, cause)
            self._publish_strips(entry.device, taken.ended[0], ended=True)
        unheard = stream.expected - stream.told > TOLD_EVERY * stream.rate
        self._publish_beats(
            entry.device, stream, taken.beats, cause, taken.rhythm_changed or unheard
        )
        self._publish_strips(entry.device, stream, ended=not entry.payload)
        self._in_hand.append(cause)
        self._numbers[id(cause)] = entry.number

    def _publish_beats(
        self,
        device: str,
        stream: Stream,
        beats: list[CutBeat],
        cause: InHand | Message,
        rhythm_alone: bool = False,
    ) -> None:
        """Publish beats of a stream with its rhythm; if there are none, the rhythm if so told."""
        self._metrics.cut.inc(len(beats))
        payloads = messages(beats, stream, rhythm_alone)
        if payloads:
            stream.told = stream.expected
        for payload in payloads:
            self._sender.publish(self._topic(device), payload, cause=cause)

    def _hear_alerts(self, now: float) -> None:
        """Note which alarms were raised, for their strips."""
        for message in self._sender.take_requests():
            if message.retain:  # it may be of any age
                continue
            try:
                device = self._alert_topics.device(message.topic)
                stream = self._streams.find(device)
                wanted = self._strips.want(device, message.payload, stream, now)
            except Rejected as rejected:
                self._rejections.add(message.topic, rejected.reason, str(rejected))
            except (ValueError, msgspec.MsgspecError, RecursionError) as error:
                self._rejections.add(message.topic, "shape", str(error))
            else:
                if wanted is not None:
                    self._note_strip(wanted)

    def _publish_strips(self, device: str, stream: Stream, ended: bool = False) -> None:
        """Publish the strips of a device whose signal is there, or all if its stream has ended."""
        for wanted, payload in self._strips.take_due(device, stream, ended):
            if len(self._strips_sent) >= MAX_STRIPS:
                self._metrics.strips_dropped.inc()
                continue
            cause = InHand(0, time.monotonic())
            topic = topic_of(self._settings.output.topic, device, "strip")
            self._sender.publish(topic, payload, cause=cause, apart=True)
            self._strips_sent.append((wanted, cause))
            self._metrics.strips.inc()

    def _mark_strips(self) -> None:
        """Write down which strips are with the broker."""
        for wanted, cause in self._strips_sent:
            if not cause.waiting:
                self._note_strip(wanted._replace(done=True))
        self._strips_sent = [each for each in self._strips_sent if each[1].waiting]

    def _note_strip(self, strip: WantedStrip) -> None:
        try:
            self._journal.write_strip(strip)
        except sqlite3.Error as error:  # only a strip is at stake, and only if the process dies
            self._say_unwritten(error)

    def _say_unwritten(self, error: sqlite3.Error) -> None:
        self._metrics.unwritten.inc()
        if self._notices.admits("journal", time.monotonic()):
            log.error("the journal cannot be written", reason=str(error))

    def _topic(self, device: str) -> str:
        return topic_to_publish(self._settings.input.topic[0], device)

    def _acknowledge(self) -> None:
        """Write down what came, mark what is done, and only then acknowledge it."""
        done: list[int] = []
        while self._in_hand and not self._in_hand[0].waiting:
            done.append(self._numbers.pop(id(self._in_hand.popleft())))
        if self._unwritten or done:
            try:
                self._journal.write(self._unwritten, done)
            except sqlite3.Error as error:
                # A full disk is no reason to let patients unheard: only a crash would lose beats.
                self._say_unwritten(error)
            self._unwritten.clear()
        self._consumer.acknowledge()
        self._consumer.write()

    def _keep_house(self, now: float, monotonic: float) -> None:
        for device, stream, beats in self._streams.end_silent(monotonic):
            # That it ended is written down, too: the next process must not end it once more.
            end = Entry(self._journal.number(), device, stream.expected, b"", now, False)
            self._unwritten.append(end)
            in_hand = InHand(end.number, monotonic)
            self._publish(end, stream, Taken(beats), in_hand)
            if self._recorder is not None:
                self._record_beats(self._recorder, stream, beats)
                self._recorder.end(stream.number)
        self._mark_strips()
        self.lifecycle.publish_status(self._sender, self._consumer.trouble)
        self._consumer.measure()
        self._metrics.connected.set(self._consumer.connected and self._sender.connected)
        self._metrics.streams.set(len(self._streams))
        if monotonic >= self._next_trim:
            self._next_trim = monotonic + TRIM_INTERVAL
            try:
                self._journal.trim(now)
            except sqlite3.Error as error:  # a full disk has no room for what is deleted, either
                self._say_unwritten(error)


def run(settings: Settings) -> None:
    """Run the daemon with its metrics until it is told to stop.

    Raises:
        ConfigurationError: a setting, the journal or the address of the metrics cannot be used.
        Failure: SciPy or sleepecg is not installed.
    """
    try:
        topic_to_publish(settings.input.topic[0], "device")
    except UsageError as error:
        raise ConfigurationError(f"input.topic: {error}") from None
    metrics = SegmentMetrics(CollectorRegistry())
    daemon = SegmentDaemon(settings, metrics)
    address = settings.metrics.model_copy(update={"port": settings.segment.port})
    serve_site(address, health_and_metrics(metrics.registry, daemon.lifecycle))
    daemon.lifecycle.run(daemon)
