"""How a detector is judged, and which quantiles of its scores go on its card."""

import numpy as np
from numpy.typing import NDArray

from monitor.detector.model_file import Quantiles
from monitor.ecg.beat import Floats

LADDER = np.concatenate([np.arange(500, 900, 50), np.arange(900, 990, 10), np.arange(990, 1000)])
"""The quantiles that a card tells, in thousandths: the nearer to the end, the closer together."""


def quantiles(scores: Floats) -> Quantiles:
    """Give quantiles of `scores`, float32 [N], of normal beats that the fit has not seen.

    Linear between the ordered scores. The last one told has at least one beat above it.
    """
    told = LADDER[LADDER * len(scores) <= 1000 * (len(scores) - 1)] / 1000
    return Quantiles(
        beats=len(scores),
        probabilities=told.tolist(),
        scores=np.quantile(scores, told).tolist(),
    )


def figures(scores: Floats, normal: NDArray[np.bool_], threshold: float) -> dict[str, float]:
    """Judge `scores`, float32 [N], of beats of which `normal`, bool [N], is known.

    Accuracy, precision and recall count a normal beat as the positive class, as the TensorFlow
    tutorial does (https://www.tensorflow.org/tutorials/generative/autoencoder). The detection rate,
    the false-alarm rate, the area under the ROC curve and the average precision count an anomalous
    beat as the one to find.
    """
    from sklearn import metrics

    taken_for_normal = scores <= threshold
    return {
        "accuracy": float(metrics.accuracy_score(normal, taken_for_normal)),
        "precision": float(metrics.precision_score(normal, taken_for_normal)),
        "recall": float(metrics.recall_score(normal, taken_for_normal)),
        "detection_rate": float(np.mean(~taken_for_normal[~normal])),
        "false_alarm_rate": float(np.mean(~taken_for_normal[normal])),
        "roc_auc": float(metrics.roc_auc_score(~normal, scores)),
        "average_precision": float(metrics.average_precision_score(~normal, scores)),
    }


def highest_rate(above: int, beats: int, confidence: float = 0.95) -> float:
    """Give the upper bound of a rate of which `above` among `beats` were seen.

    Source: C. Clopper and E. Pearson, "The use of confidence or fiducial limits illustrated in the
    case of the binomial", Biometrika 26, 1934.
    """
    from scipy.stats import binomtest

    interval = binomtest(above, beats, alternative="less").proportion_ci(confidence)
    return float(interval.high)
