"""Writes a Keras model as a model file, and proves that `monitor` runs it as Keras does."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from monitor import __version__
from monitor.detector.model_file import CARD, SIGNATURES, Card, Model
from monitor.ecg.beat import Floats
from monitor.errors import Failure
from train import backend

OPSET: Final = 17
TOLERANCE: Final = 1e-5
"""How far Keras and onnxruntime may differ, absolutely or as a share of the value."""

Graph = Callable[[Any], dict[str, Any]]
"""Takes one float32 tensor [N, …] and gives the outputs of a card's kind by name."""


class ExportError(Failure):
    """The file does not compute what Keras computes; nothing was written."""


def provenance() -> dict[str, Any]:
    """Give the parts of a card that are the same for every model: schema, time and versions."""
    libraries = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")
    return {
        "schema_version": 1,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": {"ecg-monitor": __version__} | {name: version(name) for name in libraries},
    }


def export(
    path: Path,
    graph: Graph,
    card: Card,
    inputs: Floats,
    expected: Mapping[str, Floats],
) -> None:
    """Write `graph` and `card` to the model file `path`, if it proves to be right.

    `graph` gives the outputs that `model_file.SIGNATURES` names for the card's kind. `expected`
    are those outputs for `inputs`, float32 [N, …], as Keras computes them outside the graph. The
    file appears in its place only after `monitor` has accepted it and given the same to 1e-5.
    Raises `ExportError` or `ModelError` else.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(_onnx(graph, card, inputs.shape[1:]))
        _prove(Model(partial, card.kind), inputs, expected)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _onnx(graph: Graph, card: Card, shape: tuple[int, ...]) -> bytes:
    backend.load()
    import tensorflow as tf
    import tf2onnx
    from onnx import helper

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    name = SIGNATURES[card.kind].takes[0].split()[0]
    model, _ = tf2onnx.convert.from_function(
        tf.function(graph),
        input_signature=[tf.TensorSpec([None, *shape], tf.float32, name)],
        opset=OPSET,
    )
    helper.set_model_props(model, {CARD: msgspec.json.encode(card).decode()})
    content: bytes = model.SerializeToString()
    return content


def _prove(model: Model, inputs: Floats, expected: Mapping[str, Floats]) -> None:
    for part in (slice(None), slice(1)):  # all inputs at once, and one alone
        for name, ours in model.run(inputs[part]).items():
            theirs = expected[name][part]
            if not np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
                raise ExportError(
                    f"{model.card.name} is not written: its {name} differs from Keras' by "
                    f"{np.abs(ours - theirs).max():.1e}, more than {TOLERANCE:.0e}"
                )
