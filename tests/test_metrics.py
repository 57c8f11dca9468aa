"""Metrics and health: the same histogram as the library's, few series, honest answers."""

import http.client
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitor import __version__
from monitor.metrics import RATIO_BUCKETS, BatchHistogram, Metrics
from monitor.program import ConfigurationError
from monitor.web import serve


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
    for reason in ("empty", "length", "json", "shape", "not_finite", "time", "topic", "retained"):
        assert get("ecg_monitor_messages_rejected_total", {"reason": reason}) == 0
    raised = {"kind": "anomaly", "event": "raised", "priority": "medium"}
    assert get("ecg_monitor_alerts_total", raised) == 0
    assert get("ecg_monitor_alarms", {"kind": "silent", "priority": "medium"}) == 0


def test_there_are_fewer_than_a_hundred_series() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.model.labels("ecg", "0" * 64).set(1)
    assert len(exposition(metrics)) < 100


# -- over HTTP


class Server:
    """What is served, and what it answers."""

    def __init__(self, health: Callable[[], str | None]) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.host, self.port = serve("127.0.0.1", 0, self.metrics.registry, health)

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, str, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=5)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            return answer.status, answer.headers["Content-Type"], body, dict(answer.headers)
        finally:
            connection.close()


@pytest.fixture
def trouble() -> list[str | None]:
    return [None]


@pytest.fixture
def server(trouble: list[str | None]) -> Server:
    return Server(lambda: trouble[0])


def test_metrics_are_served_as_they_stand(server: Server) -> None:
    server.metrics.received.inc(7)
    status, kind, body, _ = server.ask("/metrics")
    assert status == 200
    assert kind.startswith("text/plain")
    assert b"\necg_monitor_beats_received_total 7.0\n" in body
    status, kind, body, _ = server.ask("/metrics?x=1", Accept="application/openmetrics-text")
    assert status == 200
    assert kind.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_health_tells_what_is_wrong(server: Server, trouble: list[str | None]) -> None:
    assert server.ask("/healthz")[:3] == (200, "text/plain; charset=utf-8", b"ok\n")
    trouble[0] = "no connection to host:1883: refused é"
    status, _, body, _ = server.ask("/healthz")
    assert (status, body.decode()) == (503, "no connection to host:1883: refused é\n")
    trouble[0] = None
    assert server.ask("/healthz")[0] == 200


@pytest.mark.parametrize("path", ["/", "/metric", "/metrics/", "/healthz/x", "/%00", "/%e9"])
def test_other_pages_are_not_there_and_it_says_which_are(server: Server, path: str) -> None:
    status, _, body, _ = server.ask(path)
    assert (status, body) == (404, b"there are /metrics, /healthz\n")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/nowhere"])
def test_head_is_get_without_the_body(server: Server, trouble: list[str | None], path: str) -> None:
    trouble[0] = "gone"
    got, head = server.ask(path), server.ask(path, "HEAD")
    assert (got[0], got[1]) == (head[0], head[1])
    assert got[3]["Content-Length"] == head[3]["Content-Length"] == str(len(got[2]))
    assert head[2] == b""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    assert server.ask("/metrics", method)[0] == 501


def test_it_says_nothing_of_python(server: Server) -> None:
    assert server.ask("/metrics")[3]["Server"].strip() == "ecg-monitor"


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "\udcff", "é" * 300, "x" * 300])
def test_an_address_that_cannot_be_bound_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"metrics\.host = ") as refused:
        serve(host, 0, CollectorRegistry(), lambda: None)
    assert "\n" not in str(refused.value)


def test_a_port_that_is_taken_is_a_wrong_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"metrics.port = {port}: cannot be bound"):
            serve("127.0.0.1", port, CollectorRegistry(), lambda: None)
