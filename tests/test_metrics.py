"""Metrics: the same histogram as the library's, few series, each at zero from the start."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitor import __version__
from monitor.alarms.kinds import KINDS
from monitor.metrics import RATIO_BUCKETS, BatchHistogram, Metrics


@given(
    st.lists(
        st.lists(
            st.sampled_from([np.float32(bound).item() for bound in RATIO_BUCKETS])
            | st.floats(-1e6, 1e6, width=32),
            max_size=30,
        ),
        max_size=5,
    )
)
def test_a_histogram_by_the_batch_is_the_library_s_own(batches: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    batched = BatchHistogram("ratio", "Score over threshold.", RATIO_BUCKETS, ours)
    single = Histogram("ratio", "Score over threshold.", registry=theirs, buckets=RATIO_BUCKETS)
    for batch in batches:
        batched.observe(np.array(batch, np.float32))
        for value in batch:
            single.observe(value)

    def samples(registry: CollectorRegistry) -> dict[Any, float]:
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    assert samples(ours) == pytest.approx(samples(theirs), rel=1e-9, abs=1e-6)
    lines = [
        [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
        for registry in (ours, theirs)
    ]
    assert [line.split(" ")[0] for line in lines[0]] == [line.split(" ")[0] for line in lines[1]]


NAMES = {
    *("beats_received_total", "beats_scored_total", "beats_anomalous_total"),
    *("messages_rejected_total", "alerts_total", "mqtt_connects_total"),
    *("messages_redelivered_total", "mqtt_connected", "devices", "alarms"),
    *("unacknowledged_messages", "last_beat_timestamp_seconds", "build_info"),
    *("score_ratio_count", "score_ratio_sum", "score_ratio_bucket"),
    *("inference_duration_seconds_count", "batch_beats_count"),
    "beat_to_alert_duration_seconds_count",
}


def exposition(metrics: Metrics) -> list[str]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_every_series_stands_at_zero_from_the_start() -> None:
    metrics = Metrics(CollectorRegistry())
    samples = [
        sample
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
    ]
    assert all(sample.name.startswith("ecg_monitor_") for sample in samples)
    assert {f"ecg_monitor_{name}" for name in NAMES} <= {sample.name for sample in samples}
    for sample in samples:
        if sample.name == "ecg_monitor_build_info":
            assert sample.labels == {"version": __version__}
        else:
            assert sample.value == 0
    get = metrics.registry.get_sample_value
    reasons = ("empty", "length", "json", "shape", "not_finite", "time", "topic", "retained")
    for reason in (*reasons, "unsubscribed"):
        assert get("ecg_monitor_messages_rejected_total", {"reason": reason}) == 0
    raised = {"kind": "anomaly", "event": "raised", "priority": "medium"}
    assert get("ecg_monitor_alerts_total", raised) == 0
    assert get("ecg_monitor_alarms", {"kind": "silent", "priority": "medium"}) == 0
    for kind in KINDS:
        assert get("ecg_monitor_judged_total", {"kind": kind, "verdict": "false"}) == 0


def test_there_are_fewer_than_150_series() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.model.labels("ecg", "0" * 64).set(1)
    assert len(exposition(metrics)) < 150
