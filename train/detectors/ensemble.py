"""Fits several small autoencoders at once: one batched computation, a whole epoch in one XLA call.

A network of this size is bound by the calls around its arithmetic, so five of them side by side
take hardly longer than one. Their weights have a leading axis for the network; no number of one
ever meets a number of another.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from monitor.ecg.beat import Floats

WIDTHS = (140, 128, 64, 8, 64, 128, 140)
LINEAR = (2, 5)  # the layers without relu: the code and the reconstruction

EPOCHS = 150
BATCH = 64
RATE = 0.001  # Adam's, falling to 0 along a cosine
SOFTENING = 0.001  # added to a beat's squared error under the logarithm of the loss


def fit(
    beats: Floats,
    rows: Sequence[NDArray[np.int64]],
    seed: int,
    epochs: int = EPOCHS,
    targets: Floats | None = None,
) -> list[Any]:
    """Fit one network to each of the K sets of `rows` of `beats`, float32 [N, 140].

    An autoencoder gives its beat back; `targets`, float32 [K, N, 140], are what it gives instead.

    The loss of a batch is the mean of log(mean squared error + 0.001) over its beats: a beat that
    is far off changes it no more than one that is a little off, so an abnormal one among the
    normal ones cannot pull the fit. Every network sees as many batches in an epoch as the longest
    set fills; a shorter set starts over.

    Returns the networks as Keras models.
    """
    import keras
    import tensorflow as tf

    count, steps = len(rows), max(1, max(map(len, rows)) // BATCH)
    glorot = keras.initializers.GlorotUniform(keras.random.SeedGenerator(seed))
    weights = []
    for wide, narrow in pairwise(WIDTHS):
        weights.append(keras.Variable(tf.stack([glorot((wide, narrow)) for _ in rows])))
        weights.append(keras.Variable(tf.zeros((count, 1, narrow))))
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps * epochs))
    adam.build(weights)
    data = tf.constant(beats)
    wanted = data if targets is None else tf.constant(targets)

    def loss(batch: Any, target: Any) -> Any:
        layer = batch
        for i in range(0, len(weights), 2):
            layer = tf.matmul(layer, weights[i]) + weights[i + 1]
            if i // 2 not in LINEAR:
                layer = tf.nn.relu(layer)
        errors = tf.reduce_mean(tf.square(layer - target), axis=2)
        return tf.reduce_sum(tf.reduce_mean(tf.math.log(errors + SOFTENING), axis=1))

    # The beats are arguments, since TensorFlow frees no graph of this, nor what it has captured.
    @tf.function(jit_compile=True)  # type: ignore[untyped-decorator]  # tensorflow has no types
    def epoch(order: Any, data: Any, wanted: Any) -> None:
        for i in tf.range(steps):
            rows = order[:, i]
            target = tf.gather(wanted, rows, batch_dims=0 if targets is None else 1)
            with tf.GradientTape() as tape:
                total = loss(tf.gather(data, rows), target)
            adam.apply(tape.gradient(total, [weight.value for weight in weights]), weights)

    random = np.random.default_rng(seed)
    console = Console(stderr=True)
    for _ in track(
        range(epochs), "training", console=console, transient=True, disable=not console.is_terminal
    ):
        order = np.stack([np.resize(random.permutation(own), steps * BATCH) for own in rows])
        epoch(tf.constant(order.reshape(count, steps, BATCH).astype(np.int32)), data, wanted)
    arrays = [weight.numpy() for weight in weights]
    return [_network([array[k] for array in arrays]) for k in range(count)]


def _network(weights: list[Floats]) -> Any:
    """Build the Keras model, float32 [N, 140] to the same, that has these weights."""
    from keras import Sequential, layers

    dense = [
        layers.Dense(width, None if i in LINEAR else "relu") for i, width in enumerate(WIDTHS[1:])
    ]
    network = Sequential([layers.Input((WIDTHS[0],)), *dense])
    network.set_weights([np.squeeze(w, 0) if i % 2 else w for i, w in enumerate(weights)])
    return network
