"""The dashboards: held to the linter's rules, and every expression to the value it must give.

A real Prometheus scrapes a real daemon under a load that is known in every detail, so that each
expression has one right answer. Prometheus begins to look when the load is steady.
"""

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor import errors
from monitor.alarms import messages
from monitor.alarms.kinds import KINDS, RHYTHM_KINDS
from monitor.detector.model_file import Detector, shipped
from monitor.ecg import codec
from monitor.ecg.beat import BYTES
from monitor.ecg.segmenter import Segmenter
from monitor.ecg.simulator import Simulator
from monitor.mqtt import client
from monitor.settings import MqttSettings
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.prometheus import Labels, Prometheus
from tests.harness.signals import heart

FOLDER = Path(__file__).parents[2] / "docker" / "grafana" / "dashboards"
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the panels of every dashboard, without the headings of its rows."""
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                yield name, panel


def expressions() -> dict[tuple[str, str, str], str]:
    """Every expression by its dashboard, panel and letter."""
    return {
        (name, panel["title"], target["refId"]): target["expr"]
        for name, panel in panels()
        for target in panel["targets"]
    }


# -- the rules of Grafana's dashboard linter, https://github.com/grafana/dashboard-linter


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_has_variables_for_data_source_job_and_instance(name: str) -> None:
    dashboard = DASHBOARDS[name]
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert variables["datasource"]["label"] == "Data source"
    for which in ("job", "instance"):
        variable = variables[which]
        assert variable["type"] == "query"
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["label"] == which.title()
        assert variable["multi"]
        assert variable["allValue"] == ".+"
        assert variable["refresh"] == 2
    assert dashboard["editable"] is False
    links = {link["url"].removeprefix("/d/") for link in dashboard["links"]}
    assert links <= {other["uid"] for other in DASHBOARDS.values()} - {dashboard["uid"]}


@pytest.mark.parametrize(
    ("name", "panel"), [*panels()], ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_panel_says_what_it_shows_in_which_unit_and_from_where(
    name: str, panel: dict[str, Any]
) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert panel["targets"]
    others = [p["gridPos"] for p in DASHBOARDS[name]["panels"] if p["id"] != panel["id"]]
    own = panel["gridPos"]
    assert own["x"] + own["w"] <= 24
    for other in others:
        apart_x = other["x"] + other["w"] <= own["x"] or own["x"] + own["w"] <= other["x"]
        apart_y = other["y"] + other["h"] <= own["y"] or own["y"] + own["h"] <= other["y"]
        assert apart_x or apart_y, panel["title"]


@pytest.mark.parametrize("expression", [*expressions().values()])
def test_an_expression_can_be_narrowed_and_follows_the_zoom(expression: str) -> None:
    for selector in re.findall(r"ecg_monitor_\w+(\{[^}]*\})?", expression):
        assert 'job=~"$job", instance=~"$instance"' in selector
    for function, window in re.findall(r"(\w+)\([^()]*\[([^]]+)\]\)", expression):
        assert window == "$__rate_interval" or function not in ("rate", "irate")
    for counter in re.finditer(r"\b(\w+)\(ecg_monitor_\w+_total\b", expression):
        assert counter[1] in ("rate", "irate", "increase")


# -- the load

TICK = 0.1
"""Seconds between two beats of a device."""

CYCLE = 20
"""Beats after which what the devices do begins anew."""

WATCHED = 25
"""Seconds that Prometheus looks."""

LATE, ATTEMPTS = 0.5, 5
"""Seconds that a tick or a scrape may be late while Prometheus looks, and times that it looks. With
a machine that stands still the load is not the one that is known."""

RATE_INTERVAL = 10.0

BAD_MESSAGES: dict[str, bytes] = {
    "empty": b"",
    "length": b"12345",
    "json": b"[1, 2",
    "shape": b"[1, 2]",
    "time": messages.encode({"beats": [[0.0, 1.0] * 70], "time": "noon"}),
}
"""One a tick, in turn. What begins like JSON is said to be JSON."""

RAW_RATE = 100
"""Hertz of three devices that send raw samples, a chunk each tick."""

HEART, _ = heart(120, RAW_RATE)


@dataclass
class Load:
    """What the devices do, and what Prometheus saw of it."""

    prometheus: Prometheus
    at: float
    seen: float
    """Seconds from the first scrape to the last one."""
    ratios: tuple[float, float]
    """Score over threshold of the normal and of the ectopic beat."""

    def run(self, expression: str) -> dict[Labels, float]:
        """Execute an expression as Grafana would."""
        for variable, value in {
            "$__rate_interval": f"{RATE_INTERVAL:g}s",
            "$__range_s": f"{self.seen:g}",
            "$__range": f"{1000 * self.seen:.0f}ms",  # Prometheus takes whole numbers alone
            "$job": ".+",
            "$instance": ".+",
        }.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        return self.prometheus.query(expression, self.at)


def kind_of_beat(device: str, number: int) -> str | None:
    """What a device sends: normal, ectopic or flat beats, or nothing."""
    match device:
        case "normal":
            return "normal"
        case "flat":
            return "flat"
        case "ectopic":
            return "ectopic"
        case "alternating":
            return ("normal", "ectopic")[number % 2]
        case "chattering":  # raised with the third of 20 beats, cleared with the 13th
            return "ectopic" if number % CYCLE < 3 else "normal"
        case _:  # a device that falls silent
            return "normal" if number < 2 else None


JUDGED_FALSE = 3 / 4
"""Share of the judgements of the open anomaly, one a tick, that call it false."""

DEVICES = ("normal", "flat", "ectopic", "alternating", "chattering", "silent")


def typical_beats() -> tuple[dict[str, bytes], tuple[float, float]]:
    """A beat of each kind, and how far the normal and the ectopic one are from the threshold."""
    simulator = Simulator(1)
    detector = Detector(shipped("ecg"))
    assert detector.threshold > 0, "a score over a threshold says nothing where that is negative"
    found: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    ratios = []
    for draw, anomalous in ((simulator.normal, False), (simulator.ectopic, True)):
        beats = draw(50)
        scores = detector.score(beats).scores / detector.threshold
        right = np.flatnonzero(scores > 1.2 if anomalous else scores < 0.8)[0]
        found.append(beats[right])
        ratios.append(float(scores[right]))
    payloads = {
        "normal": found[0].astype("<f4").tobytes(),
        "ectopic": found[1].astype("<f4").tobytes(),
        "flat": bytes(BYTES),
    }
    return payloads, (ratios[0], ratios[1])


def play(url: str, payloads: dict[str, bytes], over: threading.Event, delays: list[float]) -> None:
    """Be all devices until it is over, each tick at its time, or `delays` seconds later."""
    ward = client.join(MqttSettings(broker=url), "ward")
    open_alarm: list[str] = []
    ward.on_message = lambda _client, _data, message: open_alarm.append(
        messages.decode_alert(message.payload).alarm
    )
    ward.subscribe("ecg/ectopic/alerts", qos=1)
    begun = time.monotonic()
    number = 0
    while not over.wait(max(0.0, begun + number * TICK - time.monotonic())):
        delays.append(time.monotonic() - begun - number * TICK)
        for device in DEVICES:
            kind = kind_of_beat(device, number)
            if kind is not None:
                ward.publish(f"ecg/{device}/beats", payloads[kind], qos=1)
        if open_alarm:
            request = {"id": open_alarm[0], "verdict": number % 4 == 0}
            ward.publish("ecg/ectopic/alarm/judge", messages.encode(request), qos=1)
        reason = list(BAD_MESSAGES)[number % len(BAD_MESSAGES)]
        bad = BAD_MESSAGES[reason]
        ward.publish("ecg/broken/beats", bad, qos=1, properties=_said_to_be_json(reason))
        for device, chunk in chunks(number).items():
            ward.publish(f"ecg/{device}/samples", chunk, qos=1)
        number += 1
    client.leave(ward)


def chunks(number: int) -> dict[str, bytes]:
    """Return what the devices that send raw samples send in a tick."""
    n = round(RAW_RATE * TICK)
    first = number * n
    samples = HEART[np.arange(first, first + n) % len(HEART)].tolist()
    message = {"rate": RAW_RATE, "seq": first}
    return {
        "heart": messages.encode(message | {"samples": samples}),
        "off": messages.encode(message | {"samples": [None] * n}),
        "odd": messages.encode(message | {"samples": "none"}),
    }


def _said_to_be_json(reason: str) -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if reason in ("json", "shape", "time"):
        properties.ContentType = codec.JSON_TYPE
    return properties


ALWAYS = """
groups:
  - name: test
    rules:
      - {alert: EcgMonitorTest, expr: ecg_monitor_devices > 1, labels: {severity: info}}
"""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    folder = tmp_path_factory.mktemp("load")
    payloads, ratios = typical_beats()
    over, delays = threading.Event(), list[float]()
    with (
        Mosquitto(folder) as broker,
        RunningDaemon(folder, broker.url, ALARM__SILENT_AFTER="2") as daemon,
        # Its beats go elsewhere, so that those of the monitor stay known.
        RunningDaemon(
            folder, broker.url, command="segment", INPUT__TOPIC="cut/{device}/beats"
        ) as segment,
    ):
        ward = threading.Thread(target=play, args=(broker.url, payloads, over, delays))
        ward.start()
        try:
            daemon.wait_until('ecg_monitor_alarms{kind="silent",priority="medium"}', 1)
            daemon.wait_until("ecg_monitor_alarms_recurring_total", 1)
            segment.wait_until("ecg_monitor_beats_cut_total", 10)
            for attempt in range(1, ATTEMPTS + 1):
                own = folder / str(attempt)
                own.mkdir()
                with Prometheus(own, daemon.address, ALWAYS, segment.address) as prometheus:
                    delays.clear()
                    prometheus.wait_for("max(count_over_time(up[1h]))", WATCHED)
                    at = time.time()
                    scrapes = prometheus.query(
                        "max(max_over_time(scrape_duration_seconds[1h]))", at
                    )
                    if max(*delays, *scrapes.values()) > LATE and attempt < ATTEMPTS:
                        continue
                    stamps = prometheus.ask("query", query="ecg_monitor_devices[1h]", time=at)
                    times = [float(stamp) for stamp, _ in stamps["result"][0]["values"]]
                    yield Load(prometheus, at, times[-1] - times[0], ratios)
                    break
        finally:
            over.set()
            ward.join()


# -- what must come out

A_SECOND = 1 / TICK
RECEIVED = 5 * A_SECOND
SCORED = 4 * A_SECOND
ANOMALOUS = (1 + 1 / 2 + 3 / CYCLE) * A_SECOND
CYCLES = A_SECOND / CYCLE
"""Cycles a second, and so alarms that the chattering device raises, and clears."""

OPEN_ANOMALIES = 2 + 10 / CYCLE
"""Open alarms for an anomaly: two stand, and one is open for 10 of 20 beats."""

HEARD = 5

HERE = frozenset({("partition", "0")})


def one(value: float, **tolerance: float) -> dict[Labels, Any]:
    return {frozenset(): near(value, **tolerance)}


def near(value: float, rel: float = 0.12, abs: float = 1e-9) -> Any:  # noqa: A002
    return pytest.approx(value, rel=rel, abs=abs)


def by(label: str, **values: Any) -> dict[Labels, Any]:
    return {
        frozenset({(label, name.replace("_", "-") if label == "kind" else name)}): value
        for name, value in values.items()
    }


def kinds(anomaly: float, signal_quality: float = 0.0, silent: float = 0.0) -> dict[Labels, Any]:
    happening = {"anomaly": anomaly, "signal-quality": signal_quality, "silent": silent}
    return by("kind", **{kind: near(happening.get(kind, 0.0)) for kind in KINDS})


def buckets(load: Load) -> dict[Labels, Any]:
    """How the ratios of two known beats fall into the buckets, in an interval."""
    normal, ectopic = load.ratios
    text = load.run("sum by (le) (ecg_monitor_score_ratio_bucket)")
    expected: dict[Labels, Any] = {}
    for labels in text:
        bound = float(dict(labels)["le"])
        beats = (SCORED - ANOMALOUS) * (normal <= bound) + ANOMALOUS * (ectopic <= bound)
        expected[labels] = near(beats * RATE_INTERVAL)
    return expected


def expected(load: Load) -> dict[tuple[str, str, str], dict[Labels, Any]]:
    """The values that the load implies, for every expression of every dashboard."""
    hour = load.seen  # of the hour before, so much was seen
    raised = CYCLES * hour
    open_alarms = OPEN_ANOMALIES + 2
    now = {"medium": near(3.5, abs=0.5), "high": near(1), "low": near(0)}
    detector = Detector(shipped("ecg"))
    latency = load.run("sum by (le) (ecg_monitor_beat_to_alert_duration_seconds_bucket)")
    o, b = "overview", "alarm-burden"
    return {
        (o, "Broker", "A"): one(1),
        (o, "Devices", "A"): one(HEARD),
        (o, "High priority", "A"): one(1),
        (o, "Open alarms", "A"): one(4.5, abs=0.5),
        (o, "Since the last beat", "A"): one(1.0, abs=1.0),
        (o, "Behind", "A"): one(0.0, abs=0.5),
        (o, "Beats a second", "A"): one(RECEIVED),
        (o, "Beats a second", "B"): one(SCORED),
        (o, "Share of anomalous beats", "A"): one(ANOMALOUS / SCORED, rel=0.02),
        (o, "Alarms by priority", "A"): by("priority", **now),
        (o, "Alarms an hour", "A"): kinds(raised),
        # One alert of the chattering device is raised and one cleared in each cycle.
        (o, "Beat to alert", "A"): {
            labels: near(2 * CYCLES * RATE_INTERVAL, abs=2)
            if float(dict(labels)["le"]) >= 0.5
            else near(CYCLES * RATE_INTERVAL, abs=CYCLES * RATE_INTERVAL + 2)
            for labels in latency
        },
        (o, "Score ratio", "A"): buckets(load),
        (o, "Rejected messages", "A"): by(
            "reason",
            **{
                reason: near(
                    A_SECOND * ((reason in BAD_MESSAGES) / len(BAD_MESSAGES) + (reason == "shape"))
                )
                for reason in errors.REASONS
            },
        ),
        (o, "Beats of poor quality", "A"): by(
            "fault",
            flat=near(A_SECOND),
            saturated=near(0),
            not_finite=near(0),
            noise=near(0),
            scale=near(0),
        ),
        (o, "How far behind", "A"): one(0.0, abs=20),
        (o, "Connections", "A"): one(0),
        (o, "Connections", "B"): one(0),
        (o, "Connections", "C"): one(0),
        (o, "Time to score a batch", "A"): one(0.001, abs=0.01),
        (o, "What runs", "A"): {frozenset({("version", version()), *HERE}): 1},
        (o, "What runs", "B"): {
            frozenset({("name", detector.name), ("sha256", detector.sha256), *HERE}): 1
        },
        (o, "Streams", "A"): one(2),
        (o, "Chunks a second", "A"): one(2 * A_SECOND),
        (o, "Beats cut a second", "A"): one(beats_cut_a_second(), rel=0.2),
        (o, "Beats cut a second", "B"): one(0),
        (o, "Lost samples", "A"): one(1 / 2, rel=0.02),
        (o, "Chunks not acknowledged", "A"): one(0.0, abs=20),
        (o, "Chunks not acknowledged", "B"): one(0),
        (o, "Rejected chunks", "A"): by(
            "reason",
            **{reason: near(A_SECOND * (reason == "shape")) for reason in errors.REASONS},
        ),
        (o, "Active daemons", "A"): {HERE: 1},
        (o, "Standbys", "A"): {HERE: 0},
        (o, "Devices, by partition", "A"): {HERE: HEARD},
        (o, "Beats a second, by partition", "A"): {HERE: near(RECEIVED)},
        (o, "Behind, by partition", "A"): {HERE: near(0.0, abs=0.5)},
        (b, "Alarms an hour a device", "A"): one(3600 * CYCLES / HEARD),
        (b, "Time in alarm", "A"): one(open_alarms / HEARD),
        (b, "Chatter", "A"): one(1),
        (b, "Length of an alarm", "A"): one(open_alarms / CYCLES),
        (b, "Alarms an hour a device, by kind", "A"): kinds(raised / HEARD),
        (b, "Time in alarm, by kind", "A"): kinds(OPEN_ANOMALIES / HEARD, 1 / HEARD, 1 / HEARD),
        (b, "Alarms that come again", "A"): one(raised),
        (b, "Raised, by priority", "A"): by(
            "priority", medium=near(raised), high=near(0), low=near(0)
        ),
        (b, "Raised, escalated and cleared", "A"): by(
            "event",
            raised=near(3600 * CYCLES),
            escalated=near(0),
            cleared=near(3600 * CYCLES),
        ),
        (b, "Judged false, by kind", "A"): by("kind", anomaly=near(JUDGED_FALSE, abs=0.02)),
        (b, "Alarms in ten minutes", "A"): one(raised),
        # Of the 25 s that were seen, at most the last 5 have more than ten alarms behind them.
        (b, "Time in flood", "A"): one(0.2, abs=0.3),
        (b, "Shares of the priorities", "A"): by(
            "priority", medium=near(1), high=near(0), low=near(0)
        ),
        (b, "Open alarms", "A"): by(
            "kind",
            **dict.fromkeys(RHYTHM_KINDS, 0),
            anomaly=near(2.5, abs=0.5),
            signal_quality=1,
            silent=1,
        ),
    }


def beats_cut_a_second() -> float:
    """Return how many beats the samples hold, those of the lead that is off among them."""
    signals = (HEART, np.full_like(HEART, np.nan))
    number = sum(len(Segmenter(RAW_RATE).feed(signal)) for signal in signals)
    return number / (len(HEART) / RAW_RATE)


def version() -> str:
    from monitor import __version__

    return __version__


def test_every_expression_gives_what_the_load_implies(load: Load) -> None:
    right = expected(load)
    found = {key: load.run(expression) for key, expression in expressions().items()}
    assert found.keys() == right.keys()
    wrong = {key: (found[key], right[key]) for key in found if found[key] != right[key]}
    assert not wrong, "\n".join(f"{key}: {f}\n  not {r}" for key, (f, r) in wrong.items())


def test_the_latency_of_a_quiet_daemon_is_in_the_first_buckets(load: Load) -> None:
    quick = load.run('sum(ecg_monitor_beat_to_alert_duration_seconds_bucket{le="0.1"})')
    every = load.run("sum(ecg_monitor_beat_to_alert_duration_seconds_count)")
    assert quick[frozenset()] >= 0.8 * every[frozenset()] > 0


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_and_annotations_find_what_is_there(load: Load, name: str) -> None:
    dashboard = DASHBOARDS[name]
    for variable in dashboard["templating"]["list"][1:]:
        metric, label = re.fullmatch(
            r"label_values\((.+), (\w+)\)", variable["query"]["query"]
        ).groups()  # type: ignore[union-attr]
        series = {"match[]": metric.replace("$job", ".+")}
        values = load.prometheus.ask(f"label/{label}/values", **series)
        assert label == variable["name"]
        if label == "job":
            assert values == ["ecg-monitor", "ecg-monitor-segment"]
        else:
            assert len(values) == 2
            assert all(value.startswith("127.0.0.1:") for value in values)
    (annotation,) = dashboard["annotations"]["list"]
    (firing,) = load.run(annotation["expr"])
    assert dict(firing) == {
        "alertname": "EcgMonitorTest",
        "alertstate": "firing",
        "severity": "info",
        "partition": "0",
    }
