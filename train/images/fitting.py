"""Fit a network: epochs, batch size and learning rate."""

import time
from dataclasses import dataclass
from typing import Any

import keras

from monitor.ecg.beat import Floats
from train.images.progress import Epochs


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a training with Adam; `batch` is the number of rows in a step."""

    epochs: int
    batch: int
    learning_rate: float = 0.001
    """The highest rate if there is a warm-up, the constant rate otherwise."""
    warm_up: float = 0.0
    """Share of the steps in which the rate rises from 0; then it falls to 0 along a cosine."""
    dtype: str = "float32"
    """Keras' dtype policy during training; the weights and the exported model are float32."""
    whole_epochs: bool = False
    """Run all steps of an epoch in one call, instead of returning to Python after each step."""


def fit(
    model: keras.Model,
    recipe: Recipe,
    images: Floats,
    target: Floats | None = None,
    *,
    loss: str | None = None,
    validation: tuple[Floats, Floats] | None = None,
) -> tuple[dict[str, list[float]], float]:
    """Fit `model` to map `images` to `target`, each float32 [N, 28, 28, 1].

    Return each loss after each epoch, and the seconds of the training, including tracing.
    """
    steps = -(-len(images) // recipe.batch)
    rate: Any = recipe.learning_rate
    if recipe.warm_up:
        rising = max(1, int(recipe.warm_up * recipe.epochs * steps))
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0,
            decay_steps=recipe.epochs * steps - rising,
            warmup_target=recipe.learning_rate,
            warmup_steps=rising,
        )
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=loss,
        steps_per_execution=steps if recipe.whole_epochs else 1,
    )
    start = time.perf_counter()
    history = model.fit(
        images,
        target,
        epochs=recipe.epochs,
        batch_size=recipe.batch,
        validation_data=validation,
        callbacks=[Epochs(model.name)],
        verbose=0,
    ).history
    return history, time.perf_counter() - start
