"""A detector for each device, files that change, and files that cannot be used."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.batch.datasets import Beats
from monitor.detector.model_file import Detector, shipped
from monitor.detector.per_device import Detectors
from monitor.errors import ConfigurationError
from monitor.settings import ModelSettings
from tests.detector.test_model_file import CARD_OF_A_DETECTOR, failing, graph, hearing, write
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_float32

WAVES = np.sin(np.arange(140) / 140 * 2 * np.pi + np.arange(20)[:, None]).astype(np.float32)
"""float32 [20, 140] with a mean size of 0.64, which is what the detectors below score."""


def model(path: Path, name: str, threshold: float) -> Path:
    """Write a detector that scores by the mean size of the samples."""
    how = {"name": name, "threshold": {"value": threshold, "chosen": "by hand"}}
    return write(path, graph(), CARD_OF_A_DETECTOR | how)


@pytest.fixture
def keen(tmp_path: Path) -> Path:
    return model(tmp_path / "keen.onnx", "keen", 0.5)


@pytest.fixture
def calm(tmp_path: Path) -> Path:
    return model(tmp_path / "calm.onnx", "calm", 5)


def test_a_beat_at_which_a_graph_fails_costs_no_other_one_its_score(
    tmp_path: Path, keen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "failing.onnx", failing(), CARD_OF_A_DETECTOR)
    batch = np.concatenate([WAVES, WAVES])
    batch[[3, 19]] *= 5
    detectors = Detectors(ModelSettings(devices={"bed-1": path, "bed-2": keen}))
    alone = detectors.score(batch[:20], [("bed-1", 0, 20)])
    both = detectors.score(batch, [("bed-1", 0, 20), ("bed-2", 20, 40)])
    assert np.flatnonzero(np.isnan(alone.scores)).tolist() == [3, 19]
    assert np.flatnonzero(np.isnan(both.scores)).tolist() == [3, 19]
    expected = np.abs(np.delete(batch, [3, 19], axis=0)).mean(axis=1)
    assert both.scores[~np.isnan(both.scores)] == pytest.approx(expected)
    said = capsys.readouterr()
    assert (said.out + said.err).count("a beat cannot be scored") == 1


def test_the_first_pattern_that_fits_wins_and_the_others_share_one(keen: Path, calm: Path) -> None:
    detectors = Detectors(ModelSettings(devices={"bed-1": keen, "bed-?": calm}))
    names = [detectors.for_device(name).name for name in ("bed-1", "bed-2", "bed-22", "BED-1")]
    assert names == ["keen", "calm", detectors.default.name, detectors.default.name]


def test_a_bracket_in_a_pattern_is_a_bracket(keen: Path, calm: Path) -> None:
    detectors = Detectors(ModelSettings(devices={"bed[7]": keen, "ward[[]-*": calm}))
    names = [detectors.for_device(name).name for name in ("bed[7]", "bed7", "ward[[]-1", "ward[-1")]
    shared = detectors.default.name
    assert names == ["keen", shared, "calm", shared]


def test_beats_of_a_batch_go_to_their_devices_detectors(keen: Path, calm: Path, ecg: Beats) -> None:
    batch = np.concatenate([WAVES[:4], ecg.beats[:3], 10 * WAVES[4:7], WAVES[7:9]])
    whose = [("bed-1", 0, 4), ("ward", 4, 7), ("bed-2", 7, 10), ("bed-1", 10, 12)]
    detectors = Detectors(ModelSettings(devices={"bed-1": keen, "bed-2": calm}))
    outcome = detectors.score(batch, whose)
    own = detectors.default
    sizes = np.abs(batch).mean(axis=1)
    alone = own.score(ecg.beats[:3])
    expected = np.concatenate([sizes[:4], alone.scores, sizes[7:]])
    assert outcome.scores == pytest.approx(expected, rel=1e-5)
    assert outcome.reconstructions[4:7] == pytest.approx(alone.reconstructions, abs=1e-5)
    shared = np.float32(own.threshold)
    assert np.array_equal(outcome.thresholds, np.repeat([0.5, shared, 5, 0.5], [4, 3, 3, 2]))


def test_only_the_devices_whose_detector_hears_it_are_told_the_rhythm(
    tmp_path: Path, keen: Path
) -> None:
    path = write(tmp_path / "hearing.onnx", hearing(), CARD_OF_A_DETECTOR)
    detectors = Detectors(ModelSettings(devices={"bed-1": keen, "bed-2": path}))
    batch, rr = WAVES[:4], np.full((4, 32), 700, np.float32)
    outcome = detectors.score(batch, [("bed-2", 0, 2), ("bed-1", 2, 4)], rr)
    sizes = np.abs(batch).mean(axis=1)
    assert outcome.scores == pytest.approx(sizes + np.array([700, 700, 0, 0]))
    assert outcome.ventricular is not None
    assert outcome.ventricular[:2] == pytest.approx((sizes[:2] + 700) / 10)
    assert np.isnan(outcome.ventricular[2:]).all()
    assert detectors.hear_rhythm
    assert not Detectors(ModelSettings(devices={"bed-1": keen})).hear_rhythm


def test_a_rate_is_every_model_s_and_a_threshold_is_the_shared_one_s(keen: Path) -> None:
    rated = Detectors(ModelSettings(devices={"bed": keen}, false_alarm_rate=0.1))
    assert rated.for_device("bed").threshold == pytest.approx(2)
    assert rated.default.threshold == Detector(shipped("ecg")).threshold_at(0.1)
    fixed = Detectors(ModelSettings(devices={"bed": keen}, threshold=7))
    assert (fixed.for_device("bed").threshold, fixed.default.threshold) == (0.5, 7)


def test_a_file_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path, keen: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(keen.read_bytes()[:100])
    for path in (broken, tmp_path / "missing.onnx"):
        with pytest.raises(ConfigurationError) as refused:
            Detectors(ModelSettings(devices={"bed-*": path}))
        assert str(refused.value).startswith(f"model.devices.bed-* = {path}: ")
        with pytest.raises(ConfigurationError, match=r"^model\.path = "):
            Detectors(ModelSettings(path=path))
    with pytest.raises(ConfigurationError, match=r"^model\.false_alarm_rate = 0\.001: .*keen"):
        Detectors(ModelSettings(path=keen, false_alarm_rate=0.001))


def test_a_file_is_taken_over_once_it_stands_still(keen: Path, calm: Path) -> None:
    detectors = Detectors(ModelSettings(devices={"bed": keen}))
    assert detectors.refresh() == []
    os.utime(keen)  # touched, but the same
    assert [detectors.refresh() for _ in range(3)] == [[], [], []]
    calm.replace(keen)
    assert detectors.refresh() == []  # it may still be written to
    (change,) = detectors.refresh()
    assert (change.setting, change.refusal) == ("model.devices.bed", "")
    assert detectors.for_device("bed").name == "calm"
    for harm in (lambda: keen.write_bytes(b"no model"), keen.unlink):
        harm()
        changes = [change for _ in range(4) for change in detectors.refresh()]
        assert [change.detector for change in changes] == [None]
        assert changes[0].refusal.startswith(f"{keen}: ")
        assert detectors.for_device("bed").name == "calm"
    model(keen, "new", 1)
    assert [c.detector and c.detector.name for _ in range(3) for c in detectors.refresh()] == [
        "new"
    ]


# -- over a real broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


def devices(**files: Path) -> dict[str, str]:
    table = {name.replace("_", "-"): str(path) for name, path in files.items()}
    return {"MODEL__DEVICES": msgspec.json.encode(table).decode()}


def models(daemon: RunningDaemon) -> set[str]:
    """The names of the models that run, as the metrics tell them."""
    lines = daemon.metrics().splitlines()
    return {line.split('name="')[1].split('"')[0] for line in lines if "model_info{" in line}


def send(ward: Ward, device: str, beats: NDArray[np.float32]) -> None:
    ward.send(as_float32(device, beats))


def test_two_devices_with_two_models_are_judged_by_their_own(
    tmp_path: Path, broker: Mosquitto, keen: Path, calm: Path, ecg: Beats
) -> None:
    hearts = Hearts(ecg)
    own = devices(bed_1=keen, bed_2=calm)
    shared = Detector(shipped("ecg"))
    with RunningDaemon(tmp_path, broker.url, **own) as daemon, Ward(broker.port) as ward:
        assert models(daemon) == {"keen", "calm", shared.name}
        send(ward, "bed-2", WAVES)
        send(ward, "bed-1", WAVES[:5])
        send(ward, "ward", hearts.anomalous(5))
        ward.wait(lambda: len(ward.alerts()) == 2)
        (keenly,), (shared_alert,) = ward.alerts("bed-1"), ward.alerts("ward")
        assert (keenly["model"], keenly["threshold"]) == ("keen", 0.5)
        assert keenly["score"] == pytest.approx(0.637, abs=0.01)
        assert (shared_alert["model"], shared_alert["threshold"]) == (shared.name, shared.threshold)
        daemon.wait_until("ecg_monitor_score_ratio_count", 30)
        daemon.wait_until("ecg_monitor_beats_anomalous_total", 10)
        assert daemon.value("ecg_monitor_score_ratio_count") == 30
        assert daemon.value("ecg_monitor_beats_anomalous_total") == 10
        below = daemon.value('ecg_monitor_score_ratio_bucket{le="0.25"}')
        assert below == 20  # those of the calm one
    assert {alert["device"] for alert in ward.alerts()} == {"bed-1", "ward"}


def test_a_file_replaced_while_running_is_taken_over_and_a_broken_one_refused(
    tmp_path: Path, broker: Mosquitto, keen: Path, calm: Path
) -> None:
    taken = devices(bed_1=keen)
    with RunningDaemon(tmp_path, broker.url, **taken) as daemon, Ward(broker.port) as ward:
        send(ward, "bed-1", WAVES[:3])
        ward.wait(lambda: len(ward.alerts()) == 1)
        calm.replace(keen)
        ward.wait(lambda: "calm" in models(daemon))
        assert "keen" not in models(daemon)
        send(ward, "bed-1", WAVES[:10])
        ward.wait(lambda: len(ward.alerts()) == 2)
        cleared = ward.alerts()[1]
        assert (cleared["event"], cleared["model"], cleared["threshold"]) == ("cleared", "calm", 5)

        keen.write_bytes(b"no model")
        ward.wait(lambda: "model refused" in daemon.log.read_text())
        send(ward, "bed-1", 100 * WAVES[:3])
        ward.wait(lambda: len(ward.alerts()) == 3)
        assert ward.alerts()[2]["model"] == "calm"
        assert daemon.healthy()

        model(keen, "mended", 0.5)
        ward.wait(lambda: "mended" in models(daemon))
    said = daemon.log.read_text()
    assert said.count("model refused") == 1
    assert said.count("model taken over") == 2
    assert "Traceback" not in said


def test_after_a_start_models_are_opened_a_few_in_each_turn(
    tmp_path: Path, broker: Mosquitto
) -> None:
    (tmp_path / "models").mkdir()
    names = [f"bed-{number}" for number in range(100)]
    for name in names:
        model(tmp_path / "models" / f"{name}.onnx", name, 5)
    settings = {"MODEL__FOLDER": str(tmp_path / "models")}
    with RunningDaemon(tmp_path, broker.url, **settings):
        pass  # the broker keeps a session from now on
    with Ward(broker.port) as ward:
        for name in names:
            send(ward, name, WAVES[:1])
    with RunningDaemon(tmp_path, broker.url, **settings) as daemon:
        daemon.wait_until("ecg_monitor_beats_received_total", 100)
        small = daemon.value('ecg_monitor_batch_beats_bucket{le="64.0"}')
        assert small == daemon.value("ecg_monitor_batch_beats_count") >= 2
