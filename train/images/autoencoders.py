"""The autoencoders of images: `basic`, `denoise` and `undercomplete`.

Sources: "Intro to Autoencoders", first and second example, on Fashion-MNIST
(https://www.tensorflow.org/tutorials/generative/autoencoder), and "Building Autoencoders in Keras",
the simplest one, on MNIST (https://blog.keras.io/building-autoencoders-in-keras.html).
"""

from dataclasses import asdict, replace
from pathlib import Path

import keras
from keras import layers

from monitor.batch import datasets, image_examples, plots
from monitor.detector.model_file import Card, Dataset
from train import backend
from train.export import export, provenance
from train.images.fitting import Recipe, fit
from train.images.report import Report

# --- the sources' settings -----------------------------------------------------------------------
TUTORIAL = {
    "basic": Recipe(epochs=10, batch=32),
    "denoise": Recipe(epochs=10, batch=32),
    "undercomplete": Recipe(epochs=50, batch=256),
}

# --- ours ----------------------------------------------------------------------------------------
TUNED = {
    "basic": Recipe(epochs=10, batch=64, learning_rate=0.004, warm_up=0.1, whole_epochs=True),
    "denoise": Recipe(epochs=10, batch=64, learning_rate=0.008, warm_up=0.1, whole_epochs=True),
    # With the decay, half the epochs reach a lower loss than the source's.
    "undercomplete": Recipe(
        epochs=25, batch=256, learning_rate=0.004, warm_up=0.1, whole_epochs=True
    ),
}

RECIPES = {"tutorial": TUTORIAL, "tuned": TUNED}

LOSS = {"basic": "mse", "denoise": "mse", "undercomplete": "binary_crossentropy"}


def network(name: str) -> keras.Sequential:
    """Return the encoder and decoder of an example in sequence, image [N, 28, 28, 1] to image."""
    if name == "denoise":
        encoder = [
            layers.Conv2D(16, 3, activation="relu", padding="same", strides=2),
            layers.Conv2D(8, 3, activation="relu", padding="same", strides=2),
        ]
        decoder = [
            layers.Conv2DTranspose(8, 3, strides=2, activation="relu", padding="same"),
            layers.Conv2DTranspose(16, 3, strides=2, activation="relu", padding="same"),
            layers.Conv2D(1, 3, activation="sigmoid", padding="same"),
        ]
        code: tuple[int, ...] = (7, 7, 8)
    else:
        code = ({"basic": 64, "undercomplete": 32}[name],)
        encoder = [layers.Flatten(), layers.Dense(code[0], activation="relu")]
        decoder = [layers.Dense(784, activation="sigmoid"), layers.Reshape((28, 28, 1))]
    return keras.Sequential(
        [
            keras.Sequential([keras.Input((28, 28, 1)), *encoder], name="encoder"),
            keras.Sequential([keras.Input(code), *decoder], name="decoder"),
        ],
        name=name,
    )


def main(
    name: str, data: Path | None, out: Path, epochs: int | None, seed: int, recipe: str
) -> None:
    """Train one example; write its figures, `report.json` and `NAME.onnx` to `out`."""
    out.mkdir(parents=True, exist_ok=True)  # fail before the work if that is impossible

    # Data: the noise for training has another seed than the noise for measuring
    images = datasets.images(image_examples.EXAMPLES[name].dataset, data)
    given, validation = images.train, images.test
    if name == "denoise":
        given, validation = (
            image_examples.noisy(given, seed=1 + seed),
            image_examples.noisy(validation),
        )

    # Model
    backend.load(seed)
    model = network(name)
    encoder, decoder = model.layers

    # Fit: the validation part is the test part, as in the sources; nothing is chosen by it
    settings = RECIPES[recipe][name]
    if epochs:
        settings = replace(settings, epochs=epochs)
    history, seconds = fit(
        model,
        settings,
        given,
        images.train,
        loss=LOSS[name],
        validation=(validation, images.test),
    )

    # Measure and draw
    measured = image_examples.reconstruction(
        name, lambda batch: {"reconstruction": model.predict_on_batch(batch)}, images, out
    )
    measured |= {"loss": history["loss"][-1], "val_loss": history["val_loss"][-1]}
    plots.losses(out / "losses.png", history)
    codes = encoder.predict(images.test, verbose=0).reshape(len(images.test), -1)
    mean, directions = image_examples.principal(codes, 2)
    plots.latent(
        out / "latent.png",
        (codes - mean) @ directions.T,
        images.test_labels,
        images.classes,
        ("first principal direction of the code", "second principal direction"),
    )

    # Export
    card = Card(
        **provenance(),
        name=name,
        kind="image",
        dataset=Dataset(
            name=images.name,
            sha256=images.sha256,
            rows={"train": len(images.train), "test": len(images.test)},
        ),
        split="the publisher's training and test images; the figures are the test images'",
        training={"recipe": recipe, "seed": seed, **asdict(settings)},
        figures=measured,
    )
    proof = image_examples.noisy(images.test[:1000]) if name == "denoise" else images.test[:1000]
    export(
        out / f"{name}.onnx",
        lambda image: {"reconstruction": model(image)},
        card,
        proof,
        {"reconstruction": model.predict(proof, verbose=0)},
    )
    Report(
        name=name,
        published=image_examples.EXAMPLES[name].published,
        figures=measured,
        training=card.training,
        seconds=seconds,
        history=history,
        dataset=card.dataset,
        parameters={"encoder": encoder.count_params(), "decoder": decoder.count_params()},
    ).write(out, [encoder, decoder])
