"""Judges the recipe of the detector that ships: several seeds, several splits, beside baselines.

Nothing is chosen here: the recipe was chosen on beats of the training part of ecg5000.split alone.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from monitor.batch import datasets
from monitor.detector.model_file import shipped
from monitor.ecg.beat import Floats
from train import backend
from train.detectors import ecg5000, metrics, score_graph, speed, tutorial

SEEDS = (0, 1, 2, 3, 4)
RANDOM_SPLITS = (
    101,
    102,
    103,
    104,
    105,
)  # random states; the tutorial's own is ecg5000.SPLIT_STATE
RATE, LOW_RATE = ecg5000.FALSE_ALARM_RATE, 0.001
SHOWN = ("roc_auc", "average_precision", "detection_rate", "false_alarm_rate")
CONFIDENCE = 0.95

OURS = ("one network", "five networks", "one taught by five (ships)")


class Part(NamedTuple):
    """A split: what is fitted, float32 [N, 140], and what is judged, with bool [N] for normal."""

    normal: Floats
    test: Floats
    is_normal: NDArray[np.bool_]


def main(data: Path | None, out: Path) -> None:
    """Print the table over seeds and splits, and write `evaluation.json` to the folder `out`."""
    backend.load()
    out.mkdir(parents=True, exist_ok=True)
    beats = datasets.ecg(data)
    figures = {}
    for name, states in (
        ("random splits", RANDOM_SPLITS),
        ("the tutorial's split", (ecg5000.SPLIT_STATE,)),
    ):
        runs = _runs([_split(beats, state) for state in states])
        figures[name] = _table(f"{name}: {len(states)} x {len(SEEDS)} seeds", runs)
    figures["speed"] = speed.measure(shipped("ecg"), beats.beats)
    (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")


def _split(beats: datasets.Beats, state: int) -> Part:
    from sklearn.model_selection import train_test_split

    train, test, fitted, normal = train_test_split(
        beats.beats, beats.labels, test_size=ecg5000.TEST_SHARE, random_state=state
    )
    return Part(train[fitted], test, normal)


def _runs(parts: list[Part]) -> dict[str, list[dict[str, float]]]:
    """Judge ours with every seed on every split, and each baseline as often as it has chance."""
    runs: dict[str, list[dict[str, float]]] = {}
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("evaluating", total=len(parts) * (len(SEEDS) + 1))
        for part in parts:
            for name, scores, held_out in _baselines(part):
                runs.setdefault(name, []).append(_judge(part, scores, held_out))
            bar.advance(task)
            for seed in SEEDS:
                for name, scores, held_out in _ours(part, seed):
                    runs.setdefault(name, []).append(_judge(part, scores, held_out))
                bar.advance(task)
    return runs


Run = tuple[str, Floats, Floats]
"""A name, the scores of the test part, and the scores of normal beats that were held out."""


def _ours(part: Part, seed: int) -> Iterator[Run]:
    how = ecg5000.scoring()
    one, five = ecg5000.fit_both(part.normal, seed, how)
    taught = ecg5000.teach(five, part.normal, seed, how)
    for name, fitted in zip(OURS, (one, five, taught), strict=True):
        yield name, score_graph.outputs(fitted.graph, part.test)["score"], fitted.held_out


def _baselines(part: Part) -> Iterator[Run]:
    """Score as others do. Each gives held-out scores by the same five folds as ours."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors
    from sklearn.svm import OneClassSVM

    def tutorial_network(fitted: Floats) -> Callable[[Floats], Floats]:
        lowest, highest = fitted.min(), fitted.max()
        scaled = (fitted - lowest) / (highest - lowest)
        model = tutorial.autoencoder()
        model.compile(optimizer="adam", loss="mae")
        model.fit(scaled, scaled, epochs=tutorial.EPOCHS, batch_size=tutorial.BATCH, verbose=0)
        score = tutorial.graph(model, lowest, highest)
        return lambda beats: score_graph.outputs(score, beats)["score"]

    def components(fitted: Floats) -> Callable[[Floats], Floats]:
        pca = PCA(8).fit(fitted)
        return lambda beats: np.mean(
            (beats - pca.inverse_transform(pca.transform(beats))) ** 2, axis=1
        )

    def neighbours(fitted: Floats) -> Callable[[Floats], Floats]:
        nearest = NearestNeighbors(n_neighbors=5).fit(fitted)
        return lambda beats: nearest.kneighbors(beats)[0][:, -1]

    def svm(fitted: Floats) -> Callable[[Floats], Floats]:
        machine = OneClassSVM(nu=0.01).fit(fitted)
        return lambda beats: -machine.score_samples(beats)

    folds = ecg5000.fold(len(part.normal), seed=0)
    for name, fit in (
        ("the tutorial's network, MAE", tutorial_network),
        ("8 principal components, squared error", components),
        ("5 nearest neighbours", neighbours),
        ("one-class SVM, nu 0.01", svm),
    ):
        held_out = np.empty(len(part.normal), np.float32)
        for k in range(ecg5000.FOLDS):
            held_out[folds == k] = fit(part.normal[folds != k])(part.normal[folds == k])
        yield name, fit(part.normal)(part.test), held_out


def _judge(part: Part, scores: Floats, held_out: Floats) -> dict[str, float]:
    threshold, low = np.quantile(held_out, [1 - RATE, 1 - LOW_RATE])
    figures = metrics.figures(scores, part.is_normal, float(threshold))
    return {name: figures[name] for name in SHOWN} | {
        "low_detection_rate": float(np.mean(scores[~part.is_normal] > low)),
        "low_false_alarms": float(np.sum(scores[part.is_normal] > low)),
        "normals": float(part.is_normal.sum()),
    }


def _table(title: str, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    from scipy.stats import binomtest

    table = Table(
        "", "AUC", "AP", f"found at {RATE:.0%}", "rate it had", "found at 0.1 %", "rate it had",
        title=title, box=None, title_justify="left",
    )  # fmt: skip
    figures: dict[str, Any] = {}
    for name, repeated in runs.items():
        mean = {key: float(np.mean([run[key] for run in repeated])) for key in repeated[0]}
        spread = {key: float(np.std([run[key] for run in repeated])) for key in repeated[0]}
        # The seeds of a split see the same test beats: only the splits add to what is known.
        beats = round(mean["normals"])
        interval = binomtest(round(mean["low_false_alarms"]), beats).proportion_ci(CONFIDENCE)
        table.add_row(
            name,
            *(f"{mean[key]:.4f} ± {spread[key]:.4f}" for key in SHOWN[:2]),
            f"{mean[SHOWN[2]]:.3f} ± {spread[SHOWN[2]]:.3f}",
            f"{mean[SHOWN[3]]:.2%}",
            f"{mean['low_detection_rate']:.2f} ± {spread['low_detection_rate']:.2f}",
            f"{mean['low_false_alarms'] / beats:.2%} ({interval.low:.2%} to {interval.high:.2%})",
        )
        figures[name] = {"mean": mean, "spread": spread, "low_rate_interval": list(interval)}
    Console(width=None if Console().is_terminal else 150).print(table)
    return figures
