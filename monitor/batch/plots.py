"""Draw figures of beats, scores, images and trainings. Each function writes one PNG file.

Those of beats look like the figures of the TensorFlow tutorial
(https://www.tensorflow.org/tutorials/generative/autoencoder, third example).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

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


def histogram(path: Path, title: str, named: Mapping[str, Floats], threshold: float) -> None:
    """Draw histograms of the scores, float32 [n] for each name, and the threshold.

    The highest half percent of the scores is left out so that it does not compress the rest.
    """
    scores = np.concatenate(list(named.values()))
    highest = np.quantile(scores, 0.995, method="lower")
    edges = np.linspace(scores.min(), max(highest, threshold), 80)
    with _axes(path, title, "score", "beats") as axes:
        for name, own in named.items():
            axes.hist(own, edges, alpha=0.6, label=name)
        axes.axvline(threshold, color="black", linestyle="--", label=f"Threshold {threshold:.4g}")
        axes.legend()


def trade(
    path: Path, title: str, alarms: Mapping[str, Sequence[float]], rates: Sequence[str]
) -> None:
    """Draw the alarms an hour at each of `rates` [k]: a line of [k] values for each choice."""
    with _axes(path, title, "false-alarm rate of a beat", "alarms an hour") as axes:
        for name, line in alarms.items():
            axes.plot(rates, line, marker="o", label=name)
        axes.legend(fontsize="small", ncols=2)


def rows(path: Path, named: Mapping[str, Floats]) -> None:
    """Draw named rows of images, each [n, 28, 28, 1] in [0, 1], one below the other."""
    columns = min(len(images) for images in named.values())
    with _figure(path, columns, 1.08 * len(named)) as figure:
        axes = figure.subplots(len(named), columns, squeeze=False)
        for line, (name, images) in zip(axes, named.items(), strict=True):
            for axis, image in zip(line, images, strict=False):
                axis.imshow(image.squeeze(-1), cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            line[0].set_ylabel(name, rotation="horizontal", ha="right", va="center")
        figure.subplots_adjust(wspace=0.06, hspace=0.06)


def latent(
    path: Path,
    codes: Floats,
    labels: NDArray[np.uint8],
    classes: Sequence[str],
    directions: tuple[str, str],
) -> None:
    """Draw a scatter plot of codes [n, 2], coloured by label: indices of the ten `classes`."""
    with _figure(path, 7.5, 6) as figure:
        axis = figure.subplots()
        points = axis.scatter(*codes.T, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=3, alpha=0.6)
        bar = figure.colorbar(points, ticks=range(10))
        bar.ax.set_yticklabels(classes)
        bar.solids.set_alpha(1)
        axis.set(xlabel=directions[0], ylabel=directions[1])


def manifold(path: Path, decoded: Floats, scale: float) -> None:
    """Draw decoded images [n, n, 28, 28, 1] over the latent plane from -scale to scale.

    The first index runs down from `scale`, the second to the right from -scale.
    """
    n, size = len(decoded), decoded.shape[2]
    tiles = decoded.squeeze(-1).swapaxes(1, 2).reshape(n * size, n * size)
    # The outermost images are decoded at ±scale, so their centres are there, not their edges.
    edge = scale * n / (n - 1)
    with _figure(path, 9, 9) as figure:
        axis = figure.subplots()
        axis.imshow(tiles, cmap="gray", vmin=0, vmax=1, extent=(-edge, edge, -edge, edge))
        axis.set(xlabel="z[0]", ylabel="z[1]")


def losses(path: Path, history: Mapping[str, Sequence[float]]) -> None:
    """Draw the losses of a training by epoch, one line for each name."""
    with _figure(path, 7, 4) as figure:
        axis = figure.subplots()
        for name, values in history.items():
            axis.plot(range(1, len(values) + 1), values, marker=".", label=name)
        axis.set(xlabel="epoch", ylabel="loss")
        axis.grid(alpha=0.3)
        axis.legend()


@contextmanager
def _axes(path: Path, title: str, across: str, up: str) -> Iterator[Any]:
    with _figure(path, 8, 5, layout="constrained") as figure:
        axes = figure.subplots()
        axes.set(title=title, xlabel=across, ylabel=up)
        yield axes


@contextmanager
def _figure(
    path: Path, width: float, height: float, layout: Literal["constrained"] | None = None
) -> Iterator[Any]:
    try:
        # Without pyplot no display is needed, and nothing stays in memory.
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise Failure("figures need matplotlib: pip install 'ecg-monitor[batch]'") from None
    figure = Figure(figsize=(width, height), layout=layout)
    yield figure
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout is None:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    else:
        figure.savefig(path)
