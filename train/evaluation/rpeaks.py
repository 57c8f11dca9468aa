"""Judges how R peaks are found: ours beside other finders, and at other sampling rates."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from monitor.ecg import quality, records
from monitor.ecg.rpeaks import Signal
from train.evaluation import recordings

RATES: Final = (128.0, 250.0, 360.0, 500.0)
TOLERANCE: Final = 0.1  # seconds between a peak found and the one annotated
MINUTES: Final = 10  # of each record: half an hour of all of them takes an hour
WARM_UP: Final = 20  # seconds of signal that are not timed: the first call imports and compiles

Finder = Callable[[Signal, float], NDArray[np.int64]]
"""Finds the R peaks of a signal, [n], at a sampling rate: their sample numbers."""


class Found(NamedTuple):
    """Figures of one record; NaN where there is nothing to judge by.

    Attributes:
        sensitivity: share of the annotated beats that were found.
        predictivity: share of the peaks that are annotated beats.
        ventricular: share of the annotated ventricular beats that were found.
        speed: seconds of signal in a second of work.
        normal_poor: share of the normal beats that are not believed.
        ventricular_poor: share of the ventricular ones.
    """

    sensitivity: float
    predictivity: float
    ventricular: float
    speed: float
    normal_poor: float = float("nan")
    ventricular_poor: float = float("nan")


def main(folder: Path, out: Path) -> None:
    """Print both tables over the records of `folder`; write `peaks.json` to the folder `out`.

    Raises UsageError for a folder without records, Failure if none is annotated.
    """
    paths = recordings.headers(folder)
    ecgs = [
        ecg for _, ecg in recordings.judged(paths, lambda path: _begin(recordings.annotated(path)))
    ]
    out.mkdir(parents=True, exist_ok=True)
    others = {
        name: [_other(ecg, finder) for ecg in _followed(ecgs, name)]
        for name, finder in FINDERS.items()
    }
    others["ours"] = [ours(ecg) for ecg in _followed(ecgs, "ours")]
    _print(f"The first {MINUTES} minutes of {len(ecgs)} records", others)
    rates = {
        f"{rate:g} Hz": [ours(resampled(ecg, rate)) for ecg in _followed(ecgs, f"{rate:g} Hz")]
        for rate in RATES
        if rate != ecgs[0].rate
    }
    _print("Ours, at other sampling rates", rates)
    print(
        f"Found: annotated beats, all and ventricular, within {TOLERANCE * 1000:.0f} ms of a peak; "
        "right: peaks that are annotated beats. Not believed: normal and ventricular beats that "
        "are called flat, saturated or noise. Ours also cuts the beats."
    )
    content = {name: [row._asdict() for row in rows] for name, rows in (others | rates).items()}
    (out / "peaks.json").write_text(json.dumps(content, indent=2) + "\n")


def resampled(ecg: records.Record, rate: float) -> records.Record:
    """Give a record as it would be at another sampling rate."""
    from scipy.signal import resample_poly

    ratio = Fraction(rate / ecg.rate).limit_denominator(1000)
    if ratio == 1:
        return ecg
    signal = resample_poly(ecg.signal, ratio.numerator, ratio.denominator)
    positions = np.rint(ecg.positions * float(ratio)).astype(np.int64)
    return records.Record(signal, rate, positions, ecg.classes)


def ours(ecg: records.Record) -> Found:
    """Judge the beats that are cut from a record."""
    records.beats(ecg, 0, WARM_UP)
    begun = time.perf_counter()
    beats = records.beats(ecg)
    seconds = time.perf_counter() - begun
    poor = quality.assess(np.array([beat.samples for beat in beats])) != quality.GOOD
    classes = records.classes(ecg, beats)
    return _judge(ecg, np.array([beat.seq for beat in beats]), seconds)._replace(
        normal_poor=_share(poor[classes == "N"]), ventricular_poor=_share(poor[classes == "V"])
    )


def _other(ecg: records.Record, finder: Finder) -> Found:
    with warnings.catch_warnings(action="ignore"):  # wfdb divides by zero in silence
        finder(ecg.signal[: round(WARM_UP * ecg.rate)], ecg.rate)
        begun = time.perf_counter()
        peaks = finder(ecg.signal, ecg.rate)
    return _judge(ecg, np.asarray(peaks), time.perf_counter() - begun)


def _sleepecg(signal: Signal, rate: float) -> NDArray[np.int64]:
    from sleepecg.heartbeats import detect_heartbeats

    peaks: NDArray[np.int64] = detect_heartbeats(signal, rate)
    return peaks


def _gqrs(signal: Signal, rate: float) -> NDArray[np.int64]:
    from wfdb.processing import gqrs_detect

    peaks: NDArray[np.int64] = gqrs_detect(signal, rate)
    return peaks


def _xqrs(signal: Signal, rate: float) -> NDArray[np.int64]:
    from wfdb.processing import xqrs_detect

    peaks: NDArray[np.int64] = xqrs_detect(signal, rate, verbose=False)
    return peaks


FINDERS: Final[dict[str, Finder]] = {
    "sleepecg as it comes": _sleepecg,
    "wfdb's gqrs": _gqrs,
    "wfdb's xqrs": _xqrs,
}


def _judge(ecg: records.Record, peaks: NDArray[np.int64], seconds: float) -> Found:
    annotated, at = ecg.positions / ecg.rate, peaks / ecg.rate
    found = _matched(annotated, at)
    return Found(
        _share(found),
        _share(_matched(at, annotated)),
        _share(found[ecg.classes == "V"]),
        len(ecg.signal) / ecg.rate / seconds,
    )


def _matched(times: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which of `times` have one of `others`, in order, within the tolerance."""
    if not len(others):
        return np.zeros(len(times), bool)
    after = np.clip(np.searchsorted(others, times), 1, max(1, len(others) - 1))
    nearest = np.minimum(
        np.abs(times - others[after - 1]), np.abs(times - others[after % len(others)])
    )
    return nearest <= TOLERANCE


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def _begin(ecg: records.Record) -> records.Record:
    last = round(60 * MINUTES * ecg.rate)
    early = ecg.positions < last
    return records.Record(ecg.signal[:last], ecg.rate, ecg.positions[early], ecg.classes[early])


def _followed(ecgs: list[records.Record], title: str) -> Iterator[records.Record]:
    console = Console(stderr=True)
    return iter(track(ecgs, title, console=console, disable=not console.is_terminal))


def _print(title: str, judged: dict[str, list[Found]]) -> None:
    table = Table(
        "", "found", "right", "V found", "times real time", "N not believed", "V not believed",
        title=title, title_justify="left", box=None,
    )  # fmt: skip
    for name, rows in judged.items():
        mean = Found(*(_mean([row[i] for row in rows]) for i in range(len(Found._fields))))
        poor = ("" if np.isnan(share) else f"{share:.3%}" for share in mean[4:])
        shares = ("" if np.isnan(share) else f"{share:.2%}" for share in mean[:3])
        table.add_row(name, *shares, f"{mean.speed:,.0f}", *poor)
    Console(width=None if Console().is_terminal else 110).print(table)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
