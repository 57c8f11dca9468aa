"""A model fitted to live beats is the one that the record would give; mixed beats are refused."""

from pathlib import Path

import numpy as np
import pytest

from monitor.detector import rr_history
from monitor.detector.model_file import Detector
from monitor.ecg import codec, records
from monitor.ecg.beat import Floats
from monitor.ecg.segmenter import CutBeat
from train.detectors import patient, second_opinion
from train.learn import fitting
from train.learn.journal import Admission, Collected

ADMISSION = Admission(
    device="bed-7", state="fitting", by="Anna", admitted=0, since=0, needed=100, good=100
)
EPOCHS = 5


def live(cut: list[CutBeat], rate: float) -> list[Collected]:
    """Return beats as `segment` publishes them and the learner takes them in."""
    taken = []
    for key, each in enumerate(cut):
        rr = None if each.rr_ms is None else [each.rr_ms]
        got = codec.decode(codec.encode_json(each.samples[None], [each.seq], rr, None, []))
        interval = got.rr_ms[0] if got.rr_ms else None
        taken.append(Collected(key, each.seq / rate, got.seq, interval, got.data))
    return taken


def test_live_beats_give_the_model_that_the_record_gives(data: Path, tmp_path: Path) -> None:
    ecg = records.read(data / "mitdb" / "119")
    cut = records.beats(ecg, 0, 180)
    out = tmp_path / "live.onnx"
    fitting.fit(ADMISSION, live(cut, ecg.rate), out, EPOCHS)
    model = Detector(out)

    networks = second_opinion.Taught.load().networks
    recorded = patient.fit_record(cut, networks, fitting.SEED, EPOCHS)
    later = records.beats(ecg, 180, 300)
    samples = np.array([each.samples for each in later], np.float32)
    told = model.score(samples, rr_history.whole([each.rr_ms for each in later]))
    expected = patient.hear(recorded, later)
    assert told.ventricular is not None
    assert expected.ventricular is not None
    np.testing.assert_allclose(told.scores, expected.scores, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(told.ventricular, expected.ventricular, atol=1e-3)
    assert model.card.training["admitted_by"] == "Anna"
    assert model.card.segmentation is not None


def test_without_rr_intervals_there_is_no_second_opinion(data: Path, tmp_path: Path) -> None:
    ecg = records.read(data / "mitdb" / "119")
    silent = [each._replace(rr_ms=None) for each in records.beats(ecg, 0, 180)]
    out = tmp_path / "live.onnx"
    fitting.fit(ADMISSION, live(silent, ecg.rate), out, EPOCHS)
    model = Detector(out)
    assert not model.hears_rhythm
    assert model.card.segmentation is None


def beats(
    data: Path, name: str, lead: int = 0
) -> tuple[Floats, "np.ndarray[tuple[int], np.dtype[np.str_]]"]:
    """Return the first five minutes of a lead of a record, and the classes of the beats."""
    ecg = records.read(data / name)
    ecg = ecg._replace(signal=list(ecg.leads.values())[lead])
    cut = records.beats(ecg, 0, 300)
    return np.array([each.samples for each in cut], np.float32), records.classes(ecg, cut)


@pytest.mark.parametrize("name", ["svdb/803", "svdb/840", "svdb/874"])
def test_another_lead_halfway_is_refused_and_the_lead_alone_is_not(
    real_data: Path, name: str
) -> None:
    one, other = (beats(real_data, name, lead)[0] for lead in (0, 1))
    times = list(np.arange(2.0 * len(one)))
    fitting.refuse_mixed(one, times)
    half = len(one) // 2
    mixed = np.concatenate([one[:half], other[half:]])
    with pytest.raises(fitting.Mixed, match="another lead"):
        fitting.refuse_mixed(mixed, times)


@pytest.mark.parametrize("name", ["svdb/803", "svdb/805", "svdb/874"])
def test_a_ventricular_beat_after_each_normal_one_is_refused(real_data: Path, name: str) -> None:
    samples, classes = beats(real_data, name)
    ventricular = samples[classes == "V"]
    normal = samples[classes == "N"][: 10 * len(ventricular)]
    turns = np.resize(ventricular, normal.shape)
    mixed = np.stack([normal, turns], axis=1).reshape(-1, 140)
    with pytest.raises(fitting.Mixed, match="of the beats have another shape"):
        fitting.refuse_mixed(mixed, list(range(len(mixed))))
