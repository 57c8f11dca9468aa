"""Pictures of beats, their reconstructions and their scores, as the TensorFlow tutorial draws them.

Source: https://www.tensorflow.org/tutorials/generative/autoencoder, third example. Every function
writes one PNG file.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.beat import Floats
from monitor.errors import Failure


def beat(path: Path, title: str, samples: Floats) -> None:
    """Draw one beat, float32 [140]."""
    with _axes(path, title, "sample", "amplitude") as axes:
        axes.plot(samples)
        axes.grid()


def curves(path: Path, title: str, training: Sequence[float], validation: Sequence[float]) -> None:
    """Draw the loss of each epoch on the training and on the validation part."""
    with _axes(path, title, "epoch", "loss") as axes:
        axes.plot(training, label="Training Loss")
        axes.plot(validation, label="Validation Loss")
        axes.legend()


def reconstruction(path: Path, title: str, samples: Floats, reconstructed: Floats) -> None:
    """Draw a beat and its reconstruction, float32 [140] each, with the error between filled in."""
    with _axes(path, title, "sample", "amplitude") as axes:
        axes.plot(samples, "b", label="Input")
        axes.plot(reconstructed, "r", label="Reconstruction")
        axes.fill_between(
            range(len(samples)), reconstructed, samples, color="lightcoral", label="Error"
        )
        axes.legend()


def histogram(path: Path, title: str, scores: Floats, threshold: float) -> None:
    """Draw how many beats have which score, float32 [N], and where the threshold lies."""
    with _axes(path, title, "score", "beats") as axes:
        axes.hist(scores, bins=50)
        axes.axvline(threshold, color="black", linestyle="--", label=f"Threshold {threshold:.4g}")
        axes.legend()


def counted(
    path: Path,
    title: str,
    scores: NDArray[np.float64],
    counts: Mapping[str, NDArray[np.int64]],
    threshold: float,
) -> None:
    """Draw how many beats of each kind lie at which of `scores` [k], from their counts [k].

    The highest half percent of the scores is left out where it would squeeze the rest.
    """
    total = sum(counts.values(), start=np.zeros(len(scores)))
    highest = scores[np.searchsorted(np.cumsum(total), 0.995 * total.sum())]
    edges = np.linspace(scores[0], max(highest, threshold), 80)
    with _axes(path, title, "score", "beats") as axes:
        for name, count in counts.items():
            axes.hist(scores, edges, weights=count, alpha=0.6, label=name)
        axes.axvline(threshold, color="black", linestyle="--", label=f"Threshold {threshold:.4g}")
        axes.legend()


def trade(
    path: Path, title: str, alarms: Mapping[str, Sequence[float]], rates: Sequence[str]
) -> None:
    """Draw the alarms an hour at each of `rates` [k], a line of [k] for each choice of settings."""
    with _axes(path, title, "false-alarm rate of a beat", "alarms an hour") as axes:
        for name, line in alarms.items():
            axes.plot(rates, line, marker="o", label=name)
        axes.legend(fontsize="small", ncols=2)


@contextmanager
def _axes(path: Path, title: str, across: str, up: str) -> Iterator[Any]:
    try:
        # A figure of its own, without pyplot: no display is looked for and nothing stays in memory.
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise Failure("pictures need matplotlib: pip install 'ecg-monitor[batch]'") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    yield axes
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
