"""A synthetic ECG: P, QRS and T as sums of Gaussians, with a little noise, where beats are known.

Source of the shape: P. McSharry et al., "A dynamical model for generating synthetic
electrocardiogram signals", IEEE Transactions on Biomedical Engineering 50(3), 2003.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WAVES = (  # height in mV, seconds from the R peak, width in seconds
    (0.12, -0.18, 0.025),
    (-0.10, -0.026, 0.010),
    (1.20, 0.0, 0.011),
    (-0.25, 0.026, 0.010),
    (0.30, 0.24, 0.045),
)


def heart(
    seconds: float, rate: float = 250.0, per_minute: float = 75.0, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return an ECG in mV, float64 [n], and its R peaks' sample numbers, int64 [m]."""
    random = np.random.default_rng(seed)
    gaps = 60 / per_minute * (1 + 0.02 * random.standard_normal(int(seconds * per_minute / 60)))
    peaks = np.round(np.cumsum(gaps) * rate).astype(np.int64)
    n = round(seconds * rate)
    signal = 0.01 * random.standard_normal(n)
    at = np.arange(n)
    for peak in peaks:
        for height, offset, width in WAVES:
            signal += height * np.exp(-(((at - peak) / rate - offset) ** 2) / (2 * width**2))
    return signal, peaks[peaks < n]


def write(
    folder: Path,
    name: str,
    rate: int,
    leads: dict[str, NDArray[np.float64]],
    marks: tuple[Sequence[int] | NDArray[np.int64], list[str]] | None = None,
    comments: Sequence[str] = (),
) -> None:
    """Write a WFDB record of leads in mV; `marks` are sample numbers and symbols, if it has any."""
    with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
        import wfdb

        wfdb.wrsamp(
            name,
            fs=rate,
            units=["mV"] * len(leads),
            sig_name=list(leads),
            p_signal=np.column_stack(list(leads.values())),
            fmt=["16"] * len(leads),
            comments=list(comments),
            write_dir=str(folder),
        )
        if marks is not None:
            wfdb.wrann(name, "atr", np.asarray(marks[0]), marks[1], fs=rate, write_dir=str(folder))
