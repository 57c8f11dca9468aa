"""Judges what happens to a signal on its way: another sampling rate, noise, a lead off or reversed.

Every figure is of records that were really cut, scored and decided upon as the live programs do.
The noises are synthetic, with fixed seeds; their power is that of the record's signal at 0 dB.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from monitor.alarms import evaluation, kinds
from monitor.ecg import records
from monitor.ecg.segmenter import Segmenter
from monitor.errors import UsageError
from monitor.settings import Settings
from train import backend
from train.detectors import patient, second_opinion
from train.evaluation import patients, recordings
from train.evaluation.perturbations import CHANGES, Change, Random
from train.evaluation.rpeaks import RATES, resampled

RECORDS: Final = 2  # with ventricular beats, evenly spread over the folder: each takes minutes

BEFORE, CHANGED, AFTER = 30, 30, 45
"""Seconds that are cut: 20 beats for the window of the alarms, the change, and its end."""

COMPARED: Final = 300  # seconds in which the verdicts either way up are compared


class Heard(NamedTuple):
    """What came of 30 changed seconds; times in seconds, NaN for what did not happen.

    Attributes:
        beats: cut within the 30 seconds.
        poor: of them, those that were not believed.
        anomalous: of them, those that were believed and found anomalous.
        anomalies: anomaly alarms raised from their begin until 30 s after their end.
        raised: from their begin until signal-quality was raised.
        cleared: from their end until it was cleared.
    """

    beats: int
    poor: int
    anomalous: int
    anomalies: int
    raised: float
    cleared: float


def main(folder: Path, out: Path, seed: int = 0) -> None:
    """Print how records fare at other sampling rates and in changed seconds; write `stress.json`.

    Raises UsageError for a folder without records that have ventricular beats to judge by.
    """
    backend.load(seed)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    ecgs = dict(recordings.judged(recordings.headers(folder), recordings.annotated))
    names = [name for name, ecg in ecgs.items() if _ventricular(ecg) >= patients.FEWEST]
    if not names:
        raise UsageError(f"--records {folder}: no records with ventricular beats there (*.hea)")

    names = names[:: -(-len(names) // RECORDS)]
    judged: dict[str, list[patients.Judged]] = {}
    same: dict[str, list[float]] = {}
    heard: dict[str, list[Heard]] = {}
    for name in track(names, "records", console=console, disable=not console.is_terminal):
        for title, row in _rates(ecgs[name], seed, same, heard):
            judged.setdefault(title, []).append(row)
    _print_judged(judged, same, names)
    print()
    _print_heard(heard)
    content = {
        "judged": {
            title: [
                {"record": name, "auc": row.auc, "found": row.found}
                for name, row in zip(names, rows, strict=True)
            ]
            for title, rows in judged.items()
        },
        "changed": {title: [row._asdict() for row in rows] for title, rows in heard.items()},
    }
    (out / "stress.json").write_text(json.dumps(content, indent=2) + "\n")


def _ventricular(ecg: records.Record) -> int:
    rest = ecg.positions >= 60 * patients.MINUTES * ecg.rate
    return int((ecg.classes[rest] == "V").sum())


# -- one record at all rates


def _rates(
    ecg: records.Record,
    seed: int,
    same: dict[str, list[float]],
    heard: dict[str, list[Heard]],
) -> Iterator[tuple[str, patients.Judged]]:
    """Fit and judge a record at each rate; what else is found goes into `same` and `heard`."""
    at_rate = {rate: resampled(ecg, rate) for rate in RATES}
    networks = second_opinion.Taught.load().for_signal(ecg.signal)
    fitted = {rate: patients.fit(own, seed, networks) for rate, own in at_rate.items()}
    for rate, own in at_rate.items():
        yield f"{rate:g} Hz", _judged(own, fitted[rate])
        for title, change in CHANGES.items():
            row = _listen(own, change, fitted[rate], np.random.default_rng(seed))
            heard.setdefault(title, []).append(row)
    yield "fitted at 360, live at 250 Hz", _judged(at_rate[250.0], fitted[360.0])

    reversed_ = ecg._replace(signal=-ecg.signal)
    first, again = fitted[360.0], patients.fit(reversed_, seed, networks)
    for title, live, by in (
        ("live upside down", reversed_, first),
        ("fitted upside down", ecg, again),
    ):
        yield title, _judged(live, by)
        verdicts, others = (
            _verdicts(
                _part(signal, 60 * patients.MINUTES, 60 * patients.MINUTES + COMPARED), model
            )[0]
            for signal, model in ((live, by), (ecg, first))
        )
        same.setdefault(title, []).append(
            float(np.mean(verdicts == others)) if len(verdicts) == len(others) else 0.0
        )


def _judged(ecg: records.Record, fitted: patient.Patient) -> patients.Judged:
    return patients.judge(ecg, patients.hear(ecg, fitted))


def _part(ecg: records.Record, start: float, stop: float) -> records.Record:
    first, last = round(start * ecg.rate), round(stop * ecg.rate)
    return ecg._replace(signal=ecg.signal[first:last])


def _verdicts(
    ecg: records.Record, fitted: patient.Patient
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Give what each beat of a signal was, uint8 [N], and when, [N] seconds from its begin."""
    segmenter = Segmenter(ecg.rate)
    cut = segmenter.feed(ecg.signal) + segmenter.finish()
    verdicts = patient.hear(fitted, cut).verdicts(fitted.threshold)
    return verdicts, np.array([beat.seq for beat in cut]) / ecg.rate


# -- thirty seconds that are changed


def _listen(ecg: records.Record, change: Change, fitted: patient.Patient, random: Random) -> Heard:
    start = _calmest(ecg)
    begin, end = round(BEFORE * ecg.rate), round((BEFORE + CHANGED) * ecg.rate)
    signal = _part(ecg, start - BEFORE, start + CHANGED + AFTER).signal.copy()
    signal[begin:end] = change(signal[begin:end], ecg.rate, random)
    verdicts, times = _verdicts(ecg._replace(signal=signal), fitted)
    inside = verdicts[(times >= BEFORE) & (times < BEFORE + CHANGED)]
    policy = Settings().alarm.policy
    anomalies, poor = (
        evaluation.alarms(verdicts.tobytes(), times, policy, kind)
        for kind in ("anomaly", "signal-quality")
    )
    late = BEFORE + CHANGED + 30
    raised = next((alarm for alarm in poor if BEFORE <= alarm.begin < late), None)
    return Heard(
        len(inside),
        int((inside == kinds.POOR).sum()),
        int((~np.isin(inside, [kinds.NORMAL, kinds.POOR])).sum()),
        sum(BEFORE <= alarm.begin < late for alarm in anomalies),
        float("nan") if raised is None else raised.begin - BEFORE,
        float("nan")
        if raised is None or not np.isfinite(raised.end)
        else raised.end - BEFORE - CHANGED,
    )


def _calmest(ecg: records.Record) -> float:
    """Say at which second to begin so that the fewest abnormal beats are near."""
    seconds = len(ecg.signal) / ecg.rate
    abnormal = ecg.positions[np.isin(ecg.classes, evaluation.ABNORMAL)] / ecg.rate
    starts = np.arange(60 * patients.MINUTES + BEFORE, seconds - CHANGED - AFTER, 10.0)
    counts = np.searchsorted(abnormal, starts + CHANGED + AFTER) - np.searchsorted(
        abnormal, starts - BEFORE
    )
    return float(starts[counts.argmin()])


# -- the tables


def _print_judged(
    judged: dict[str, list[patients.Judged]], same: dict[str, list[float]], names: list[str]
) -> None:
    table = Table(
        "", "AUC V/N", "V found", "N flagged", "episodes", "raised", "false/h", "same verdicts",
        title=f"Fitted to five minutes of {', '.join(names)}", title_justify="left", box=None,
    )  # fmt: skip
    for title, rows in judged.items():
        counts = [row.alarms for row in rows]
        table.add_row(
            title,
            *(
                f"{np.nanmean([getattr(row, name) for row in rows]):.4f}"
                for name in ("auc", "found", "flagged")
            ),
            str(sum(count.episodes for count in counts)),
            str(sum(count.raised for count in counts)),
            f"{np.mean([count.false / count.hours for count in counts]):.2f}",
            f"{np.mean(same[title]):.2%}" if title in same else "",
        )
    _print(table)


def _print_heard(heard: dict[str, list[Heard]]) -> None:
    each = len(next(iter(heard.values())))
    table = Table(
        "30 seconds", "beats", "poor", "anomalous", "anomaly", "signal-quality", "after s",
        "cleared", "after s",
        title=f"Alarms of {each} runs: each of these records at each rate",
        title_justify="left", box=None,
    )  # fmt: skip
    for title, rows in heard.items():
        beats = sum(row.beats for row in rows)
        raised, cleared = (
            np.array([getattr(row, name) for row in rows]) for name in ("raised", "cleared")
        )
        table.add_row(
            title,
            str(beats),
            f"{sum(row.poor for row in rows) / beats:.0%}",
            f"{sum(row.anomalous for row in rows) / beats:.0%}",
            str(sum(row.anomalies > 0 for row in rows)),
            *_times(raised),
            *_times(cleared),
        )
    _print(table)
    print(
        f"Anomaly and signal-quality: in how many runs such an alarm was raised from the begin of "
        f"the {CHANGED} s until 30 s after them. After s: the median and the longest, from their "
        "begin, and for the clearing from their end."
    )


def _times(seconds: NDArray[np.float64]) -> tuple[str, str]:
    known = seconds[np.isfinite(seconds)]
    if not len(known):
        return "0", ""
    return str(len(known)), f"{np.median(known):.0f}, {known.max():.0f}"


def _print(table: Any) -> None:
    Console(width=None if Console().is_terminal else 110).print(table)
