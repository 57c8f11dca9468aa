"""The detector that ships: normal beats of ECG5000 alone, its threshold from beats held out.

Five networks are each fitted to four fifths of the training part's normal beats; together they
teach one (`distill`), which detects as they do for a fifth of the work. For the threshold and
the quantiles each of the five has a student of its own, which scores the fifth that neither has
seen. With `networks=5` the five score themselves, by their geometric mean; with `networks=1` a
network alone, fitted to all the beats (`ecg-train evaluate` prints all three).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.batch import datasets
from monitor.detector.model_file import Dataset, DetectorCard, Threshold
from monitor.ecg.beat import SAMPLES, Floats
from train import backend
from train.detectors import distill, ensemble, metrics, score_graph, speed
from train.export import Graph, export, provenance

TEST_SHARE = 0.2  # of all beats, kept for the figures
SPLIT_STATE = 21
FOLDS = 5
FALSE_ALARM_RATE = 0.01
EPOCHS = ensemble.EPOCHS

# Chosen on beats of the training part, over five splits of it: see docs/detector.md
SMOOTH = 9
QUIET = 105  # ECG5000's normal beats vary before this sample, and its anomalous ones differ after
QUIET_WEIGHT = 0.03


class Fitted(NamedTuple):
    """A detector, and what it says of normal beats that were not fitted.

    `held_out` are scores, float32 [N], one for each beat, each by a network that did not see it.
    """

    networks: Sequence[Any]
    graph: Graph
    held_out: Floats


def main(
    data: Path | None,
    out: Path,
    epochs: int = EPOCHS,
    seed: int = 0,
    networks: int | None = None,
) -> None:
    """Train the detector and write `ecg.onnx` to the folder `out`."""
    backend.load(seed)
    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be had is told before the work

    # Data
    ecg = datasets.ecg(data)
    train, test, train_is_normal, test_is_normal = split(ecg)
    normal = train[train_is_normal]

    # Fit
    one, five = fit_both(normal, seed, scoring(), epochs)
    fitted = one if networks == 1 else five
    taught_epochs = min(epochs, distill.EPOCHS)
    if networks is None:
        fitted = teach(five, normal, seed, scoring(), taught_epochs)
    threshold = float(np.quantile(fitted.held_out, 1 - FALSE_ALARM_RATE))

    # Judge
    expected = score_graph.outputs(fitted.graph, test)
    figures = metrics.figures(expected["score"], test_is_normal, threshold)
    for name, figure in figures.items():
        print(f"{name}: {figure:.4f}")

    # Export
    export(
        out / "ecg.onnx",
        fitted.graph,
        DetectorCard(
            **provenance(),
            name="ecg",
            kind="detector",
            dataset=Dataset(
                name="ECG5000",
                sha256=ecg.sha256,
                rows={
                    "fitted": len(normal),
                    "held_out": len(fitted.held_out),
                    "test": len(test),
                    "test_normal": int(test_is_normal.sum()),
                },
            ),
            split=f"scikit-learn's train_test_split with test_size={TEST_SHARE} and random_state="
            f"{SPLIT_STATE}; fitted on the normal beats of the training part; for the threshold "
            f"and the quantiles each of them was scored by a network fitted to {FOLDS - 1} fifths "
            "without it; the figures are the test part's",
            training={"recipe": "tuned", "seed": seed, "networks": networks or 1}
            | described(epochs)
            | (
                {"taught_by": FOLDS, "copies": distill.COPIES, "taught_epochs": taught_epochs}
                if networks is None
                else {}
            ),
            figures=figures,
            threshold=Threshold(
                value=threshold,
                chosen=f"{FALSE_ALARM_RATE:.0%} of the held-out normal beats lie above it",
            ),
            quantiles=metrics.quantiles(fitted.held_out),
            segmentation=None,
        ),
        inputs=test,
        expected=expected,
    )
    print(f"wrote {out / 'ecg.onnx'}")
    speed.measure(out / "ecg.onnx", test)


def scoring() -> score_graph.Scoring:
    """Say how a beat of ECG5000 is scored; its beats come centred and of unit deviation."""
    weights = np.where(np.arange(SAMPLES) < QUIET, QUIET_WEIGHT, 1).astype(np.float32)
    return score_graph.Scoring(
        SMOOTH, weights / weights.mean(), floor=1e-6, unit=None, either_way_up=False
    )


def fit_both(
    normal: Floats, seed: int, how: score_graph.Scoring, epochs: int = EPOCHS
) -> tuple[Fitted, Fitted]:
    """Fit the network that sees all beats, and the five that each leave out a fold, side by side.

    The held-out scores are those of the five; the network that saw all beats can only be better.
    """
    folds = fold(len(normal), seed)
    rows = [np.flatnonzero(folds != k) for k in range(FOLDS)] + [np.arange(len(normal))]
    *five, one = ensemble.fit(score_graph.comparable(normal, how), rows, seed, epochs)
    held_out = held_out_scores(five, normal, folds, how)
    return (
        Fitted([one], score_graph.graph([one], how), held_out),
        Fitted(five, score_graph.graph(five, how), held_out),
    )


def teach(
    five: Fitted,
    normal: Floats,
    seed: int,
    how: score_graph.Scoring,
    epochs: int = distill.EPOCHS,
) -> Fitted:
    """Let the five networks that `fit_both` fitted to `normal`, with this seed, teach one."""
    folds = fold(len(normal), seed)
    beats = score_graph.comparable(normal, how)
    *own, student = distill.students(beats, folds, five.networks, seed, epochs)
    return Fitted(
        [student], score_graph.graph([student], how), held_out_scores(own, normal, folds, how)
    )


def held_out_scores(
    networks: Sequence[Any], normal: Floats, folds: NDArray[np.int64], how: score_graph.Scoring
) -> Floats:
    """Score each beat of `normal`, float32 [N, 140], by the network that did not see its fold."""
    scores = np.empty(len(normal), np.float32)
    for k, network in enumerate(networks):
        scored = score_graph.outputs(score_graph.graph([network], how), normal[folds == k])
        scores[folds == k] = scored["score"]
    return scores


def fold(count: int, seed: int) -> NDArray[np.int64]:
    """Deal `count` beats out to the folds at random: int64 [count]."""
    return np.random.default_rng(seed).permutation(count) % FOLDS


def described(epochs: int) -> dict[str, Any]:
    """Give the recipe as a card tells it."""
    return {
        "epochs": epochs,
        "batch": ensemble.BATCH,
        "widths": list(ensemble.WIDTHS),
        "loss": f"mean of log(mean squared error + {ensemble.SOFTENING})",
        "optimizer": f"Adam, {ensemble.RATE} with cosine decay to 0",
    }


def split(
    ecg: datasets.Beats,
) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Part all beats into training and test, float32 [N, 140], and say which are normal, bool [N].

    Whatever is fitted, the simulator too, is fitted on this training part alone.
    """
    from sklearn.model_selection import train_test_split

    train, test, train_is_normal, test_is_normal = train_test_split(
        ecg.beats, ecg.labels, test_size=TEST_SHARE, random_state=SPLIT_STATE
    )
    return train, test, train_is_normal, test_is_normal
