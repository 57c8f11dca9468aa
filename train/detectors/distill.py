"""Teaches one network what several have learnt, so that it detects as they do for less work.

Source: G. Hinton, O. Vinyals and J. Dean, "Distilling the knowledge in a neural network", 2015
(https://arxiv.org/abs/1503.02531). Several networks, averaged, find more because they disagree on
beats unlike those they were fitted to; the student must therefore see such beats too. It sees
normal beats that are mixed, bent and made noisy, never an abnormal one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.beat import SAMPLES, Floats
from train.detectors import ensemble

COPIES = 40  # of each beat, each bent in another way
EPOCHS = 5
BUMPS = 3  # on a beat, on average
NOISE = 0.05  # on average, in deviations of the beat; a bump has one


def students(
    beats: Floats,
    folds: NDArray[np.int64],
    teachers: Sequence[Any],
    seed: int,
    epochs: int = EPOCHS,
) -> list[Any]:
    """Fit a student to each teacher, and one to the mean of them all.

    `beats`, float32 [N, 140], are centred and of one scale; teacher k was fitted without those
    whose number in `folds`, int64 [N], is k, and so is its student. Returns the students as Keras
    models, the one of all teachers last.
    """
    random = np.random.default_rng(seed)
    rows = [np.flatnonzero(folds == k) for k in range(len(teachers))]
    # Beats are mixed within a fold: a student must not meet half of a beat that is held out.
    bent = np.concatenate([bend(beats[own], random) for own in rows])
    origin = np.concatenate([np.full(COPIES * len(own), k) for k, own in enumerate(rows)])
    taught = np.stack([np.asarray(teacher(bent)) for teacher in teachers])
    return ensemble.fit(
        bent,
        [np.flatnonzero(origin != k) for k in range(len(teachers))] + [np.arange(len(bent))],
        seed,
        epochs,
        targets=np.concatenate([taught, taught.mean(axis=0, keepdims=True)]),
    )


def bend(beats: Floats, random: np.random.Generator) -> Floats:
    """Give copies of `beats`, float32 [N, 140] to [40 N, 140]: mixed in pairs, bumps, noise."""
    one = np.tile(beats, (COPIES, 1))
    count = len(one)
    half = random.random((3, count, 1)) < 0.5  # each of three changes comes to half of the copies
    other = beats[random.integers(len(beats), size=count)]
    mixed = one + half[0] * random.random((count, 1)) * (other - one)
    samples = np.arange(SAMPLES)
    bumps = np.zeros((count, SAMPLES))
    for _ in range(2 * BUMPS):
        centre = random.uniform(0, SAMPLES, (count, 1))
        width = np.exp(random.uniform(np.log(3), np.log(30), (count, 1)))
        height = random.normal(size=(count, 1)) * (random.random((count, 1)) < 0.5)
        bumps += height * np.exp(-0.5 * ((samples - centre) / width) ** 2)
    noise = random.exponential(NOISE, (count, 1)) * random.normal(size=(count, SAMPLES))
    bent = mixed + half[1] * bumps + half[2] * noise
    bent -= bent.mean(axis=1, keepdims=True)
    scaled: Floats = (bent / bent.std(axis=1, keepdims=True)).astype(np.float32)
    return scaled
