"""The metrics for Prometheus. Beats are counted in batches, which costs almost nothing."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from monitor import __version__
from monitor.alarms.kinds import KINDS
from monitor.alarms.patients import PROGRESS, STATES
from monitor.ecg.quality import FAULTS
from monitor.errors import REASONS

RATIO_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
SECONDS_BUCKETS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0)
BATCH_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096)
FIT_BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600)


class BatchHistogram(Collector):
    """A histogram that observes an array at a time."""

    def __init__(
        self, name: str, documentation: str, buckets: Iterable[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = np.array(tuple(buckets), np.float64)
        self._counts = np.zeros(len(self._bounds) + 1, np.int64)
        self._sum = 0.0
        registry.register(self)

    def observe(self, values: NDArray[np.float32]) -> None:
        """Count each of the values [N]."""
        places = np.searchsorted(self._bounds, values, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum(dtype=np.float64))

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Yield the current histogram."""
        totals = np.cumsum(self._counts).tolist()
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets=list(zip(bounds, totals, strict=True)), sum_value=self._sum)
        yield family


class ConnectionMetrics:
    """The metrics of a program's connections to the broker.

    All label values are known in advance, so every series starts at zero.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        # They would add a third more series, with the start time of the process.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.rejected = self._counter(
            "messages_rejected", "Messages that could not be decoded, by reason.", ("reason",)
        )
        self.times_rejected = self._counter(
            "times_rejected", "Messages whose time is too far from that of their arrival."
        )
        self.refused = self._counter("publishes_refused", "Publishes that the broker refused.")
        self.scores_dropped = self._counter(
            "scores_dropped",
            "Messages with scores dropped on a slow or broken network.",
        )
        self.connects = self._counter("mqtt_connects", "Connections that the broker accepted.")
        self.redelivered = self._counter(
            "messages_redelivered", "Messages that the broker marked as delivered before."
        )
        self.connected = self._gauge("mqtt_connected", "1 while the broker is connected.")
        self.standby = self._gauge(
            "standby", "1 while another program of this client ID is active."
        )
        self.unacknowledged = self._gauge(
            "unacknowledged_messages", "Messages received and not acknowledged yet."
        )
        self.oldest = self._gauge(
            "oldest_unacknowledged_seconds",
            "Age of the oldest unacknowledged message, or 0.",
        )
        self.build = self._gauge("build_info", "The version of the program.", ("version",))
        self.beat_to_alert = Histogram(
            "ecg_monitor_beat_to_alert_duration_seconds",
            "From reading a beat to the broker's acknowledgement of its alert.",
            registry=registry,
            buckets=SECONDS_BUCKETS,
        )
        self.build.labels(__version__).set(1)
        for reason in REASONS:
            self.rejected.labels(reason)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"ecg_monitor_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"ecg_monitor_{name}", text, labels, registry=self.registry)


class SegmentMetrics(ConnectionMetrics):
    """The metrics of the daemon for raw samples."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.chunks = self._counter("chunks_received", "Chunks of samples read from messages.")
        self.samples = self._counter("samples_received", "Samples of all leads.")
        self.lost = self._counter("samples_lost", "Samples that were missing or not finite.")
        self.cut = self._counter("beats_cut", "Beats cut from samples, lead off included.")
        self.streams_broken = self._counter(
            "streams_broken", "Streams that ended because a new one of the same device began."
        )
        self.unwritten = self._counter(
            "journal_failures", "Turns of the main loop in which the journal could not be written."
        )
        self.unrecorded = self._counter(
            "recording_failures", "Chunks and annotations that could not be recorded."
        )
        self.strips = self._counter("strips", "Strips of alarms that were published.")
        self.strips_dropped = self._counter(
            "strips_dropped", "Strips dropped because the broker did not take those before."
        )
        self.streams = self._gauge("streams", "Devices that send samples.")
        self.last_chunk = self._gauge(
            "last_chunk_timestamp_seconds", "Time of the last chunk; 0 before the first."
        )


class LearnMetrics(ConnectionMetrics):
    """The metrics of the learner of patients' models."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.beats = self._counter("learn_beats", "Beats collected, by quality.", ("quality",))
        self.fits = self._counter("learn_fits", "Fits that have ended, by outcome.", ("outcome",))
        self.patients = self._gauge("learn_patients", "Patients, by state.", ("state",))
        self.unwritten = self._counter(
            "journal_failures", "Turns of the main loop in which the journal could not be written."
        )
        self.fit = Histogram(
            "ecg_monitor_learn_fit_duration_seconds",
            "Time to fit a model and to write it.",
            registry=registry,
            buckets=FIT_BUCKETS,
        )
        for quality in ("good", "poor"):
            self.beats.labels(quality)
        for outcome in ("fitted", "refused", "unwritable", "died"):
            self.fits.labels(outcome)
        for state in PROGRESS:
            self.patients.labels(state)


class Metrics(ConnectionMetrics):
    """The metrics of the daemon for beats."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        counter, gauge = self._counter, self._gauge
        self.received = counter("beats_received", "Beats read from messages.")
        self.scored = counter("beats_scored", "Beats scored by the detector.")
        self.anomalous = counter("beats_anomalous", "Beats with a score above the threshold.")
        self.poor = counter("beats_poor", "Beats of poor signal quality, by fault.", ("fault",))
        self.alerts = counter("alerts", "Changes of alarms.", ("kind", "event", "priority"))
        self.recurring = counter(
            "alarms_recurring", "Alarms raised within a minute of their clearing."
        )
        self.judged = counter(
            "judged",
            "Judgements of alarms that were recorded; one that is revised counts again.",
            ("kind", "verdict"),
        )
        self.lost = counter("history_lost", "Alerts and actions that could not be stored.")
        self.patients = gauge(
            "patients",
            "Patients by what watches them, where models of their own are used.",
            ("state",),
        )
        self.relearn = gauge(
            "relearn_hints", "Patients whose normal beats have moved away from their own model."
        )
        self.notifications = counter(
            "notifications",
            "Calls of people: alarms delivered, calls that failed (and are made again), alarms "
            "missed, which ended before.",
            ("outcome",),
        )
        self.undelivered = gauge(
            "notifications_undelivered", "Alarms that somebody is to be called of, and cannot be."
        )
        for outcome in ("delivered", "failed", "missed"):
            self.notifications.labels(outcome)
        self.devices = gauge("devices", "Devices that send beats.")
        self.connection_lost = gauge(
            "devices_connection_lost", "Devices that fell silent together and are not heard yet."
        )
        self.alarms = gauge("alarms", "Open alarms.", ("kind", "priority"))
        self.last_beat = gauge(
            "last_beat_timestamp_seconds", "Time of the last beat; 0 before the first."
        )
        self.model = gauge("model_info", "The detectors in use.", ("name", "sha256"))
        self.ratio = BatchHistogram(
            "ecg_monitor_score_ratio", "Score over threshold.", RATIO_BUCKETS, registry
        )
        self.inference = Histogram(
            "ecg_monitor_inference_duration_seconds",
            "Time to score a batch.",
            registry=registry,
            buckets=SECONDS_BUCKETS,
        )
        self.batch = Histogram(
            "ecg_monitor_batch_beats",
            "Beats scored at once.",
            registry=registry,
            buckets=BATCH_BUCKETS,
        )
        for state in STATES:
            self.patients.labels(state)
        for fault in FAULTS:
            self.poor.labels(fault)
        for kind, (priorities, *_) in KINDS.items():
            for verdict in ("true", "false"):
                self.judged.labels(kind, verdict)
            for priority in priorities:
                self.alarms.labels(kind, priority)
                for event in ("raised", "escalated", "cleared"):
                    if event != "escalated" or priority != priorities[0]:
                        self.alerts.labels(kind, event, priority)
