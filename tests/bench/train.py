"""Trains the image examples by their sources' plain code and by ours, and holds them side by side.

    python -m tests.bench.train [NAME]... [--data DIR] [--epochs N] [--ours-epochs N] [--seeds N]

Seconds are those of `fit`, tracing included. With `--ours-epochs` ours is trained for another
number of epochs: with the fewest that reach the plain code's loss, the ratio is at equal loss. A
loss depends on the seed, too: with `--seeds` both are trained with the seeds 0 to N - 1, and the
table gives medians of seconds and ratios, and means and standard deviations of losses.
`denoise` and `vae` are bound by their convolutions: the arithmetic of their training is held
against the fastest convolution measured on this machine.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from monitor import terminal
from monitor.batch import datasets, image_examples
from monitor.batch.datasets import Images
from train import backend

History = dict[str, list[float]]

EPOCHS = {"basic": 10, "denoise": 10, "undercomplete": 50, "vae": 30}
"""Those of the sources; ours are in the recipes."""


def plain_basic(images: Images, epochs: int) -> History:
    """Follow https://www.tensorflow.org/tutorials/generative/autoencoder, first example."""
    from keras import Model, Sequential, layers, losses

    class Autoencoder(Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Sequential([layers.Flatten(), layers.Dense(64, activation="relu")])
            self.decoder = Sequential(
                [layers.Dense(784, activation="sigmoid"), layers.Reshape((28, 28, 1))]
            )

        def call(self, x: Any) -> Any:
            return self.decoder(self.encoder(x))

    autoencoder = Autoencoder()
    autoencoder.compile(optimizer="adam", loss=losses.MeanSquaredError())
    history: History = autoencoder.fit(
        images.train,
        images.train,
        epochs=epochs,
        shuffle=True,
        validation_data=(images.test, images.test),
        verbose=0,
    ).history
    return history


def plain_denoise(images: Images, epochs: int) -> History:
    """Follow https://www.tensorflow.org/tutorials/generative/autoencoder, second example."""
    from keras import Input, Model, Sequential, layers, losses

    class Denoise(Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Sequential(
                [
                    Input(shape=(28, 28, 1)),
                    layers.Conv2D(16, (3, 3), activation="relu", padding="same", strides=2),
                    layers.Conv2D(8, (3, 3), activation="relu", padding="same", strides=2),
                ]
            )
            self.decoder = Sequential(
                [
                    layers.Conv2DTranspose(
                        8, kernel_size=3, strides=2, activation="relu", padding="same"
                    ),
                    layers.Conv2DTranspose(
                        16, kernel_size=3, strides=2, activation="relu", padding="same"
                    ),
                    layers.Conv2D(1, kernel_size=(3, 3), activation="sigmoid", padding="same"),
                ]
            )

        def call(self, x: Any) -> Any:
            return self.decoder(self.encoder(x))

    autoencoder = Denoise()
    autoencoder.compile(optimizer="adam", loss=losses.MeanSquaredError())
    history: History = autoencoder.fit(
        image_examples.noisy(images.train, seed=1),
        images.train,
        epochs=epochs,
        shuffle=True,
        validation_data=(image_examples.noisy(images.test), images.test),
        verbose=0,
    ).history
    return history


def plain_undercomplete(images: Images, epochs: int) -> History:
    """Follow https://blog.keras.io/building-autoencoders-in-keras.html, the simplest one."""
    import keras
    from keras import layers

    x_train, x_test = images.train.reshape(-1, 784), images.test.reshape(-1, 784)
    image = keras.Input(shape=(784,))
    encoded = layers.Dense(32, activation="relu")(image)
    decoded = layers.Dense(784, activation="sigmoid")(encoded)
    autoencoder = keras.Model(image, decoded)
    autoencoder.compile(optimizer="adam", loss="binary_crossentropy")
    history: History = autoencoder.fit(
        x_train,
        x_train,
        epochs=epochs,
        batch_size=256,
        shuffle=True,
        validation_data=(x_test, x_test),
        verbose=0,
    ).history
    return history


def plain_vae(images: Images, epochs: int) -> History:
    """Follow https://keras.io/examples/generative/vae/, whose `train_step` is also ours."""
    import keras

    from train.images.vae import VAE

    vae = VAE()
    vae.compile(optimizer=keras.optimizers.Adam())
    digits = np.concatenate([images.train, images.test])
    history: History = vae.fit(digits, epochs=epochs, batch_size=128, verbose=0).history
    return history


PLAIN = {
    "basic": plain_basic,
    "denoise": plain_denoise,
    "undercomplete": plain_undercomplete,
    "vae": plain_vae,
}


def ours(name: str, data: Path | None, epochs: int | None, seed: int) -> dict[str, Any]:
    """Run `ecg-train NAME` and give its report; without `epochs`, as long as its recipe says."""
    from train.images import autoencoders, vae

    with tempfile.TemporaryDirectory() as folder:
        if name == "vae":
            vae.main(data, Path(folder), epochs, seed, "tuned")
        else:
            autoencoders.main(name, data, Path(folder), epochs, seed, "tuned")
        report: dict[str, Any] = json.loads(Path(folder, "report.json").read_text())
    return report


def operations(name: str) -> float:
    """Count the floating-point operations of one image's forward and backward pass.

    A multiplication and an addition count as two; the backward pass costs the forward pass twice.
    Activations and the optimiser are left out.
    """
    from train.images import autoencoders, vae

    if name == "vae":
        model = vae.VAE()
        networks = [model.encoder, model.decoder]
    else:
        networks = autoencoders.network(name).layers
    products = 0
    for layer in (layer for network in networks for layer in network.layers):
        if not layer.weights or not hasattr(layer, "kernel"):
            continue
        positions = 1  # at which the kernel is laid on: of the output, or of a transposed input
        if "Conv" in type(layer).__name__:
            side = layer.input if "Transpose" in type(layer).__name__ else layer.output
            positions = side.shape[1] * side.shape[2]
        products += positions * int(np.prod(layer.kernel.shape))
    return 2.0 * 3 * products


def convolution_peak(dtype: str) -> float:
    """Give the operations a second of the fastest 3 x 3 convolution found, in this precision."""
    import tensorflow as tf

    best = 0.0
    for side, channels in ((28, 32), (28, 64), (14, 64), (14, 128), (28, 128), (56, 256)):
        image = tf.cast(tf.random.normal([128 * 28 // side, side, side, channels]), dtype)
        kernel = tf.cast(tf.random.normal([3, 3, channels, channels]), dtype)
        convolve = tf.function(lambda x, k: tf.nn.conv2d(x, k, 1, "SAME"))
        work = 2.0 * image.shape[0] * side * side * 9 * channels * channels
        for _ in range(8):
            start = time.perf_counter()
            convolve(image, kernel).numpy()
            best = max(best, work / (time.perf_counter() - start))
    return best


@dataclass(frozen=True)
class Run:
    """Both trainings of an example with one seed: seconds and last losses, and our report."""

    plain_seconds: float
    plain_loss: float
    report: dict[str, Any]
    loss: float


def run(name: str, data: Path | None, count: int, epochs: int | None, seed: int) -> Run:
    """Train an example by the source's plain code for `count` epochs, and then by ours."""
    images = datasets.images(image_examples.EXAMPLES[name].dataset, data)
    backend.load(seed)
    start = time.perf_counter()
    history = PLAIN[name](images, count)
    seconds = time.perf_counter() - start
    report = ours(name, data, epochs, seed)
    loss = "loss" if name == "vae" else "val_loss"
    return Run(seconds, history[loss][-1], report, report["history"][loss][-1])


def main(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    data: Path | None = None,
    epochs: int | None = None,
    ours_epochs: int | None = None,
    seeds: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print a table of both trainings of each example, in seconds and in losses."""
    table = Table(
        *("", "epochs", "plain s", "ours s", "ratio", "plain loss", "ours loss"),
        *("plain GFLOP/s", "ours GFLOP/s", "peak GFLOP/s", "ours / peak"),
        box=None,
    )
    backend.load()
    for name in names or EPOCHS:
        count = epochs or EPOCHS[name]
        runs = [run(name, data, count, ours_epochs or epochs, seed) for seed in range(seeds)]
        report = runs[0].report
        plain = float(np.median([each.plain_seconds for each in runs]))
        seconds = float(np.median([each.report["seconds"] for each in runs]))
        ratios = [each.plain_seconds / each.report["seconds"] for each in runs]
        row = [
            *(name, f"{count}, {report['training']['epochs']}"),
            *(f"{plain:.1f}", f"{seconds:.1f}"),
            f"{np.median(ratios):.2f}",
            *(_losses([each.plain_loss for each in runs]), _losses([each.loss for each in runs])),
        ]
        if name in ("denoise", "vae"):
            rows = report["dataset"]["rows"]["train"]
            work = operations(name) * rows / 1e9  # an epoch's
            dtype = "bfloat16" if "bfloat16" in report["training"]["dtype"] else "float32"
            peak = convolution_peak(dtype) / 1e9
            speed = work * report["training"]["epochs"] / seconds
            row += [f"{work * count / plain:.0f}", f"{speed:.0f}", f"{peak:.0f} {dtype}"]
            row += [f"{speed / peak:.2f}"]
        table.add_row(*row)
        Console(stderr=True).print(" ".join(row), style="dim")
    Console(width=140).print(table)


def _losses(losses: list[float]) -> str:
    """Return their mean, and their spread if there are several."""
    spread = f" ± {np.std(losses):.2g}" if len(losses) > 1 else ""
    return f"{np.mean(losses):.5g}{spread}"


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    terminal.run(app)
