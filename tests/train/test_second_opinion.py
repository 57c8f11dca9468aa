"""The second opinion: what it sees, what it learns, and what the file of a patient then takes."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from monitor.detector.model_file import Dataset, Detector, DetectorCard, Quantiles, Threshold
from monitor.detector.rr_history import INTERVALS
from monitor.ecg.beat import Floats
from monitor.errors import UsageError
from train import backend
from train.detectors import second_opinion, teaching
from train.detectors.second_opinion import Networks, Taught, Usual
from train.detectors.teaching import FOLDS, Lesson
from train.export import export, provenance


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    backend.load(0)


def bump(centre: float, width: float) -> Floats:
    shape: Floats = np.exp(-0.5 * ((np.arange(140) - centre) / width) ** 2).astype(np.float32)
    return shape


def beats(count: int, random: np.random.Generator, width: float = 4) -> Floats:
    noise = 0.02 * random.normal(size=(count, 140))
    return (bump(56, width) - 0.2 * bump(110, 15) + noise).astype(np.float32)


def patient(own: Floats) -> Usual:
    scores = np.full(len(own), 0.05, np.float32)
    return second_opinion.usual(own, np.ones(len(own), bool), scores, 0.15)


def test_upside_down_and_in_other_units_a_patient_looks_the_same() -> None:
    own = beats(60, np.random.default_rng(0))
    score = np.full(60, 0.05, np.float32)
    upright = second_opinion.shape(own, score, patient(own)).numpy()
    other = second_opinion.shape(-3 * own + 7, score, patient(-3 * own + 7)).numpy()
    assert np.allclose(other, upright, atol=2e-3)
    # and so do single beats that the autoencoder explains upside down
    turned = second_opinion.shape(-own, score, patient(own)).numpy()
    assert np.allclose(turned, upright, atol=1e-4)
    strange = second_opinion.shape(-own, 10 * score, patient(own)).numpy()
    assert not np.allclose(strange, upright, atol=0.5)


def test_a_rhythm_is_relative_and_an_unknown_one_is_always_the_same() -> None:
    rr = np.full((2, INTERVALS), 1000, np.float32)
    rr[1, 0] = 600
    slow, fast = second_opinion.rhythm(rr).numpy(), second_opinion.rhythm(0.6 * rr).numpy()
    rate = slow.shape[1] - 3
    assert np.allclose(np.delete(slow, rate, 1), np.delete(fast, rate, 1), atol=1e-5)
    assert slow[0, rate] - fast[0, rate] == pytest.approx(-np.log(0.6), abs=1e-5)
    assert slow[1, 0] == pytest.approx(np.log(0.6), abs=1e-5)
    assert slow[0, 0] == pytest.approx(0, abs=1e-6)
    unknown = second_opinion.rhythm(np.zeros((1, INTERVALS), np.float32)).numpy()
    assert np.isfinite(unknown).all()
    assert unknown[0, -2:].tolist() == [0.0, 0.0]


def lesson(name: str, random: np.random.Generator) -> Lesson:
    """A synthetic patient, whose early beats are S and wide ones V."""
    scale, count = random.uniform(0.5, 3), 1500
    rr = random.normal(random.uniform(700, 1000), 20, (count, INTERVALS)).astype(np.float32)
    kind = np.array(list("NNNSV"))[random.integers(5, size=count)]
    own = beats(count, random)
    own[kind == "V"] = beats(int((kind == "V").sum()), random, 16)
    own *= scale
    rr[kind == "S", 0] *= 0.6
    scores = np.where(kind == "V", 0.8, 0.05).astype(np.float32)
    usual = patient(own[kind == "N"][:200])
    seen, silent = (
        second_opinion.features(own, scores, known, usual).numpy() for known in (rr, 0 * rr)
    )
    times = np.linspace(0, 0.85 * count, count)
    believed = np.ones(count, bool)
    return Lesson(name, "made", name * 32, seen, silent, scores, kind, believed, times, usual)


@pytest.fixture(scope="module")
def taught() -> Taught:
    random = np.random.default_rng(1)
    return teaching.teach([lesson(f"{i:02}", random) for i in range(FOLDS)])


def test_records_left_out_are_told_right_and_their_rhythm_is_needed(taught: Taught) -> None:
    figures = taught.card["figures"]["made"]
    heard, deaf = figures["second opinion"], figures["second opinion, no RR"]
    assert heard["records"] == FOLDS
    assert heard["f1"] > 0.98
    assert heard["v_told_ventricular"] > 0.98
    assert heard["n_told_ventricular"] < 0.02
    assert heard["s_found"] > 0.95
    assert deaf["s_found"] < 0.1 < 0.9 < deaf["v_found"]


def test_what_is_written_is_what_is_read(taught: Taught, tmp_path: Path) -> None:
    taught.save(tmp_path / "networks.npz")
    again = Taught.load(tmp_path / "networks.npz")
    assert again.card == taught.card
    seen = np.random.default_rng(0).normal(size=(9, 73)).astype(np.float32)
    for ours, theirs in zip(
        (again.networks, *again.folds), (taught.networks, *taught.folds), strict=True
    ):
        assert np.array_equal(ours.logits(seen), theirs.logits(seen))


def test_networks_side_by_side_give_their_mean(taught: Taught) -> None:
    seen = np.random.default_rng(0).normal(size=(9, 73)).astype(np.float32)
    alone = [Networks([one]).logits(seen).numpy() for one in taught.networks.weights]
    assert len(alone) == teaching.SEEDS
    assert np.allclose(taught.networks.logits(seen), np.mean(alone, axis=0), atol=1e-4)


def test_a_record_that_taught_is_judged_by_those_that_did_not_see_it(taught: Taught) -> None:
    signal = np.arange(5.0)
    records = [{"name": "a/b", "sha256": second_opinion.sha256(signal), "fold": 4}]
    some = Taught(taught.networks, taught.folds, {**taught.card, "records": records})
    assert some.for_signal(signal) is taught.folds[4]
    assert some.for_signal(signal + 1) is taught.networks


def test_each_database_is_dealt_evenly() -> None:
    folds = teaching.deal(["a"] * 12 + ["b"] * 6)
    for part in (folds[:12], folds[12:]):
        assert {part.count(fold) for fold in range(FOLDS)} == {len(part) // FOLDS}


def test_too_few_records_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no WFDB records there"):
        teaching.main([tmp_path], tmp_path / "out.npz")
    (tmp_path / "one.hea").touch()
    with pytest.raises(UsageError, match="1 records there; at least 6 are needed"):
        teaching.main([tmp_path], tmp_path / "out.npz")


def test_the_file_takes_a_beat_and_hears_the_rhythm_where_it_is_told(
    taught: Taught, tmp_path: Path
) -> None:
    import tensorflow as tf

    random = np.random.default_rng(5)
    own = 2 * beats(100, random)
    template = own.mean(axis=0)

    def autoencoder(beat: "tf.Tensor") -> "dict[str, tf.Tensor]":
        rest = tf.reduce_mean(tf.square(beat - template), axis=1) / float(template.var())
        return {"reconstruction": 0 * beat + template, "score": rest + 0.001}

    scores = autoencoder(tf.constant(own))["score"].numpy()
    usual = second_opinion.usual(own, np.ones(100, bool), scores, 0.15)
    graph = second_opinion.graph(autoencoder, taught.networks, usual)
    wide, narrow = 2 * beats(20, random, 16), 2 * beats(20, random)
    regular = np.full((20, INTERVALS), 850, np.float32)
    early = regular.copy()
    early[:, 0] = 510
    inputs = np.concatenate([narrow, narrow, wide])
    rr = np.concatenate([regular, early, regular])
    card = DetectorCard(
        **provenance(),
        name="heard",
        kind="detector",
        dataset=Dataset(name="made", sha256="0" * 64, rows={"all": 60}),
        split="none",
        training={"recipe": "none"},
        figures={"none": 0},
        threshold=Threshold(value=1, chosen="by hand"),
        quantiles=Quantiles(beats=10, probabilities=[0.5, 0.9], scores=[0.1, 0.2]),
        segmentation=None,
    )
    expected = {name: np.asarray(value) for name, value in graph(inputs, rr).items()}
    export(tmp_path / "heard.onnx", graph, card, inputs, expected, rr)

    session = onnxruntime.InferenceSession(
        tmp_path / "heard.onnx", providers=["CPUExecutionProvider"]
    )
    assert [node.name for node in session.get_inputs()] == ["beat"]
    detector = Detector(tmp_path / "heard.onnx")
    assert detector.hears_rhythm
    heard, deaf = detector.score(inputs, rr), detector.score(inputs)
    assert ((heard.scores > 1).reshape(3, 20) == [[False], [True], [True]]).all()
    assert ((deaf.scores > 1).reshape(3, 20) == [[False], [False], [True]]).all()
    assert heard.ventricular is not None
    assert ((heard.ventricular > 0.6).reshape(3, 20) == [[False], [False], [True]]).all()
    assert detector.score(inputs[:0], rr[:0]).scores.shape == (0,)
