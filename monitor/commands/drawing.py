"""Draw a beat with braille characters, for a terminal."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

WIDTH, HEIGHT = 70, 7
"""Characters of a drawing; each has 2 × 4 dots, so 140 samples need 70."""

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # of a braille character


def draw(beat: Sequence[float], reconstruction: Sequence[float] | None, most: int = WIDTH) -> Text:
    """Return a beat as a curve and its reconstruction as dots, in red where they are far apart.

    A flat beat is one line.

    Far apart is more than half of the largest distance, and more than a tenth of the beat's span.

    Args:
        beat: 140 samples in any unit.
        reconstruction: 140 samples in the same unit, or None.
        most: the width available, in characters; below `WIDTH` some samples are left out.
    """
    width = max(1, min(WIDTH, most))
    curve = _drawable(beat, width)
    model = curve if reconstruction is None else _drawable(reconstruction, width)
    lowest, highest = min(curve.min(), model.min()), max(curve.max(), model.max())
    span = float(highest - lowest) or 1.0
    error = np.abs(curve - model)
    far = error > max(0.5 * error.max(), 0.1 * span)
    cells = np.zeros((HEIGHT if highest > lowest else 1, width), np.int64)
    _plot(cells, (curve - lowest) / span, step=1)
    if reconstruction is not None:
        _plot(cells, (model - lowest) / span, step=4)
    text = Text()
    for row in cells:
        for column, dots in enumerate(row):
            style = "bold red" if far[2 * column : 2 * column + 2].any() else "green"
            text.append(chr(0x2800 + dots), style)
        text.append("\n")
    return text


def _drawable(samples: Sequence[float], width: int) -> NDArray[np.float64]:
    """Return float64, two for each character, in the range of float32 so differences are finite."""
    largest = float(np.finfo(np.float32).max)
    every = np.rint(np.linspace(0, len(samples) - 1, 2 * width)).astype(int)
    drawn: NDArray[np.float64] = np.nan_to_num(np.array(samples, np.float64)[every])
    return drawn.clip(-largest, largest)


def _plot(cells: NDArray[np.int64], heights: NDArray[np.float64], step: int) -> None:
    """Set the dots of a curve with heights from 0 to 1; join them if every sample is drawn."""
    rows = np.rint((1 - heights) * (4 * len(cells) - 1)).astype(int)
    for x in range(0, len(rows), step):
        before = rows[x - 1] if x and step == 1 else rows[x]
        low, high = sorted((int(before), int(rows[x])))
        # A steep part is drawn as a line, without the dot that its neighbour already has.
        for y in range(low + (before < rows[x]), high + 1 - (before > rows[x])):
            cells[y // 4, x // 2] |= int(_DOTS[y % 4, x % 2])
