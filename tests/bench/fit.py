"""How long the fit of a patient's model takes: five minutes of beats, TensorFlow's start left out.

`python -m tests.bench.fit` prints it, beside one network fitted to the same beats by Keras' own
`fit`. Ours fits six, five of them for an honest threshold, and puts the second opinion behind them.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from monitor.ecg.beat import Floats
from monitor.ecg.segmenter import Segmenter
from tests.harness.signals import heart
from train import backend
from train.detectors import ensemble, patient, second_opinion

TURNS = 5
MINUTES = 5


def plain(beats: Floats) -> None:
    """Fit one network as anybody would: the same layers, loss, optimizer and epochs."""
    import keras
    import tensorflow as tf
    from keras import layers

    dense = [
        layers.Dense(width, None if i in ensemble.LINEAR else "relu")
        for i, width in enumerate(ensemble.WIDTHS[1:])
    ]
    network = keras.Sequential([layers.Input((ensemble.WIDTHS[0],)), *dense])
    steps = max(1, len(beats) // ensemble.BATCH) * ensemble.EPOCHS

    def loss(target: Any, given: Any) -> Any:
        errors = tf.reduce_mean(tf.square(given - target), axis=1)
        return tf.reduce_mean(tf.math.log(errors + ensemble.SOFTENING))

    falling = keras.optimizers.schedules.CosineDecay(ensemble.RATE, steps)
    network.compile(keras.optimizers.Adam(falling), loss)
    network.fit(beats, beats, batch_size=ensemble.BATCH, epochs=ensemble.EPOCHS, verbose=0)


def measure() -> Table:
    """Return the table."""
    segmenter = Segmenter(250.0)
    cut = segmenter.feed(heart(60.0 * MINUTES)[0]) + segmenter.finish()
    beats = np.array([each.samples for each in cut])
    backend.load(0)
    networks = second_opinion.Taught.load().networks
    ways: dict[str, Callable[[], object]] = {
        "one network by Keras' own `fit`": lambda: plain(beats),
        "a patient's model": lambda: patient.fit_record(cut, networks, 0),
    }
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, work in ways.items():
            wall, processors = time.perf_counter(), time.process_time()
            work()
            spent[way].append((time.perf_counter() - wall, time.process_time() - processors))
    title = f"The fit to {len(cut)} beats, in seconds ({TURNS} turns, median)"
    table = Table("", "s", "of the processors", title=title)
    for way, turns in spent.items():
        table.add_row(way, *(f"{statistics.median(part):.1f}" for part in zip(*turns, strict=True)))
    return table


if __name__ == "__main__":
    Console(width=100).print(measure())
