"""A second opinion on a patient's beats, by networks taught on other patients' beats.

A patient's autoencoder knows his usual shape, but nothing of rhythm, nor of what other shapes mean.
Small networks, taught on annotated records of others (`teaching`), see how far a beat is from his
usual ones, where, and when it came. What they see is centred and scaled by his own usual beats, so
that a heart they were not taught on looks like those they were.

RR intervals relative to their neighbourhood, and the shape of the beat, as the features that carry
over from patient to patient: P. de Chazal, M. O'Dwyer and R. Reilly, "Automatic classification of
heartbeats using ECG morphology and heartbeat interval features", IEEE Transactions on Biomedical
Engineering 51(7), 2004 (https://doi.org/10.1109/TBME.2004.827359).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.detector.rr_history import INTERVALS
from monitor.ecg.beat import SAMPLES, Floats
from monitor.ecg.rpeaks import Signal
from train.export import Graph

SHIPPED: Final = Path(__file__).with_suffix(".npz")
"""The taught networks that come with the package; `ecg-train second-opinion` writes them."""

CLASSES: Final = "NSVF"
"""What the networks tell apart: AAMI's classes but Q, of which there are hardly any."""

PARTS: Final = 14
"""Parts of a beat, of 36 ms each, whose energies are looked at."""

ALIKE: Final = 0.07
"""Of the logarithm of two RR intervals: 7 %, which a regular heart's differ by at most."""

USUAL: Final = 0.7
"""Share of a patient's first beats, those his autoencoder explains best, that are his usual."""
SPREAD_FLOOR: Final = 0.15
"""Added to their spread: in a quiet minute it is smaller than what an hour will show."""
FARTHEST: Final = 12.0
"""Spreads beyond which a feature is not followed: how far off a strange beat is teaches nothing."""

UNEXPLAINED: Final = 8.0
"""Autoencoder scores, in thresholds, above which a beat is anomalous whatever the networks say:
they have not seen everything."""

ODDS: Final = 0.8
"""Odds of abnormal to normal at the threshold: of those whose F1 on records left out is the best to
0.005 the highest, which flags the fewest normal beats."""

SUREST: Final = 10.0
"""Logarithm of the odds beyond which a network's certainty says nothing more: 22,000 to one."""


class Usual(NamedTuple):
    """What a patient's usual beats are like.

    Attributes:
        template: float32 [140], the usual beat, centred, of unit deviation, its main peak upwards.
        unit: the deviation that it had, in the source's units.
        sign: -1 where its main peak pointed down.
        threshold: of his autoencoder's score.
        centre, spread: float32 [F], of the features of `shape`.
    """

    template: Floats
    unit: float
    sign: float
    threshold: float
    centre: Floats
    spread: Floats


Weights = Sequence[Floats]
"""Of one network: the kernel and the bias of each layer in turn."""


@dataclass(frozen=True)
class Networks:
    """Taught networks, whose logits are averaged."""

    weights: Sequence[Weights]

    def logits(self, features: Any) -> Any:
        """Return the networks' mean logits, float32 [N, 4] by `CLASSES`, of features [N, F + R]."""
        import tensorflow as tf

        *hidden, (kernel, bias) = self._merged()
        layer = features
        for wide, its_bias in hidden:
            layer = tf.nn.relu(tf.matmul(layer, wide) + its_bias)
        return tf.matmul(layer, kernel) + bias

    def _merged(self) -> list[tuple[Floats, Floats]]:
        """Return kernels and biases of one wide network that gives the mean of these.

        onnxruntime then has three products to run, not nine.
        """
        kernels = list(zip(*(layers[0::2] for layers in self.weights), strict=True))
        biases = list(zip(*(layers[1::2] for layers in self.weights), strict=True))
        return [
            (np.concatenate(kernels[0], axis=1), np.concatenate(biases[0])),
            *(
                (_block_diagonal(kernel), np.concatenate(bias))
                for kernel, bias in zip(kernels[1:-1], biases[1:-1], strict=True)
            ),
            (
                (np.concatenate(kernels[-1]) / len(kernels[-1])).astype(np.float32),
                np.mean(biases[-1], axis=0, dtype=np.float32),
            ),
        ]


@dataclass(frozen=True)
class Taught:
    """What `teaching` wrote: the networks, those of each fold, and a card.

    Attributes:
        networks: taught on all records.
        folds: networks that are each taught without the records of one fold.
        card: what they were taught on and how, and their figures. `records` has for each record its
            name, the SHA-256 of its signal, and its fold.
    """

    networks: Networks
    folds: Sequence[Networks]
    card: Mapping[str, Any]

    def for_signal(self, signal: Signal) -> Networks:
        """Return the networks for a record: where it taught them, those that have not seen it."""
        own = sha256(signal)
        for record in self.card["records"]:
            if record["sha256"] == own:
                fold: int = record["fold"]
                return self.folds[fold]
        return self.networks

    @property
    def described(self) -> dict[str, Any]:
        """What the card of a patient's model file says of them."""
        figures = self.card["figures"].items()
        return {
            "records": len(self.card["records"]),
            "f1_of_records_left_out": {
                database: round(row["second opinion"]["f1"], 4) for database, row in figures
            },
            "created": self.card["created"],
            "odds": ODDS,
            "unexplained": UNEXPLAINED,
        }

    def save(self, path: Path) -> None:
        """Write an `.npz` file."""
        arrays = {
            f"{name}.{k}.{i}": array
            for name, networks in zip(
                ("all", *map(str, range(len(self.folds)))),
                (self.networks, *self.folds),
                strict=True,
            )
            for k, layers in enumerate(networks.weights)
            for i, array in enumerate(layers)
        }
        np.savez(path, **arrays, card=np.array(json.dumps(self.card)))  # type: ignore[arg-type]

    @staticmethod
    def load(path: Path = SHIPPED) -> "Taught":
        """Read what `save` wrote to `path`."""
        with np.load(path) as file:
            card = json.loads(str(file["card"]))
            layers = 2 * (len(card["widths"]) + 1)

            def networks(name: str) -> Networks:
                return Networks(
                    [
                        [file[f"{name}.{k}.{i}"] for i in range(layers)]
                        for k in range(card["networks"])
                    ]
                )

            return Taught(
                networks("all"), [networks(str(fold)) for fold in range(card["folds"])], card
            )


def sha256(signal: Signal) -> str:
    """Return what tells a record from others: the SHA-256 of its signal as it is read."""
    return hashlib.sha256(signal.tobytes()).hexdigest()


def _block_diagonal(kernels: Sequence[Floats]) -> Floats:
    rows = [
        [kernel if i == k else np.zeros_like(kernel) for i in range(len(kernels))]
        for k, kernel in enumerate(kernels)
    ]
    return np.block(rows).astype(np.float32)


def usual(first: Floats, inliers: NDArray[np.bool_], scores: Floats, threshold: float) -> Usual:
    """Describe a patient's usual beats.

    Args:
        first: float32 [N, 140], the beats of his first minutes that can be believed.
        inliers: bool [N], those that his autoencoder was fitted to.
        scores: float32 [N], that his autoencoder gives them; `threshold`: its threshold.
    """
    own = first[inliers]
    template = np.median(own - own.mean(axis=1, keepdims=True), axis=0)
    template -= template.mean()
    unit = max(float(template.std()), 1e-6)
    template /= unit
    sign = -1.0 if (template**3).sum() < 0 else 1.0
    plain = Usual(
        (sign * template).astype(np.float32), unit, sign, threshold,
        np.zeros(1, np.float32), np.ones(1, np.float32),
    )  # fmt: skip
    nearest = scores <= np.quantile(scores, USUAL)
    seen = shape(first[nearest], scores[nearest], plain).numpy()
    centre = np.median(seen, axis=0)
    spread = 1.48 * np.median(np.abs(seen - centre), axis=0)
    return plain._replace(centre=centre, spread=spread)


def shape(beat: Any, score: Any, patient: Usual) -> Any:
    """Return features of the shape, [N, F], before they are centred on the patient's usual ones.

    `beat`: [N, 140] in the source's units; `score`: [N], his autoencoder's. A beat that this
    explains, and that is the template upside down, is turned over: its lead is on the wrong way.
    """
    import tensorflow as tf

    template = tf.constant(patient.template)
    x = (beat - tf.reduce_mean(beat, axis=1, keepdims=True)) * (patient.sign / patient.unit)
    x = tf.clip_by_value(x, -8.0, 8.0)
    along = tf.matmul(x, template[:, tf.newaxis]) / SAMPLES
    upside_down = tf.logical_and(along < 0, score[:, tf.newaxis] <= patient.threshold)
    turned = tf.where(upside_down, -1.0, 1.0)
    x, along = x * turned, along * turned
    squares = tf.square(tf.concat([x - template, x], axis=1))
    energy = tf.math.log(tf.matmul(squares, _energies()) + 0.01)
    slope = tf.abs(x[:, 1:] - x[:, :-1])
    return tf.concat(
        [
            energy,
            tf.matmul(x, _means()),
            along * tf.exp(-energy[:, -1:] / 2),  # the correlation with the template
            tf.math.log(tf.reduce_max(slope, axis=1, keepdims=True) + 0.001),
            tf.math.log(tf.reduce_mean(slope, axis=1, keepdims=True) + 0.001),
            tf.reduce_max(x, axis=1, keepdims=True),
            tf.reduce_min(x, axis=1, keepdims=True),
            tf.math.log(score / patient.threshold + 1e-6)[:, tf.newaxis],
        ],
        axis=1,
    )


def _means() -> Floats:
    """The means of the parts of a beat as a product: float32 [140, 14]."""
    return np.kron(np.eye(PARTS), np.full((SAMPLES // PARTS, 1), PARTS / SAMPLES)).astype(
        np.float32
    )


def _energies() -> Floats:
    """Energies of difference and beat by part; of the difference's QRS, and of both: [280, 31]."""
    parts, whole = _means(), np.full((SAMPLES, 1), 1 / SAMPLES, np.float32)
    qrs = np.zeros((SAMPLES, 1), np.float32)
    qrs[35:90] = 1 / 55  # 75 ms before to 120 ms after the R peak
    none = np.zeros_like(whole)
    return np.block(
        [[parts, 0 * parts, qrs, whole, none], [0 * parts, parts, none, none, whole]]
    ).astype(np.float32)


def rhythm(rr: Any) -> Any:
    """Return features of the rhythm, [N, R], of `rr`, [N, 32] in ms, newest first, 0 unknown."""
    import tensorflow as tf

    known = tf.cast(rr > 0, tf.float32)
    count = tf.reduce_sum(known, axis=1, keepdims=True)
    order = tf.constant(np.arange(INTERVALS, dtype=np.float32))
    middle = tf.cast(tf.equal(order, tf.floor(tf.maximum(count - 1, 0) / 2)), tf.float32)
    falling = tf.math.top_k(rr, INTERVALS).values
    median = tf.reduce_sum(falling * middle, axis=1, keepdims=True)
    median = tf.where(median > 0, median, 800.0)
    ratio = tf.clip_by_value(tf.math.log(tf.maximum(rr, 1.0) / median), -1.2, 1.2) * known
    now, past = ratio[:, :1], ratio[:, 1:]
    linear, steps, irregular, kept = _rhythm_products()
    irregularity = tf.matmul(tf.abs(ratio), irregular)
    mean = np.full((INTERVALS - 1, 1), 1 / (INTERVALS - 1), np.float32)
    earlier = tf.matmul(tf.cast(past < now, tf.float32), mean)
    alike = tf.matmul(tf.cast(tf.abs(past - now) < ALIKE, tf.float32), mean)
    return tf.concat(
        [
            ratio[:, :5],
            tf.matmul(tf.math.top_k(past, INTERVALS - 1).values, kept),
            irregularity,
            tf.matmul(tf.abs(tf.matmul(ratio, steps[0])), steps[1]),
            tf.matmul(ratio, linear),
            tf.clip_by_value(now / (0.05 + irregularity), -10.0, 10.0),
            earlier,
            alike,
            tf.math.log(median / 800),
            known[:, :1],
            count / INTERVALS,
        ],
        axis=1,
    )


def _rhythm_products() -> tuple[Floats, tuple[Floats, Floats], Floats, Floats]:
    """Return what is linear in the ratios, or in their sizes, as products.

    The mean of eight intervals before the one at the beat, the beat's difference to it and
    to the last of them: [32, 3]. The steps from interval to interval, [32, 30], and their mean over
    all and over seven: [30, 2]. The mean of the 31: [32, 1]. Five quantiles of those: [31, 5].
    """
    linear = np.zeros((INTERVALS, 3), np.float32)
    linear[1:9, 0], linear[1:9, 1] = 1 / 8, -1 / 8
    linear[0, 1:], linear[1, 2] = 1, -1
    count = INTERVALS - 2
    steps = np.zeros((INTERVALS, count), np.float32)
    steps[np.arange(2, INTERVALS), np.arange(count)] = 1
    steps[np.arange(1, INTERVALS - 1), np.arange(count)] = -1
    means = np.zeros((count, 2), np.float32)
    means[:, 0], means[:7, 1] = 1 / count, 1 / 7
    irregular = np.full((INTERVALS, 1), 1 / (INTERVALS - 1), np.float32)
    irregular[0] = 0
    kept = np.zeros((INTERVALS - 1, 5), np.float32)
    kept[(3, 7, 15, 23, 27), np.arange(5)] = 1
    return linear, (steps, means), irregular, kept


def features(beat: Any, score: Any, rr: Any, patient: Usual) -> Any:
    """Return all that the networks see of beats, [N, F + R]: see `shape` and `rhythm`."""
    import tensorflow as tf

    own = (shape(beat, score, patient) - patient.centre) / (patient.spread + SPREAD_FLOOR)
    return tf.concat([tf.clip_by_value(own, -FARTHEST, FARTHEST), rhythm(rr)], axis=1)


def judged(networks: Networks, seen: Any, score: Any, patient: Usual) -> tuple[Any, Any]:
    """Return the score, [N], anomalous above 1, and how likely the beat is ventricular, [N].

    A fusion of a ventricular and a normal beat counts as ventricular.
    """
    import tensorflow as tf

    logits = networks.logits(seen)
    log_odds = tf.reduce_logsumexp(logits[:, 1:], axis=1) - logits[:, 0]
    odds = tf.exp(tf.minimum(log_odds, SUREST))
    unexplained = score / (patient.threshold * UNEXPLAINED)
    return tf.maximum(odds / ODDS, unexplained), tf.reduce_sum(tf.nn.softmax(logits)[:, 2:], axis=1)


def graph(own: Graph, networks: Networks, patient: Usual) -> Any:
    """Put the second opinion behind a patient's own graph: a function of `beat` and `rr`.

    `rr` may have a single row for all beats, as the default of the model file has.
    """
    import tensorflow as tf

    def scored(beat: Any, rr: Any) -> dict[str, Any]:
        first = own(beat)
        each = rr + tf.zeros_like(beat[:, :1])
        seen = features(beat, first["score"], each, patient)
        score, ventricular = judged(networks, seen, first["score"], patient)
        return {
            "reconstruction": first["reconstruction"],
            "score": score,
            "ventricular": ventricular,
        }

    return scored
