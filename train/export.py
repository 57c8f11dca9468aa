"""Write a Keras model as a model file, and verify that `monitor` computes what Keras does."""

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
from monitor.detector.rr_history import INTERVALS
from monitor.ecg.beat import Floats
from monitor.errors import Failure
from train import backend

OPSET: Final = 17
TOLERANCE: Final = 1e-5
"""Largest difference between Keras and onnxruntime, absolute or relative."""

Graph = Callable[..., dict[str, Any]]
"""Takes a float32 tensor [N, …] and returns the outputs of a card's kind by name. A graph with a
second opinion also takes RR intervals, float32 [N, 32], or one row for all beats."""


class ExportError(Failure):
    """The exported graph does not compute what Keras does; nothing was written."""


def provenance() -> dict[str, Any]:
    """Return the fields of a card that every model has: schema version, time and versions."""
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
    rr: Floats | None = None,
) -> None:
    """Write `graph` and `card` to the model file `path`, if the result is correct.

    The file appears at `path` only after `monitor` has accepted it and computed the expected
    outputs to within `TOLERANCE`.

    Args:
        path: of the model file.
        graph: returns the outputs that `model_file.SIGNATURES` names for the card's kind.
        card: of the model.
        inputs: float32 [N, …], to verify the file with.
        expected: the outputs for `inputs`, as Keras computes them outside the graph.
        rr: float32 [N, 32], the RR intervals with which `expected` was computed, if the graph takes
            them. In the file they are optional and default to a row of zeros, which is verified.

    Raises:
        ExportError: the outputs differ.
        ModelError: `monitor` does not accept the file.
    """
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.write_bytes(_onnx(graph, card, inputs.shape[1:], rr is not None))
        model = Model(partial, card.kind)
        if rr is None:
            _prove(model, expected, inputs)
        else:
            unknown = graph(inputs, np.zeros((1, INTERVALS), np.float32))
            _prove(model, expected, inputs, rr)
            _prove(model, {name: np.asarray(value) for name, value in unknown.items()}, inputs)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _onnx(graph: Graph, card: Card, shape: tuple[int, ...], takes_rr: bool) -> bytes:
    backend.load()
    import tensorflow as tf
    import tf2onnx
    from onnx import helper, numpy_helper

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    name = SIGNATURES[card.kind].takes[0].split()[0]
    takes = [tf.TensorSpec([None, *shape], tf.float32, name)]
    if takes_rr:
        takes.append(tf.TensorSpec([None, INTERVALS], tf.float32, "rr"))
    model, _ = tf2onnx.convert.from_function(tf.function(graph), input_signature=takes, opset=OPSET)
    if takes_rr:
        # An input that has an initializer, too, may be left out. The default has a row for all
        # beats, so the number of rows is another one than that of the beats.
        default = numpy_helper.from_array(np.zeros((1, INTERVALS), np.float32), "rr")
        model.graph.initializer.append(default)
        rr = next(node for node in model.graph.input if node.name == "rr")
        rr.type.tensor_type.shape.dim[0].dim_param = "rr_rows"
    helper.set_model_props(model, {CARD: msgspec.json.encode(card).decode()})
    content: bytes = model.SerializeToString()
    return content


def _prove(
    model: Model, expected: Mapping[str, Floats], inputs: Floats, rr: Floats | None = None
) -> None:
    for part in (slice(None), slice(1)):  # all inputs at once, and one alone
        optional = {} if rr is None else {"rr": rr[part]}
        for name, ours in model.run(inputs[part], **optional).items():
            theirs = expected[name][part]
            if not np.allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE):
                raise ExportError(
                    f"{model.card.name} is not written: its {name} differs from Keras' by "
                    f"{np.abs(ours - theirs).max():.1e}, more than {TOLERANCE:.0e}"
                )
