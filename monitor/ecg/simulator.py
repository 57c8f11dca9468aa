"""Draw simulated beats, as `ecg-train simulator` fitted them to ECG5000; needs only NumPy."""

from pathlib import Path

import numpy as np

from monitor.ecg.beat import Floats

FITTED = Path(__file__).parents[1] / "models" / "simulator.npz"


class Simulator:
    """Draws normal and ectopic beats, float32 [N, 140] in ECG5000's units.

    Each class consists of a number of shapes. A shape has a share of the class, a mean, and
    principal components scaled by the standard deviation along them: a beat is the mean of one
    shape plus a normally distributed multiple of each of its components.
    """

    def __init__(self, seed: int, path: Path = FITTED) -> None:
        """Load the fit. The same seed and the same calls return the same beats."""
        self._draws = np.random.default_rng(seed)
        with np.load(path, allow_pickle=False) as fitted:
            self._fitted: dict[str, Floats] = dict(fitted)

    def normal(self, n: int) -> Floats:
        """Return `n` normal beats."""
        return self._draw("normal", n)

    def ectopic(self, n: int) -> Floats:
        """Return `n` ectopic beats, with the kinds and proportions of ECG5000."""
        return self._draw("ectopic", n)

    def _draw(self, kind: str, n: int) -> Floats:
        shares, means, components = (
            self._fitted[f"{kind}_{part}"] for part in ("shares", "means", "components")
        )
        shape = self._draws.choice(len(shares), n, p=shares / shares.sum(dtype=np.float64))
        multiples = self._draws.standard_normal((n, components.shape[1]), np.float32)
        beats: Floats = means[shape] + np.einsum("np,nps->ns", multiples, components[shape])
        return beats
