"""A folder of data sets in the layout of the real ones, made of simulated hearts and drawn blobs.

It lets a clone without the real data run every test whose point is not a published figure.
"""

import gzip
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor.batch import datasets
from monitor.ecg.simulator import Simulator

NORMAL, ECTOPIC = 2919, 2081
"""Beats of each class in ECG5000."""

RATE, SECONDS = 360, 650_000 / 360
"""Hz and length of a record of the MIT-BIH Arrhythmia Database."""

RECORDS = ("106", "108", "119", "201", "203", "207", "208")
"""The records that tests name."""

NORMAL_WAVES = ((-0.17, 0.025, 0.15), (-0.028, 0.01, -0.1), (0.0, 0.011, 1.2), (0.03, 0.01, -0.25),
                (0.28, 0.05, 0.3))  # fmt: skip
VENTRICULAR_WAVES = ((0.0, 0.035, 1.6), (0.09, 0.04, -0.6), (0.32, 0.06, -0.45))
"""Seconds from the R peak, width in seconds, and millivolts of the waves (P, Q, R, S, T; a
ventricular beat has no P wave and a wide QRS), after the model of McSharry et al., IEEE Trans.
Biomed. Eng. 50 (2003), 289."""


def write(folder: Path) -> Path:
    """Write all data sets below `folder` and return it."""
    ecg(folder)
    for seed, name in enumerate(("mnist", "fashion-mnist")):
        _images(folder / name, seed)
    (folder / "mitdb").mkdir()
    for seed, name in enumerate(RECORDS):
        _record(folder / "mitdb", name, seed)
    return folder


def ecg(folder: Path) -> Path:
    """Write a data set of beats alone below `folder` and return it."""
    beats = Simulator(0)
    labelled = np.concatenate(
        [
            np.insert(beats.normal(NORMAL), 140, 1, axis=1),
            np.insert(beats.ectopic(ECTOPIC), 140, 0, axis=1),
        ]
    )
    table = np.random.default_rng(0).permutation(labelled)
    np.savetxt(folder / "ecg.csv", table, delimiter=",", fmt="%.7g")
    return folder


def _images(folder: Path, seed: int) -> None:
    """Write 2,000 images to train on and 500 to test with: a blob whose place is its class."""
    folder.mkdir()
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    for part, count in (("train", 2000), ("t10k", 500)):
        labels = draw.integers(0, 10, count)
        angle = labels * (2 * np.pi / 10) + draw.normal(0, 0.1, count)
        centre = np.stack([14 + 7 * np.sin(angle), 14 + 7 * np.cos(angle)])[..., None, None]
        distance = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
        pixels = (255 * np.exp(-distance / draw.uniform(6, 24, (count, 1, 1)))).astype(np.uint8)
        for kind, content in (("images-idx3", pixels), ("labels-idx1", labels.astype(np.uint8))):
            header = bytes([0, 0, 8, content.ndim])
            header += b"".join(size.to_bytes(4, "big") for size in content.shape)
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + content.tobytes(), 1))
    assert {path.name for path in folder.iterdir()} == set(datasets.FOLDERS[folder.name][1])


def _record(folder: Path, name: str, seed: int) -> None:
    """Write half an hour of a heart with single ventricular beats and runs of them."""
    draw = np.random.default_rng(seed)
    count = int(SECONDS / 0.8)
    ventricular = draw.random(count) < 0.15  # with the runs 18 % of the beats; in record 119, 22 %
    for start in range(100, count, 150):
        ventricular[start : start + 5] = True
    if name == "106":
        ventricular[360:560] = False  # calm for two minutes from the fifth on, as the real one is
    intervals = 0.8 + draw.normal(0, 0.02, count)
    intervals[ventricular] -= 0.2
    peaks = np.cumsum(intervals)
    kept = peaks < SECONDS - 1
    peaks, ventricular = peaks[kept], ventricular[kept]
    signal = draw.normal(0, 0.01, round(RATE * SECONDS))
    for peak, odd in zip(peaks, ventricular, strict=True):
        first = max(0, round((peak - 0.4) * RATE))
        at = np.arange(first, min(len(signal), first + round(1.0 * RATE))) / RATE - peak
        scale = draw.normal(1, 0.03)
        for centre, width, height in VENTRICULAR_WAVES if odd else NORMAL_WAVES:
            wave: NDArray[np.float64] = height * np.exp(-(((at - centre) / width) ** 2) / 2)
            signal[first : first + len(at)] += scale * wave
    with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
        import wfdb

        lead = {"units": ["mV"], "sig_name": ["MLII"], "fmt": ["16"], "write_dir": str(folder)}
        wfdb.wrsamp(name, fs=RATE, p_signal=signal[:, None], **lead)
        marks = np.round(peaks * RATE).astype(np.int64)
        wfdb.wrann(name, "atr", marks, ["V" if odd else "N" for odd in ventricular],
                   write_dir=str(folder))  # fmt: skip
