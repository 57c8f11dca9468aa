"""What a detector's graph computes around its networks: the beat made comparable, and the score.

Source: reconstruction errors as scores go back to N. Japkowicz, C. Myers and M. Gluck, "A novelty
detection approach to classification", IJCAI 1995; the rest was chosen on validation beats, see
docs/detector.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monitor.ecg.beat import SAMPLES, Floats
from train.export import Graph

SMALLEST = 1e-6  # a flat beat has no deviation to divide by


@dataclass(frozen=True)
class Scoring:
    """How the difference between a beat and its reconstruction becomes one number.

    The residual is averaged over `smooth` neighbours, squared, weighted, averaged over the beat,
    and `floor` is added; several networks share the geometric mean of theirs.
    """

    smooth: int
    """Samples, odd. Noise changes from sample to sample; another shape of the beat does not."""
    weights: Floats
    """[140], how much each sample of a beat counts; their mean is 1."""
    floor: float
    """In units of the beat's variance: a residual much below it tells one beat from no other."""
    unit: float | None
    """What a beat is divided by after its mean is taken off; None for its own deviation."""
    either_way_up: bool
    """Whether a beat may fit upside down: the leads of a patient may be put on the wrong way."""

    def emphasis(self) -> Floats:
        """Give smoothing and weights as one product: float32 [140, 47], every third average."""
        centres = range(1, SAMPLES, 3)
        product = np.zeros((SAMPLES, len(centres)), np.float32)
        for column, centre in enumerate(centres):
            for sample in range(centre - self.smooth // 2, centre + self.smooth // 2 + 1):
                # Beyond the ends of the beat the residual goes on as it is there.
                product[min(max(sample, 0), SAMPLES - 1), column] += 1 / self.smooth
            product[:, column] *= np.sqrt(self.weights[centre] / len(centres))
        return product


def graph(networks: Sequence[Any], scoring: Scoring) -> Graph:
    """Put scaling and scoring around networks; of several, their mean reconstruction and score."""
    import tensorflow as tf

    emphasis = scoring.emphasis()

    def one(beat: Any) -> tuple[Any, Any]:
        total_score, total_output = 0.0, 0.0
        for network in networks:
            output = network(beat)
            squares = tf.square(tf.matmul(beat - output, emphasis))
            total_score += tf.math.log(tf.reduce_sum(squares, axis=1) + scoring.floor)
            total_output += output
        return total_output / len(networks), total_score / len(networks)

    def scored(beat: Any) -> dict[str, Any]:
        mean = tf.reduce_mean(beat, axis=1, keepdims=True)
        centred = beat - mean
        unit = (
            tf.sqrt(tf.reduce_mean(tf.square(centred), axis=1, keepdims=True)) + SMALLEST
            if scoring.unit is None
            else tf.constant(scoring.unit, tf.float32)
        )
        shape = centred / unit
        if scoring.either_way_up:
            # Both ways up in one pass: half the operators, the same numbers.
            outputs, scores = one(tf.concat([shape, -shape], axis=0))
            (output, other_output), (score, other_score) = tf.split(outputs, 2), tf.split(scores, 2)
            output = tf.where((score <= other_score)[:, tf.newaxis], output, -other_output)
            score = tf.minimum(score, other_score)
        else:
            output, score = one(shape)
        # Back from the logarithm: a ratio of score to threshold then says how much worse it is.
        return {"reconstruction": output * unit + mean, "score": tf.exp(score)}

    return scored


def comparable(beats: Floats, scoring: Scoring) -> Floats:
    """Centre and scale beats, float32 [N, 140], as the graph does, for the networks to learn."""
    centred = beats - beats.mean(axis=1, keepdims=True)
    unit = scoring.unit or centred.std(axis=1, keepdims=True) + SMALLEST
    scaled: Floats = (centred / unit).astype(np.float32)
    return scaled


def outputs(scored: Graph, beats: Floats, rr: Floats | None = None) -> dict[str, Floats]:
    """Run a graph in Keras: `reconstruction` float32 [N, 140] and `score` float32 [N].

    With a second opinion it takes `rr`, too, float32 [N, 32], and gives `ventricular` float32 [N].
    """
    import tensorflow as tf

    inputs = (beats,) if rr is None else (beats, rr)
    return {name: value.numpy() for name, value in scored(*map(tf.constant, inputs)).items()}
