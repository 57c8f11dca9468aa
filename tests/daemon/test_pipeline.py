"""One batch in, decisions out: the same as one beat at a time, and nothing lost of the others."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from monitor.alarms import messages
from monitor.alarms.decisions import Alarms, Policy, Rhythm
from monitor.alarms.device import as_it_stands
from monitor.alarms.kinds import ANOMALOUS, ATYPICAL, NORMAL, POOR, VENTRICULAR
from monitor.daemon.changes import Changes
from monitor.daemon.pipeline import SMALL_BATCH, Pipeline, ScoredBatch, scores
from monitor.daemon.sinks import MetricsSink
from monitor.detector.model_file import Scored
from monitor.detector.per_device import Detectors
from monitor.ecg import quality
from monitor.ecg.beat import Beats, fingerprints
from monitor.metrics import Metrics
from monitor.mqtt.beat_consumer import Message
from monitor.settings import ModelSettings, MqttSettings
from monitor.times import EARLIEST, LATEST, MARGIN, from_rfc3339, rfc3339, seconds
from monitor.topics import Topics
from tests.detector.test_model_file import CARD_OF_A_DETECTOR, hearing, write

NOW = 1_750_000_000.0
POLICY = Policy(window=8, raise_at=3, clear_at=0)
WAVE = np.sin(np.linspace(0, 6, 140)).astype(np.float32)
ODD = np.where(np.arange(140) % 20 < 10, 8.0, -8.0).astype(np.float32) + 0.01 * WAVE
FLAT = np.zeros(140, np.float32)


@pytest.fixture(scope="module")
def detectors() -> Detectors:
    """The shipped detector, with the threshold between the two shapes."""
    detectors = Detectors(ModelSettings())
    low, high = detectors.default.score(np.stack([WAVE, ODD]))[0]
    assert low < high
    detectors.default.threshold = float(low + high) / 2
    return detectors


def pipeline(detectors: Detectors, alarms: Alarms | None = None) -> Pipeline:
    return Pipeline(Topics(["ecg/{device}/beats"]), "auto", detectors, alarms or Alarms(POLICY))


def message(
    beats: list[NDArray[np.float32]],
    device: str = "bed-1",
    seq: int | None = None,
    redelivered: bool = False,
    arrived: float = 0.0,
) -> Message:
    if seq is None:
        payload = np.stack(beats).astype("<f4").tobytes()
    else:
        payload = msgspec.json.encode({"seq": seq, "beats": [beat.tolist() for beat in beats]})
    return raw(payload, f"ecg/{device}/beats".encode(), redelivered, arrived)


def raw(
    payload: bytes,
    topic: bytes = b"ecg/bed-1/beats",
    redelivered: bool = False,
    arrived: float = 0.0,
) -> Message:
    return Message(topic, payload, None, 1, 0, arrived, redelivered)


def process(pipe: Pipeline, received: list[Message]) -> tuple[ScoredBatch, Changes]:
    batch = pipe.score(received, NOW)
    return batch, pipe.decide(batch, NOW)


def events(changes: Changes) -> list[tuple[str, str, str]]:
    return [(e.decision.device, e.decision.kind, e.decision.event) for e in changes.events]


def test_good_beats_change_nothing(detectors: Detectors) -> None:
    batch, changes = process(pipeline(detectors), [message([WAVE] * 3), message([WAVE], "bed-2")])
    assert batch.verdicts == bytes([NORMAL] * 4)
    assert [(each.device, each.start, each.stop) for each in batch.messages] == [
        ("bed-1", 0, 3),
        ("bed-2", 3, 4),
    ]
    assert (changes.events, changes.unsaved, batch.rejected) == ([], {}, [])


def test_an_alarm_carries_its_evidence_its_cause_and_its_moment(detectors: Detectors) -> None:
    cause = message([WAVE, ODD, ODD, ODD])
    batch, changes = process(pipeline(detectors), [message([WAVE], "bed-2"), cause])
    assert events(changes) == [("bed-1", "anomaly", "raised")]
    (event,) = changes.events
    assert event.cause is cause
    assert event.alert.score == pytest.approx(float(batch.scored.scores[4]))
    assert event.alert.beat == ODD.tolist()
    assert event.alert.reconstruction == batch.scored.reconstructions[4].tolist()
    assert from_rfc3339(event.alert.time) == NOW
    assert msgspec.json.decode(event.payload)["id"] == event.decision.id
    assert changes.unsaved == {"bed-1": cause}
    assert not event.deferred


def test_the_first_message_that_changed_an_alarm_waits_for_its_save(detectors: Detectors) -> None:
    first, second = message([ODD] * 3), message([ODD] * 5)
    _, changes = process(pipeline(detectors), [first, second])
    assert [event.cause for event in changes.events] == [first, second]
    assert changes.unsaved["bed-1"] is first


def test_what_cannot_be_understood_costs_nobody_else_a_beat(detectors: Detectors) -> None:
    infinite = WAVE.copy()
    infinite[7] = np.inf
    received = [
        raw(b"{"),
        message([ODD] * 3),
        raw(b"123"),
        raw(b""),
        raw(WAVE.tobytes(), b"ecg/\xff/beats"),
        message([infinite, WAVE], "bed-2"),
    ]
    batch, changes = process(pipeline(detectors), received)
    assert [each.reason for each in batch.rejected] == [
        "json",
        "length",
        "empty",
        "topic",
        "not_finite",
    ]
    assert events(changes) == [("bed-1", "anomaly", "raised")]
    assert batch.verdicts == bytes([ANOMALOUS] * 3 + [POOR, NORMAL])
    published = {each.device: len(each.scores) for each in scores(batch, NOW)}
    assert published == {"bed-1": 3, "bed-2": 1}


def test_a_batch_of_nothing_but_rubbish_decides_nothing(detectors: Detectors) -> None:
    batch, changes = process(pipeline(detectors), [raw(b"{"), raw(b"")])
    assert (len(batch.rejected), len(batch.samples), batch.verdicts) == (2, 0, b"")
    assert changes == Changes()
    assert scores(batch, NOW) == []


def test_poor_beats_raise_an_alarm_of_their_own_without_a_score(detectors: Detectors) -> None:
    _, changes = process(pipeline(detectors), [message([FLAT] * 3)])
    assert events(changes) == [("bed-1", "signal-quality", "raised")]
    alert = changes.events[0].alert
    assert (alert.score, alert.reconstruction, alert.beat) == (None, None, FLAT.tolist())


def test_an_alert_of_the_rhythm_says_what_it_is_about_and_others_do_not(
    detectors: Detectors,
) -> None:
    alarms, changes = Alarms(Policy()), Changes()
    device = alarms.hear("bed-1", 0.0)
    finding = Rhythm("asystole", "high", NOW, pause_s=5.2)
    (decision,) = alarms.hear_rhythm("bed-1", device, finding, NOW + 5)
    changes.add(decision, NOW + 5, detectors.for_device("bed-1"))
    alert = msgspec.json.decode(changes.events[0].payload)
    assert (alert["kind"], alert["pause_s"], "heart_rate" in alert) == ("asystole", 5.2, False)
    assert alert["since"] < alert["time"]


def test_a_redelivered_message_counts_once(detectors: Detectors) -> None:
    pipe = pipeline(detectors)
    process(pipe, [message([WAVE, ODD])])
    _, changes = process(pipe, [message([WAVE, ODD], redelivered=True)] * 5)
    assert changes.events == []
    _, changes = process(pipe, [message([ODD, ODD])])
    assert [(e.decision.event, e.decision.anomalous) for e in changes.events] == [("raised", 3)]


def test_to_a_threshold_of_0_no_score_has_a_ratio() -> None:
    sink = MetricsSink(metrics := Metrics(CollectorRegistry()))
    for threshold in (0.0, 0.5):
        pipe = pipeline(Detectors(ModelSettings(threshold=threshold)))
        batch, changes = process(pipe, [message([WAVE, ODD])])
        sink.count(batch, changes, NOW)
    total = metrics.registry.get_sample_value("ecg_monitor_score_ratio_sum")
    assert total == pytest.approx(float(batch.scored.scores.sum()) / 0.5)
    assert metrics.registry.get_sample_value("ecg_monitor_score_ratio_count") == 2


def test_each_beat_is_saved_only_in_a_small_batch(detectors: Detectors) -> None:
    for others, expected in ((SMALL_BATCH - 1, {"bed-1"}), (SMALL_BATCH, set())):
        pipe = pipeline(detectors)
        process(pipe, [message([ODD])])
        pipe._alarms.devices["bed-1"].unsaved = False
        received = [message([WAVE], f"other-{i}") for i in range(others)]
        _, changes = process(pipe, [message([WAVE]), *received])
        assert set(changes.unsaved) == expected


def test_under_a_backlog_only_changes_of_an_alarm_are_saved(detectors: Detectors) -> None:
    pipe = pipeline(detectors)
    others = [message([WAVE], f"other-{i}") for i in range(SMALL_BATCH)]
    batch = pipe.score([message([ODD]), *others], NOW)
    assert pipe.decide(batch, NOW, skip_saves=True).unsaved == {}
    batch = pipe.score([message([ODD, ODD]), *others], NOW)
    assert set(pipe.decide(batch, NOW, skip_saves=True).unsaved) == {"bed-1"}


def test_devices_are_announced_with_their_alarm(detectors: Detectors) -> None:
    pipe = pipeline(detectors)
    batch = pipe.score([message([WAVE], "bed-1"), message([WAVE], "bed-2")] * 2, NOW)
    changes = pipe.decide(batch, NOW, announced={"bed-2"})
    assert list(changes.unannounced) == ["bed-1"]
    assert list(changes.unsaved) == ["bed-1"]


def one_at_a_time(detectors: Detectors, received: list[Message]) -> list[tuple[object, ...]]:
    """Return what is decided where each beat is scored and taken in on its own."""
    alarms = Alarms(POLICY)
    decided: list[tuple[object, ...]] = []
    for each in received:
        name = each.topic.decode().split("/")[1]
        if each.payload.startswith(b'{"'):
            content = msgspec.json.decode(each.payload)
            beats, seq = np.array(content["beats"], np.float32), content["seq"]
        else:
            beats, seq = np.frombuffer(each.payload, np.float32).reshape(-1, 140), None
        for i, beat in enumerate(beats):
            score = detectors.default.score(beat[None])[0][0]
            poor = quality.assess(beat[None])[0] != quality.GOOD or not np.isfinite(score)
            verdict = POOR if poor else int(score > detectors.default.threshold)
            number = None if seq is None else seq + i
            key = Beats(beat.tobytes(), number).keys(fingerprints(beat[None]).tolist(), [NOW])
            device = alarms.hear(name, each.arrived)
            decided += [
                (*decision._replace(beat=None), each)
                for decision in alarms.observe(
                    name, device, bytes([verdict]), key, [NOW], number, each.redelivered
                )
            ]
    return decided


@pytest.mark.parametrize("seed", range(5))
def test_batches_decide_as_a_plain_loop_over_the_beats_does(
    detectors: Detectors, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.daemon.pipeline.LARGE_BATCH", 64)
    draw = np.random.default_rng(seed)
    numbers = {"bed-2": 0, "bed-4": 0}
    received: list[Message] = []
    for moment in range(150):
        name = f"bed-{draw.integers(1, 5)}"
        shapes = [WAVE, ODD, FLAT] if (moment // 25) % 2 else [WAVE, WAVE]
        beats = [
            (shapes[draw.integers(len(shapes))] * draw.uniform(0.95, 1.05)).astype(np.float32)
            for _ in range(draw.integers(1, 6))
        ]
        seq = numbers.get(name)
        if seq is not None:
            numbers[name] += len(beats)
        sent = message(beats, name, seq, arrived=float(moment))
        received.append(sent)
        if draw.random() < 0.2:
            again = Message(sent.topic, sent.payload, None, 2, 0, float(moment), True)
            received.append(again)
    pipe, decided = pipeline(detectors), []
    at = 0
    while at < len(received):
        size = int(draw.integers(1, 40))
        _, changes = process(pipe, received[at : at + size])
        decided += [(*e.decision._replace(beat=None), e.cause) for e in changes.events]
        at += size
    assert decided == one_at_a_time(detectors, received)
    assert {"anomaly", "signal-quality"} <= {each[4] for each in decided}
    assert {"raised", "cleared"} <= {each[3] for each in decided}


@pytest.fixture
def hearing_pipeline(tmp_path: Path) -> Pipeline:
    """Bed-1 has a model that scores by the last RR interval, the others the one that ships."""
    path = write(tmp_path / "hearing.onnx", hearing(), CARD_OF_A_DETECTOR)
    return pipeline(Detectors(ModelSettings(devices={"bed-1": path})))


def timed(
    rr_ms: list[float], seq: int, device: str = "bed-1", redelivered: bool = False
) -> Message:
    beats = [WAVE.tolist()] * len(rr_ms)
    payload = msgspec.json.encode({"seq": seq, "beats": beats, "rr_ms": rr_ms})
    return raw(payload, f"ecg/{device}/beats".encode(), redelivered)


def rows(pipe: Pipeline, received: list[Message]) -> list[list[float]]:
    """Return the RR intervals that the detector is told, as far as they are known."""
    told: list[NDArray[np.float32]] = []
    detector = pipe._detectors.for_device("bed-1")
    own = detector.score

    def score(beats: NDArray[np.float32], rr: NDArray[np.float32]) -> Scored:
        told.append(rr)
        return own(beats, rr)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "score", score)
        process(pipe, received)
    return [[float(interval) for interval in row if interval] for row in np.concatenate(told)]


def test_a_detector_that_hears_the_rhythm_is_told_the_intervals_before_each_beat(
    hearing_pipeline: Pipeline,
) -> None:
    received = [timed([0, 810], 1), timed([500], 1, "bed-2"), timed([820], 3)]
    assert rows(hearing_pipeline, received) == [[], [810], [820, 810]]
    assert rows(hearing_pipeline, [message([WAVE]), timed([830, 840], 4)]) == [
        [820, 810],
        [830, 820, 810],
        [840, 830, 820, 810],
    ]


def test_a_message_that_comes_again_is_not_heard_again(hearing_pipeline: Pipeline) -> None:
    one, two = [timed([800 + i, 900 + i], 2 * i) for i in (1, 2)]
    assert rows(hearing_pipeline, [one, one]) == [[801], [901, 801], [], []]
    again = timed([801, 901], 2, redelivered=True)
    assert rows(hearing_pipeline, [again, two]) == [[], [], [802, 901, 801], [902, 802, 901, 801]]


def test_a_beat_that_a_detector_calls_ventricular_is_one(hearing_pipeline: Pipeline) -> None:
    # Its score is the last interval, and a tenth of it the chance of a ventricular beat.
    hearing_pipeline._detectors.for_device("bed-1").threshold = 5.0
    sent = [timed([0, 8, 4, 0], 1), timed([8], 1, "bed-2")]
    batch, _ = process(hearing_pipeline, sent)
    assert batch.verdicts == bytes([NORMAL, VENTRICULAR, NORMAL, NORMAL, batch.verdicts[4]])
    assert batch.verdicts[4] in (NORMAL, ANOMALOUS)
    hearing_pipeline._detectors.for_device("bed-1").threshold = 2.0
    batch, _ = process(hearing_pipeline, [timed([4, 8], 5)])
    assert batch.verdicts == bytes([ATYPICAL, VENTRICULAR])


DAY = 86400.0


def dated(time: object, **more: object) -> Message:
    return raw(msgspec.json.encode({"beats": [ODD.tolist()] * 3, "time": time} | more))


@pytest.mark.parametrize(
    ("time", "believed"),
    [
        (1000 * (NOW - 3), True),
        (1000 * (NOW + 60), True),  # its clock is a minute fast
        (1000 * (NOW - 6 * DAY), True),  # a broker held it back
        (NOW, False),  # seconds, taken for milliseconds
        (1e6 * NOW, None),  # microseconds
        (0, False),  # a clock that was never set
        ("2000-01-01T00:03:12Z", False),
        (1000 * (NOW + 3600), False),
        (1000 * (NOW + 3 * 365 * DAY), False),
        (1000 * (NOW - 8 * DAY), False),
    ],
)
def test_a_time_far_from_the_arrival_is_not_believed(
    detectors: Detectors, time: float | str, believed: bool | None
) -> None:
    batch, changes = process(pipeline(detectors), [dated(time, rr_ms=[800, 800, 800])])
    if believed is None:  # out of the range of RFC 3339
        assert [each.reason for each in batch.rejected] == ["time"]
        return
    (event,) = changes.events
    assert (event.decision.kind, event.decision.event) == ("anomaly", "raised")
    given = seconds(time)
    assert given is not None
    if believed:
        assert abs(from_rfc3339(event.alert.time) - given) < 3
        assert batch.misdated == []
    else:
        assert event.alert.time == rfc3339(NOW)
        assert batch.misdated == [("bed-1", given)]


def test_a_broker_may_hold_a_message_back_as_long_as_its_session_lasts(
    detectors: Detectors,
) -> None:
    topics = Topics(["ecg/{device}/beats"])
    longest = MqttSettings(session_expiry=30 * 86400).longest_held
    pipe = Pipeline(topics, "auto", detectors, Alarms(POLICY), longest_held=longest)
    batch, _ = process(pipe, [dated(1000 * (NOW - 29 * DAY)), dated(1000 * (NOW - 31 * DAY))])
    assert len(batch.misdated) == 1
    assert MqttSettings(session_expiry=0).longest_held == 7 * DAY
    assert MqttSettings(session_expiry=0xFFFFFFFF).longest_held < 367 * DAY


def test_a_beat_with_a_wrong_time_is_known_again_when_it_is_redelivered(
    detectors: Detectors,
) -> None:
    pipe = pipeline(detectors)
    process(pipe, [dated(0)])
    again = dated(0)
    again.redelivered = True
    batch = pipe.score([again], NOW + 3600)
    assert pipe.decide(batch, NOW + 3600).events == []


def test_an_arrhythmia_began_when_it_can_have_begun(detectors: Detectors) -> None:
    for time, since, expected in (
        (NOW, NOW - 60, NOW - 60),
        (NOW, NOW - 30 * DAY, NOW - 30 * DAY),
        (5000.0, 4940.0, NOW - 60),  # by the same clock, which was never set
        (NOW, 4940.0, NOW),
        (NOW, NOW + 3600, NOW),
    ):
        rhythm = [{"kind": "bradycardia", "since": 1000 * since, "heart_rate": 30}]
        _, changes = process(pipeline(detectors), [dated(1000 * time, beats=[], rhythm=rhythm)])
        (event,) = changes.events
        assert event.alert.since == rfc3339(expected)
        assert event.alert.time == rfc3339(NOW)


@pytest.mark.parametrize("end", [EARLIEST, LATEST])
@pytest.mark.parametrize("inside", [0.0, 0.001, MARGIN - 1, MARGIN, MARGIN + 1])
def test_an_alarm_at_any_time_that_is_let_in_can_be_kept(
    detectors: Detectors, end: float, inside: float
) -> None:
    """The time is the first beat's; one that could not be kept would end the daemon."""
    time = 1000 * (end + inside if end == EARLIEST else end - inside)
    content = {"beats": [ODD.tolist()] * 4, "time": time, "rr_ms": [60_000] * 4}
    alarms = Alarms(POLICY)
    batch, changes = process(pipeline(detectors, alarms), [raw(msgspec.json.encode(content))])
    assert [each.reason for each in batch.rejected] == ["time"] * (inside < MARGIN)
    assert len(changes.events) == (inside >= MARGIN)
    for name, device in alarms.devices.items():
        retained = messages.encode(as_it_stands(name, device, NOW))
        assert messages.decode_alarm(retained).alarms[0].kind == "anomaly"
