"""The export: one file, the same numbers as Keras, and nothing at all when they are not."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor.detector.model_file import (
    Card,
    Dataset,
    Detector,
    DetectorCard,
    Model,
    Quantiles,
    Threshold,
)
from monitor.ecg.beat import Floats
from train import backend
from train.export import ExportError, export, provenance

LOWEST, HIGHEST = np.float32(-5), np.float32(5)
PROVENANCE: dict[str, Any] = {
    "dataset": Dataset(name="noise", sha256="0" * 64, rows={"all": 1}),
    "split": "none",
    "training": {"seed": 0},
    "figures": {"mae": 0.1},
}


def network(seed: int, *shape: int) -> Any:
    backend.load(seed)
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [layers.Input(shape), layers.Flatten(), layers.Dense(8), layers.Dense(math.prod(shape))]
    )
    model.add(layers.Reshape(shape))
    return model


def in_the_graph(model: Any) -> Callable[[Any], dict[str, Any]]:
    import tensorflow as tf

    def graph(beat: Any) -> dict[str, Any]:
        scaled = (beat - LOWEST) / (HIGHEST - LOWEST)
        decoded = model(scaled)
        return {
            "reconstruction": decoded * (HIGHEST - LOWEST) + LOWEST,
            "score": tf.reduce_mean(tf.abs(decoded - scaled), axis=1),
        }

    return graph


def in_keras(model: Any, beats: Floats) -> dict[str, Floats]:
    scaled = (beats - LOWEST) / (HIGHEST - LOWEST)
    decoded = model.predict(scaled, verbose=0)
    return {
        "reconstruction": decoded * (HIGHEST - LOWEST) + LOWEST,
        "score": np.abs(decoded - scaled).mean(axis=1),
    }


def detector_card() -> DetectorCard:
    return DetectorCard(
        **PROVENANCE,
        **provenance(),
        name="noise",
        kind="detector",
        threshold=Threshold(value=0.5, chosen="by hand"),
        quantiles=Quantiles(beats=10, probabilities=[0.5, 0.9], scores=[0.1, 0.2]),
        segmentation=None,
    )


@pytest.fixture(scope="module")
def beats() -> Floats:
    return np.random.default_rng(0).normal(0, 2, (37, 140)).astype(np.float32)


def test_a_detector_gives_what_keras_gives(tmp_path: Path, beats: Floats) -> None:
    model = network(1, 140)
    file = tmp_path / "new" / "noise.onnx"
    expected = in_keras(model, beats)
    export(file, in_the_graph(model), detector_card(), beats, expected)
    detector = Detector(file)
    scored = detector.score(beats)
    np.testing.assert_allclose(scored.scores, expected["score"], atol=1e-5)
    np.testing.assert_allclose(scored.reconstructions, expected["reconstruction"], atol=1e-5)
    assert detector.card.created.endswith("Z")
    assert {"tensorflow", "onnxruntime", "numpy"} <= set(detector.card.versions)
    assert list(file.parent.iterdir()) == [file]


def test_an_image_model_goes_the_same_way(tmp_path: Path) -> None:
    model = network(1, 28, 28, 1)
    images = np.random.default_rng(0).random((5, 28, 28, 1)).astype(np.float32)
    card = Card(**PROVENANCE, **provenance(), name="image", kind="image")
    expected = {"reconstruction": model.predict(images, verbose=0)}
    export(tmp_path / "image.onnx", lambda x: {"reconstruction": model(x)}, card, images, expected)
    outputs = Model(tmp_path / "image.onnx", "image").run(images)
    np.testing.assert_allclose(outputs["reconstruction"], expected["reconstruction"], atol=1e-5)


def test_another_network_than_the_one_judged_is_not_written(tmp_path: Path, beats: Floats) -> None:
    file = tmp_path / "noise.onnx"
    judged, other = network(1, 140), network(2, 140)
    with pytest.raises(ExportError, match=r"noise is not written: its \w+ differs from Keras' by"):
        export(file, in_the_graph(other), detector_card(), beats, in_keras(judged, beats))
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_the_file_that_was_there(tmp_path: Path, beats: Floats) -> None:
    file = tmp_path / "noise.onnx"
    file.write_bytes(b"the last good one")
    model = network(1, 140)
    expected = in_keras(model, beats)
    expected["score"] = expected["score"] + np.float32(1e-4)
    with pytest.raises(ExportError, match=r"its score differs from Keras' by 1\.0e-04"):
        export(file, in_the_graph(model), detector_card(), beats, expected)
    assert file.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [file]
