"""Train the variational autoencoder of Keras' examples, on MNIST's training and test digits.

Source: "Variational AutoEncoder", https://keras.io/examples/generative/vae/; the method is that of
Kingma and Welling, "Auto-Encoding Variational Bayes", 2013.
"""

from dataclasses import asdict, replace
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from monitor.batch import datasets, image_examples, plots
from monitor.detector.model_file import Card, Dataset, Kind
from monitor.ecg.beat import Floats
from train import backend
from train.export import export, provenance
from train.images.fitting import Recipe, fit
from train.images.report import Report

RECIPES = {
    "tutorial": Recipe(epochs=30, batch=128),  # the source's settings
    "tuned": Recipe(epochs=30, batch=128, learning_rate=0.002, warm_up=0.1, dtype="mixed_bfloat16"),
}


def multiplies_bfloat16() -> bool:
    """Return whether the processor has matrix units for bfloat16, which is slower without them."""
    described = Path("/proc/cpuinfo")
    return described.exists() and "amx_bf16" in described.read_text()


class Sampling(layers.Layer):  # type: ignore[misc]  # keras has no types
    """Draws z [N, 2] from the normal distribution of `z_mean` and `z_log_var`, each [N, 2]."""

    def __init__(self) -> None:
        """Create a generator for the draws, seeded by Keras' global seed."""
        super().__init__(dtype="float32")
        self.generator = keras.random.SeedGenerator()

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Return a draw, by the reparametrisation trick."""
        mean, log_variance = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.generator)
        return mean + ops.exp(0.5 * log_variance) * noise


def encoder() -> keras.Model:
    """Return the network from image [N, 28, 28, 1] to `z_mean`, `z_log_var` and a sample z."""
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(32, 3, activation="relu", strides=2, padding="same")(image)
    x = layers.Conv2D(64, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(16, activation="relu")(x)
    mean = layers.Dense(2, name="z_mean", dtype="float32")(x)
    log_variance = layers.Dense(2, name="z_log_var", dtype="float32")(x)
    z = Sampling()([mean, log_variance])
    return keras.Model(image, [mean, log_variance, z], name="encoder")


def decoder() -> keras.Model:
    """Return the network from z [N, 2] to image [N, 28, 28, 1]."""
    z = keras.Input((2,))
    x = layers.Dense(7 * 7 * 64, activation="relu")(z)
    x = layers.Reshape((7, 7, 64))(x)
    x = layers.Conv2DTranspose(64, 3, activation="relu", strides=2, padding="same")(x)
    x = layers.Conv2DTranspose(32, 3, activation="relu", strides=2, padding="same")(x)
    image = layers.Conv2DTranspose(1, 3, activation="sigmoid", padding="same", dtype="float32")(x)
    return keras.Model(z, image, name="decoder")


class VAE(keras.Model):  # type: ignore[misc]  # keras has no types
    """Encoder and decoder, trained on the sum of reconstruction loss (over pixels) and KL."""

    def __init__(self) -> None:
        """Build both networks."""
        super().__init__(name="vae")
        self.encoder = encoder()
        self.decoder = decoder()
        self.means = [keras.metrics.Mean(name) for name in ("loss", "reconstruction", "kl")]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The losses, in nats an image, which Keras resets before each epoch."""
        return self.means

    def train_step(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Take one gradient step that raises the evidence lower bound."""
        with tf.GradientTape() as tape:
            mean, log_variance, z = self.encoder(images)
            pixels = keras.losses.binary_crossentropy(images, self.decoder(z))
            reconstruction = ops.mean(ops.sum(pixels, axis=(1, 2)))
            divergence = -0.5 * (1 + log_variance - ops.square(mean) - ops.exp(log_variance))
            kl = ops.mean(ops.sum(divergence, axis=1))
            loss = reconstruction + kl
        weights = self.encoder.trainable_weights + self.decoder.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        for metric, value in zip(self.means, (loss, reconstruction, kl), strict=True):
            metric.update_state(value)
        return {metric.name: metric.result() for metric in self.means}


def main(data: Path | None, out: Path, epochs: int | None, seed: int, recipe: str) -> None:
    """Train the VAE; write figures, `report.json` and both model files to `out`."""
    out.mkdir(parents=True, exist_ok=True)  # fail before the work if that is impossible

    # Data: training and test digits together, as in the source
    images = datasets.images("mnist", data)
    digits = np.concatenate([images.train, images.test])

    # Model
    settings = RECIPES[recipe]
    if epochs:
        settings = replace(settings, epochs=epochs)
    if not multiplies_bfloat16():
        settings = replace(settings, dtype="float32")
    backend.load(seed)
    keras.config.set_dtype_policy(settings.dtype)
    fitted = VAE()

    # Fit
    history, seconds = fit(fitted, settings, digits)
    keras.config.set_dtype_policy("float32")
    model = VAE()
    model.encoder.set_weights(fitted.encoder.get_weights())
    model.decoder.set_weights(fitted.decoder.get_weights())

    # Measure and draw
    def encode(batch: Floats) -> dict[str, Floats]:
        mean, log_variance, _ = model.encoder.predict_on_batch(batch)
        return {"z_mean": mean, "z_log_var": log_variance}

    def decode(batch: Floats) -> dict[str, Floats]:
        return {"image": model.decoder.predict_on_batch(batch)}

    measured = image_examples.vae(encode, decode, images, out)
    measured |= {f"training_{name}": losses[-1] for name, losses in history.items()}
    plots.losses(out / "losses.png", history)

    # Export
    training = {"recipe": recipe, "seed": seed, **asdict(settings)}
    dataset = Dataset(
        name="mnist",
        sha256=images.sha256,
        rows={"train": len(digits), "test": len(images.test)},
    )
    split = "none: trained on the training and the test digits together, as its source is; "
    split += "the figures are the test digits'"

    def card(name: str, kind: Kind) -> Card:
        return Card(
            **provenance(),
            name=name,
            kind=kind,
            dataset=dataset,
            split=split,
            training=training,
            figures=measured,
        )

    def encoder_graph(image: tf.Tensor) -> dict[str, tf.Tensor]:
        mean, log_variance, _ = model.encoder(image)
        return {"z_mean": mean, "z_log_var": log_variance}

    proof = images.test[:1000]
    code = encode(proof)
    export(out / "vae-encoder.onnx", encoder_graph, card("vae-encoder", "vae-encoder"), proof, code)
    z = code["z_mean"]
    export(
        out / "vae-decoder.onnx",
        lambda z: {"image": model.decoder(z)},
        card("vae-decoder", "vae-decoder"),
        z,
        decode(z),
    )
    Report(
        name="vae",
        published=image_examples.EXAMPLES["vae"].published,
        figures=measured,
        training=training,
        seconds=seconds,
        history=history,
        dataset=dataset,
        parameters={part.name: part.count_params() for part in (model.encoder, model.decoder)},
    ).write(out, [model.encoder, model.decoder])
