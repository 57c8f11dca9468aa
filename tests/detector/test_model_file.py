"""The model file: what is opened, what is refused and why."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from monitor.detector.model_file import CARD, Detector, Model, ModelError
from monitor.errors import ConfigurationError

CARD_OF_A_DETECTOR: dict[str, Any] = {
    "schema_version": 1,
    "name": "flat",
    "kind": "detector",
    "created": "2026-11-21T12:00:00Z",
    "dataset": {"name": "ECG5000", "sha256": "0" * 64, "rows": {"train": 4000, "test": 1000}},
    "split": "One fifth, chosen at random.",
    "training": {"recipe": "none"},
    "figures": {"accuracy": 0.5},
    "versions": {"numpy": "2"},
    "threshold": {"value": 1.5, "chosen": "by hand"},
    "quantiles": {"beats": 100, "probabilities": [0.5, 0.9, 0.99], "scores": [1.0, 2.0, 4.0]},
    "segmentation": None,
}


def graph(
    *, beat: list[int | str] | None = None, dtype: int = TensorProto.FLOAT, score: str = "score"
) -> onnx.ModelProto:
    """Build a detector whose reconstruction is zero and whose score is the mean of |beat|."""
    shape = beat or ["N", 140]
    nodes = [
        helper.make_node("Sub", ["beat", "beat"], ["reconstruction"]),
        helper.make_node("Abs", ["beat"], ["size"]),
        helper.make_node("ReduceMean", ["size"], [score], axes=[1], keepdims=0),
    ]
    built = helper.make_graph(
        nodes,
        "flat",
        [helper.make_tensor_value_info("beat", dtype, shape)],
        [
            helper.make_tensor_value_info("reconstruction", dtype, shape),
            helper.make_tensor_value_info(score, dtype, shape[:1]),
        ],
    )
    return helper.make_model(built, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def of_the_whole_batch() -> onnx.ModelProto:
    """Build a detector that gives one score for all beats of a batch."""
    built = graph()
    of = built.graph
    of.node[2].CopyFrom(helper.make_node("ReduceMean", ["size"], ["score"], keepdims=0))
    of.output[1].CopyFrom(helper.make_tensor_value_info("score", TensorProto.FLOAT, []))
    return built


def failing() -> onnx.ModelProto:
    """Build a detector whose graph fails at a batch in which a sample is 2 or more."""
    built = graph(score="size_alone")
    of = built.graph
    of.node.extend(
        [
            helper.make_node("ReduceMax", ["beat"], ["largest"], axes=[1], keepdims=0),
            helper.make_node("Cast", ["largest"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["nothing", "place"], ["zero"]),
            helper.make_node("Add", ["size_alone", "zero"], ["score"]),
        ]
    )
    of.initializer.append(helper.make_tensor("nothing", TensorProto.FLOAT, [2], [0.0, 0.0]))
    of.output[1].CopyFrom(helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]))
    return built


def hearing(*, intervals: int = 32, default: bool = True) -> onnx.ModelProto:
    """Build a detector that adds the last RR interval to the score; ventricular is a tenth of it.

    `default`: whether it can do without the intervals.
    """
    built = graph(score="size_alone")
    of = built.graph
    of.node.extend(
        [
            helper.make_node("Gather", ["rr", "first"], ["last"], axis=1),
            helper.make_node("Add", ["size_alone", "last"], ["score"]),
            helper.make_node("Mul", ["score", "tenth"], ["ventricular"]),
        ]
    )
    of.initializer.extend(
        [
            helper.make_tensor("first", TensorProto.INT64, [], [0]),
            helper.make_tensor("tenth", TensorProto.FLOAT, [], [0.1]),
        ]
    )
    if default:
        zeros = [0.0] * intervals
        of.initializer.append(helper.make_tensor("rr", TensorProto.FLOAT, [1, intervals], zeros))
    of.input.append(helper.make_tensor_value_info("rr", TensorProto.FLOAT, ["M", intervals]))
    del of.output[1]
    for name in ("score", "ventricular"):
        of.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]))
    return built


def write(path: Path, model: onnx.ModelProto, card: dict[str, Any] | str | None) -> Path:
    if card is not None:
        text = card if isinstance(card, str) else msgspec.json.encode(card).decode()
        helper.set_model_props(model, {CARD: text})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write(tmp_path / "flat.onnx", graph(), CARD_OF_A_DETECTOR)


def test_scores_beats_in_batches_of_any_size(flat: Path) -> None:
    detector = Detector(flat)
    for count in (0, 1, 7):
        beats = np.full((count, 140), -2, np.float32)
        scored = detector.score(beats)
        assert scored.scores.tolist() == [2.0] * count
        assert scored.scores.dtype == scored.reconstructions.dtype == np.float32
        assert scored.reconstructions.shape == (count, 140)
    assert detector.name == "flat"
    assert detector.threshold == 1.5
    assert detector.card.dataset.rows == {"train": 4000, "test": 1000}
    assert len(detector.sha256) == 64


def test_hears_the_rhythm_where_it_is_told(tmp_path: Path) -> None:
    detector = Detector(write(tmp_path / "hearing.onnx", hearing(), CARD_OF_A_DETECTOR))
    beats = np.full((3, 140), -2, np.float32)
    rr = np.zeros((3, 32), np.float32)
    rr[:, 0] = 800, 0, 900
    assert detector.hears_rhythm
    assert detector.score(beats, rr).scores.tolist() == [802, 2, 902]
    scored = detector.score(beats)
    assert scored.scores.tolist() == [2, 2, 2]
    assert scored.ventricular is not None
    assert scored.ventricular == pytest.approx([0.2] * 3)


def test_the_rhythm_changes_nothing_where_a_model_does_not_hear_it(flat: Path) -> None:
    detector = Detector(flat)
    scored = detector.score(np.full((2, 140), -2, np.float32), np.full((2, 32), 800, np.float32))
    assert not detector.hears_rhythm
    assert scored.scores.tolist() == [2, 2]
    assert scored.ventricular is None


def test_another_false_alarm_rate_comes_from_the_quantiles(flat: Path) -> None:
    detector = Detector(flat)
    assert detector.threshold_at(0.1) == pytest.approx(2.0)
    assert detector.threshold_at(0.01) == pytest.approx(4.0)
    assert 2.0 < detector.threshold_at(0.05) < 4.0
    for rate in (0.009, 0.0, -1.0, 0.6, 1.0, float("nan")):
        with pytest.raises(ConfigurationError, match=r"100 held-out .* support 0\.01 to 0\.5"):
            detector.threshold_at(rate)


def test_refuses_what_is_not_a_model(tmp_path: Path, flat: Path) -> None:
    whole = flat.read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"beat,score\n1,2\n" * 100,
        "noise": bytes(range(256)) * 40,
        "truncated": whole[: len(whole) // 3],
    }.items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(ModelError, match=rf"^{file}: is not an ONNX file") as refused:
            Detector(file)
        assert "\n" not in str(refused.value)
    with pytest.raises(ModelError, match="No such file"):
        Detector(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="directory"):
        Detector(tmp_path)


def test_no_truncation_of_a_model_is_taken_for_one(tmp_path: Path, flat: Path) -> None:
    whole = flat.read_bytes()
    file = tmp_path / "truncated.onnx"
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            Detector(file)


def test_refuses_a_graph_without_a_card(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no card under the metadata key ecg_monitor"):
        Detector(write(tmp_path / "bare.onnx", graph(), None))


@pytest.mark.parametrize("part", sorted(CARD_OF_A_DETECTOR))
def test_refuses_a_card_that_lacks_a_part(tmp_path: Path, part: str) -> None:
    card = {key: value for key, value in CARD_OF_A_DETECTOR.items() if key != part}
    with pytest.raises(ModelError, match=f"missing required field `{part}`"):
        Detector(write(tmp_path / "lacking.onnx", graph(), card))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"schema_version": 2}, r"\$\.schema_version"),
        ({"kind": "classifier"}, r"\$\.kind"),
        ({"created": "yesterday"}, r"\$\.created"),
        ({"dataset": {"name": "x", "sha256": "0" * 63, "rows": {"all": 1}}}, r"\$\.dataset\.sha"),
        ({"threshold": {"value": None, "chosen": "?"}}, r"\$\.threshold\.value"),
        ({"figures": {}}, r"\$\.figures"),
        (
            {"quantiles": {"beats": 9, "probabilities": [0, 0.5, 0.9], "scores": [1.0, 2.0]}},
            "as many scores",
        ),
        (
            {"quantiles": {"beats": 9, "probabilities": [0.9, 0.5], "scores": [1.0, 2.0]}},
            "must rise",
        ),
        (
            {"quantiles": {"beats": 9, "probabilities": [0.5, 0.9], "scores": [2.0, 1.0]}},
            "must not fall",
        ),
    ],
)
def test_refuses_a_card_with_a_wrong_value(
    tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=rf"its card cannot be used: .*{reason}"):
        Detector(write(tmp_path / "wrong.onnx", graph(), CARD_OF_A_DETECTOR | changed))


def test_refuses_a_card_that_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its card cannot be used: JSON is malformed"):
        Detector(write(tmp_path / "wrong.onnx", graph(), "not JSON"))


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (graph(beat=["N", 141]), r"takes beat float32 \[N, 141\] and not beat float32 \[N, 140\]"),
        (graph(beat=[1, 140]), r"takes beat float32 \[1, 140\]"),
        (graph(dtype=TensorProto.DOUBLE), r"takes beat tensor\(double\) \[N, 140\]"),
        (
            graph(score="error"),
            r"gives error float32 \[N\], .* and not .*, with or without ventric",
        ),
        (of_the_whole_batch(), r"gives .*, score float32 \[\] and not .*, score float32 \[N\]"),
        (hearing(default=False), r"takes beat .*, rr float32 \[N, 32\] and not beat float32"),
        (hearing(intervals=16), r"may take rr float32 \[N, 16\] and not rr float32 \[N, 32\]"),
    ],
)
def test_refuses_another_graph(tmp_path: Path, built: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Detector(write(tmp_path / "other.onnx", built, CARD_OF_A_DETECTOR))


def test_refuses_a_model_of_another_kind(tmp_path: Path, flat: Path) -> None:
    with pytest.raises(ModelError, match="holds a model of kind detector, not image"):
        Model(flat, "image")
    card = CARD_OF_A_DETECTOR | {"kind": "image"}
    with pytest.raises(ModelError, match=r"takes beat float32 \[N, 140\] and not image float32"):
        Model(write(tmp_path / "image.onnx", graph(), card))


def test_onnxruntime_reports_to_nobody_and_writes_nothing(tmp_path: Path) -> None:
    script = "from monitor.detector.model_file import Detector, shipped; Detector(shipped('ecg'))"
    mute = ("CI", "ORT_DISABLE_TELEMETRY", "GITHUB_ACTIONS")  # each would hide what we are after
    environment = {name: value for name, value in os.environ.items() if name not in mute}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert not list(tmp_path.rglob("*"))
