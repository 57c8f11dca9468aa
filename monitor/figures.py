"""Pictures, written as PNG files without a display. Only trainers and batch runs draw."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.program import Failure

Floats = NDArray[np.float32]


def pyplot() -> Any:
    """Import matplotlib's pyplot for files; raises Failure where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise Failure("pictures need matplotlib: pip install 'ecg-monitor[batch]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, path: Path) -> None:
    """Write a figure to `path` and let go of its memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot().close(figure)


def images(path: Path, rows: Mapping[str, Floats]) -> None:
    """Draw rows of images [n, 28, 28, 1] in [0, 1] over each other, each with its name."""
    columns = min(len(row) for row in rows.values())
    figure, axes = pyplot().subplots(
        len(rows), columns, figsize=(columns, 1.08 * len(rows)), squeeze=False
    )
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, row, strict=False):
            axis.imshow(image.squeeze(-1), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation="horizontal", ha="right", va="center")
    figure.subplots_adjust(wspace=0.06, hspace=0.06)
    save(figure, path)


def latent(path: Path, codes: Floats, classes: NDArray[np.uint8], names: Sequence[str]) -> None:
    """Scatter codes [n, 2] coloured by their class; `names` label the two directions."""
    figure, axis = pyplot().subplots(figsize=(7, 6))
    points = axis.scatter(*codes.T, c=classes, cmap="tab10", vmin=-0.5, vmax=9.5, s=3, alpha=0.6)
    bar = figure.colorbar(points, ticks=range(10), label="class")
    bar.solids.set_alpha(1)
    axis.set(xlabel=names[0], ylabel=names[1])
    save(figure, path)


def manifold(path: Path, decoded: Floats, scale: float) -> None:
    """Draw decoded images [n, n, 28, 28, 1] over the latent plane from -scale to scale.

    The first index goes down from `scale`, the second to the right from -scale.
    """
    n, size = len(decoded), decoded.shape[2]
    tiles = decoded.squeeze(-1).swapaxes(1, 2).reshape(n * size, n * size)
    figure, axis = pyplot().subplots(figsize=(9, 9))
    # The outermost images are decoded at ±scale: their centres lie there, not their edges.
    edge = scale * n / (n - 1)
    axis.imshow(tiles, cmap="gray", vmin=0, vmax=1, extent=(-edge, edge, -edge, edge))
    axis.set(xlabel="z[0]", ylabel="z[1]")
    save(figure, path)


def losses(path: Path, history: Mapping[str, Sequence[float]]) -> None:
    """Draw the losses of a training over its epochs, one line for each name."""
    figure, axis = pyplot().subplots(figsize=(7, 4))
    for name, values in history.items():
        axis.plot(range(1, len(values) + 1), values, label=name)
    axis.set(xlabel="epoch", ylabel="loss")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)
