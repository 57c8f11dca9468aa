"""How long, how fast and in what portions a network is fitted."""

import time
from dataclasses import dataclass
from typing import Any

import keras

from monitor.ecg.beat import Floats
from train.images.progress import Epochs


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Adam, for so many epochs of so many rows a step."""

    epochs: int
    batch: int
    learning_rate: float = 0.001
    """The highest, where there is a warm-up; the only one, where there is none."""
    warm_up: float = 0.0
    """Share of the steps in which the rate rises from 0; in the rest it falls to 0 as a cosine."""
    dtype: str = "float32"
    """Keras' policy while fitting; the weights, and so the model that is exported, are float32."""
    whole_epochs: bool = False
    """All steps of an epoch in one execution: Python is asked once an epoch, not once a step."""


def fit(
    model: keras.Model,
    recipe: Recipe,
    images: Floats,
    target: Floats | None = None,
    *,
    loss: str | None = None,
    validation: tuple[Floats, Floats] | None = None,
) -> tuple[dict[str, list[float]], float]:
    """Fit `model` to make `target` of `images`, each float32 [N, 28, 28, 1].

    Gives each loss after each epoch, and the seconds of the whole training, tracing included.
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
