"""Judges detectors of single patients on MIT-BIH records: five minutes to fit, the rest to judge.

Source: G. Moody and R. Mark, "The impact of the MIT-BIH Arrhythmia Database", IEEE Engineering in
Medicine and Biology 20(3), 2001 (https://doi.org/10.13026/C2F305). The fit sees no annotation.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from monitor import alarms, episodes, quality, record
from monitor.model import Floats
from monitor.program import UsageError
from monitor.settings import Settings
from train import backend, detector, patient

MINUTES = 5
FEWEST = 10  # ventricular beats to judge by; with fewer an AUC says nothing
TOLERANCE = 0.1  # seconds between a peak found and the one annotated


class Judged(NamedTuple):
    """A record's figures; the AUC is NaN where there are too few ventricular beats."""

    name: str
    sensitivity: float
    predictivity: float
    auc: float
    found: float
    flagged: float
    alarms: episodes.Judged


def main(folder: Path, out: Path, seed: int = 0) -> None:
    """Print a row for each record of `folder` and the mean, and write `mitdb.json`."""
    backend.load(seed)
    paths = sorted(folder.glob("*.hea"))
    if not paths:
        raise UsageError(f"--mitdb {folder}: no WFDB records there (*.hea)")
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    rows = [
        _judge(path, seed)
        for path in track(paths, "records", console=console, disable=not console.is_terminal)
    ]
    _print(rows)
    content = [row._asdict() | {"alarms": row.alarms._asdict()} for row in rows]
    (out / "mitdb.json").write_text(json.dumps(content, indent=2) + "\n")


def _judge(path: Path, seed: int) -> Judged:
    from sklearn.metrics import roc_auc_score

    ecg = record.read(path)
    fitted_until = 60 * MINUTES * ecg.rate
    cut = record.beats(ecg)
    beats = np.array([beat.samples for beat in cut], np.float32)
    at = np.array([beat.seq for beat in cut])
    believed = quality.assess(beats) == quality.GOOD

    fitted = patient.fit(beats[believed & (at < fitted_until)], seed)
    judged = at >= fitted_until
    scores: Floats = detector.outputs(fitted.fitted.graph, beats[judged])["score"]
    anomalous = scores > fitted.threshold
    classes = record.classes(ecg, cut)[judged]
    ventricular, normal = classes == "V", classes == "N"

    verdicts = np.where(believed[judged], anomalous, alarms.POOR).astype(np.uint8).tobytes()
    rest = ecg.positions >= fitted_until
    annotated = ecg.positions / ecg.rate
    gap = np.abs(annotated[:, None] - at / ecg.rate)
    both = ventricular | normal
    return Judged(
        path.stem,
        float((gap.min(axis=1) <= TOLERANCE).mean()),
        float((gap.min(axis=0) <= TOLERANCE).mean()),
        float(roc_auc_score(ventricular[both], scores[both]))
        if ventricular.sum() >= FEWEST
        else float("nan"),
        float(anomalous[ventricular].mean()) if ventricular.any() else float("nan"),
        float(anomalous[normal].mean()),
        episodes.judge(
            episodes.alarms(verdicts, at[judged] / ecg.rate, Settings().alarm.policy),
            annotated[rest],
            ecg.classes[rest],
            (len(ecg.signal) - fitted_until) / ecg.rate / 3600,
        ),
    )


def _print(rows: list[Judged]) -> None:
    columns = ("record", "R found", "R right", "AUC V/N", "V found", "N flagged", "episodes",
               "raised", "other/h", "false/h")  # fmt: skip
    table = Table(*columns, box=None)

    def number(value: float) -> str:
        return "" if np.isnan(value) else f"{value:.4f}"

    for row in rows:
        counts = row.alarms
        table.add_row(
            row.name,
            *(number(value) for value in row[1:6]),
            str(counts.episodes),
            str(counts.raised),
            f"{counts.other / counts.hours:.1f}",
            f"{counts.false / counts.hours:.1f}",
        )
    all_of = [row.alarms for row in rows]
    table.add_section()
    table.add_row(
        "mean",
        *(number(float(np.nanmean([row[i] for row in rows]))) for i in range(1, 6)),
        str(sum(counts.episodes for counts in all_of)),
        str(sum(counts.raised for counts in all_of)),
        f"{np.mean([counts.other / counts.hours for counts in all_of]):.1f}",
        f"{np.mean([counts.false / counts.hours for counts in all_of]):.1f}",
    )
    Console(width=None if Console().is_terminal else 110).print(table)
    print(
        "R found and R right: sensitivity and positive predictivity of the R peaks within "
        f"{TOLERANCE * 1000:.0f} ms. Episodes: three or more V among ten beats; raised: within ten "
        "beats. Other: alarms outside of episodes; false: those with fewer than three abnormal "
        "beats among ten."
    )
