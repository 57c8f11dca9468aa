"""Fit the beat simulator that the demo uses, and evaluate it with the shipped detector."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from monitor.batch import datasets
from monitor.detector.model_file import Detector, shipped
from monitor.ecg.beat import Floats
from monitor.ecg.simulator import Simulator
from train.detectors.ecg5000 import split

SHAPES = 16
"""Clusters of a class: with 8, fewer simulated ectopic beats are found than real ones; 24 gain
nothing."""

COMPONENTS = 20
"""Principal components of a shape: with fewer, the beats are too smooth and score too low."""

EVALUATED = 20_000
"""Simulated beats of each class to evaluate."""


def main(data: Path | None, out: Path, seed: int = 0) -> None:
    """Fit to the training part, write `simulator.npz`, and print its rates beside the real ones."""
    out.mkdir(parents=True, exist_ok=True)
    ecg = datasets.ecg(data)
    train, test, train_is_normal, test_is_normal = split(ecg)

    fitted = {
        f"{kind}_{part}": values
        for kind, beats in {
            "normal": train[train_is_normal],
            "ectopic": train[~train_is_normal],
        }.items()
        for part, values in shapes(beats, seed).items()
    }
    path = out / "simulator.npz"
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **fitted)

    detector = Detector(shipped("ecg"))
    simulator = Simulator(seed, path)
    table = Table("under the shipped detector, % above", "threshold", box=None)
    for name in ("real normal", "simulated normal", "real ectopic", "simulated ectopic"):
        table.add_column(name, justify="right")
    columns = [
        detector.score(beats).scores
        for beats in (
            test[test_is_normal],
            simulator.normal(EVALUATED),
            test[~test_is_normal],
            simulator.ectopic(EVALUATED),
        )
    ]
    thresholds = {"default threshold": detector.threshold}
    for rate in (0.05, 0.02, 0.01):
        thresholds[f"threshold for {rate:.0%} false alarms"] = detector.threshold_at(rate)
    for name, threshold in thresholds.items():
        table.add_row(name, f"{threshold:.4g}", *(_share(c, threshold) for c in columns))
    Console(width=None if Console().is_terminal else 140).print(table)
    print(f"wrote {path}; the real beats are the {len(test):,} of the test part")


def shapes(beats: Floats, seed: int) -> dict[str, Floats]:
    """Divide `beats`, float32 [N, 140], into clusters and return their principal components.

    Return `shares` float32 [SHAPES], `means` float32 [SHAPES, 140] and `components` float32
    [SHAPES, COMPONENTS, 140], scaled by the standard deviation along each.
    """
    from sklearn.cluster import KMeans

    clusters = KMeans(SHAPES, n_init=4, random_state=seed).fit_predict(beats)
    samples = beats.shape[1]
    means = np.empty((SHAPES, samples), np.float32)
    components = np.zeros((SHAPES, COMPONENTS, samples), np.float32)
    for number in range(SHAPES):
        cluster = beats[clusters == number].astype(np.float64)
        means[number] = cluster.mean(axis=0)
        _, lengths, directions = np.linalg.svd(cluster - cluster.mean(axis=0), full_matrices=False)
        deviations = lengths / max(len(cluster) - 1, 1) ** 0.5
        found = (deviations[:, None] * directions)[:COMPONENTS]
        components[number, : len(found)] = found  # a small cluster has fewer
    shares = (np.bincount(clusters) / len(beats)).astype(np.float32)
    return {"shares": shares, "means": means, "components": components}


def _share(scores: Floats, threshold: float) -> str:
    """Format the share of scores above the threshold, and its standard error, in per cent."""
    share = float(np.mean(scores > threshold))
    return f"{100 * share:.1f} ± {100 * (share * (1 - share) / len(scores)) ** 0.5:.1f}"
