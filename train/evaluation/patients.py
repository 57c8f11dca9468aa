"""Judges detectors of single patients on MIT-BIH records: five minutes to fit, the rest to judge.

Source: G. Moody and R. Mark, "The impact of the MIT-BIH Arrhythmia Database", IEEE Engineering in
Medicine and Biology 20(3), 2001 (https://doi.org/10.13026/C2F305). The fit sees no annotation.
"""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from monitor.alarms import decisions, evaluation, kinds
from monitor.ecg import quality, records
from monitor.ecg.beat import Floats
from monitor.errors import UsageError
from monitor.settings import Settings
from train import backend
from train.detectors import patient, score_graph
from train.evaluation import model_selection

MINUTES = 5
FEWEST = 10  # ventricular beats to judge by; with fewer an AUC says nothing
TOLERANCE = 0.1  # seconds between a peak found and the one annotated
SOON = 60  # seconds after a clearing within which an alarm counts as come again

GRID = ((10, 3), (10, 4), (16, 4), (20, 4), (20, 5), (24, 6), (30, 6), (36, 6), (36, 7), (40, 8))
OTHERS = [
    decisions.Policy(window, raise_at, clear_at) for window, raise_at in GRID for clear_at in (0, 1)
]
ALLOWED = (0.1, 0.125, 0.15, 0.175, 0.2)
"""Alarm settings and thresholds (`patient.ALLOWED`) that the shipped ones are held against."""


class SettingsTrial(NamedTuple):
    """What settings made of a record; `again`: alarms that came soon after a clearing."""

    allowed: float
    policy: decisions.Policy
    judged: evaluation.Judged
    again: int


class Annotated(NamedTuple):
    """The annotated beats that are judged by: their seconds, their classes, and of how long."""

    times: evaluation.Seconds
    classes: NDArray[np.str_]
    hours: float


class Judged(NamedTuple):
    """A record's figures; the AUC is NaN where there are too few ventricular beats."""

    name: str
    sensitivity: float
    predictivity: float
    auc: float
    found: float
    flagged: float
    outcomes: list[SettingsTrial]

    @property
    def alarms(self) -> evaluation.Judged:
        """Those at the settings that ship."""
        return self.outcomes[0].judged


def main(folder: Path, out: Path, seed: int = 0) -> None:
    """Print a row for each record of `folder`, the mean, and a row for each choice of settings.

    The rows of the records go to `mitdb.json` in the folder `out`, too.
    """
    backend.load(seed)
    paths = sorted(folder.glob("*.hea"))
    if not paths:
        raise UsageError(f"--mitdb {folder}: no WFDB records there (*.hea)")
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    rows = []
    for path in track(paths, "records", console=console, disable=not console.is_terminal):
        ecg = records.read(path)
        rows.append(judge(path.stem, ecg, fit(ecg, seed)))
    _print(rows)
    print()
    _print_settings([row.outcomes for row in rows])
    print()
    _print_expected(rows)
    content = [
        {name: value for name, value in row._asdict().items() if name != "outcomes"}
        | {"alarms": row.alarms._asdict()}
        for row in rows
    ]
    (out / "mitdb.json").write_text(json.dumps(content, indent=2) + "\n")


def fit(ecg: records.Record, seed: int) -> patient.Patient:
    """Fit a patient's detector to the first minutes of his record."""
    beats = np.array([beat.samples for beat in records.beats(ecg, 0, 60 * MINUTES)], np.float32)
    return patient.fit(beats[quality.assess(beats) == quality.GOOD], seed)


def judge(name: str, ecg: records.Record, fitted: patient.Patient) -> Judged:
    """Judge a patient's detector on the rest of a record."""
    from sklearn.metrics import roc_auc_score

    fitted_until = 60 * MINUTES * ecg.rate
    cut = records.beats(ecg)
    beats = np.array([beat.samples for beat in cut], np.float32)
    at = np.array([beat.seq for beat in cut])
    believed = quality.assess(beats) == quality.GOOD

    judged = at >= fitted_until
    scores: Floats = score_graph.outputs(fitted.fitted.graph, beats[judged])["score"]
    anomalous = scores > fitted.threshold
    classes = records.classes(ecg, cut)[judged]
    ventricular, normal = classes == "V", classes == "N"

    def outcomes(allowed: float) -> Iterator[SettingsTrial]:
        above = scores > patient.threshold(fitted.fitted.held_out, allowed)
        verdicts = np.where(believed[judged], above, kinds.POOR).astype(np.uint8).tobytes()
        for policy in dict.fromkeys((Settings().alarm.policy, *OTHERS)):
            raised = evaluation.alarms(verdicts, at[judged] / ecg.rate, policy)
            again = sum(after.begin - before.end < SOON for before, after in pairwise(raised))
            yield SettingsTrial(allowed, policy, evaluation.judge(raised, *known), again)

    annotated = ecg.positions / ecg.rate
    gap = np.abs(annotated[:, None] - at / ecg.rate)
    both = ventricular | normal
    rest = ecg.positions >= fitted_until
    hours = (len(ecg.signal) - fitted_until) / ecg.rate / 3600
    known = Annotated(annotated[rest], ecg.classes[rest], hours)
    return Judged(
        name,
        float((gap.min(axis=1) <= TOLERANCE).mean()),
        float((gap.min(axis=0) <= TOLERANCE).mean()),
        float(roc_auc_score(ventricular[both], scores[both]))
        if ventricular.sum() >= FEWEST
        else float("nan"),
        float(anomalous[ventricular].mean()) if ventricular.any() else float("nan"),
        float(anomalous[normal].mean()),
        [
            outcome
            for allowed in dict.fromkeys((patient.ALLOWED, *ALLOWED))
            for outcome in outcomes(allowed)
        ],
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


def _print_settings(records: list[list[SettingsTrial]]) -> None:
    columns = ("raised at", "cleared at", "episodes", "raised", "false/h", "other/h", "again/h")
    table = Table(*columns, box=None)
    for outcomes in zip(*records, strict=True):
        if outcomes[0].allowed != patient.ALLOWED:
            continue
        policy = outcomes[0].policy
        judged = [outcome.judged for outcome in outcomes]
        table.add_row(
            f"{policy.raise_at} of {policy.window}",
            str(policy.clear_at),
            str(sum(counts.episodes for counts in judged)),
            str(sum(counts.raised for counts in judged)),
            f"{np.mean([counts.false / counts.hours for counts in judged]):.2f}",
            f"{np.mean([counts.other / counts.hours for counts in judged]):.2f}",
            f"{np.mean([outcome.again / outcome.judged.hours for outcome in outcomes]):.2f}",
        )
    Console(width=None if Console().is_terminal else 110).print(table)
    print(f"The first row ships. Again: alarms raised within {SOON} s of a clearing.")


def _print_expected(rows: list[Judged]) -> None:
    """Print what to expect of new patients with ventricular beats."""
    rows = [row for row in rows if not np.isnan(row.auc)]
    if len(rows) < 2:
        return
    crossed, chosen = model_selection.crossed([[o.judged for o in row.outcomes] for row in rows])
    table = Table(
        f"of {len(rows)} records with ventricular beats", "raised", "false/h", "other/h",
        "both goals met", box=None,
    )  # fmt: skip
    for name, judged in (
        ("at the settings that ship", [row.alarms for row in rows]),
        ("at those the others choose", crossed),
    ):
        drawn = model_selection.spread(judged)
        low, middle, high = zip(drawn.raised, drawn.false, drawn.other, strict=True)
        table.add_row(
            name,
            f"{middle[0]:.0%} ({low[0]:.0%} to {high[0]:.0%})",
            *(f"{middle[i]:.1f} ({low[i]:.1f} to {high[i]:.1f})" for i in (1, 2)),
            f"{drawn.met:.0%}",
        )
    Console(width=None if Console().is_terminal else 110).print(table)
    print(
        f"Medians, with 5 to 95 %, of sets of {model_selection.DRAWN} drawn from those records; "
        "the goals: "
        f"{model_selection.RAISED:.0%} raised, {model_selection.FALSE:g} false alarms an hour."
    )
    for k, times in Counter(chosen).most_common():
        allowed, policy = rows[0].outcomes[k][:2]
        print(
            f"chosen {times} times: {policy.raise_at} of {policy.window}, cleared at "
            f"{policy.clear_at}, {allowed:g} of a beat's variance unexplained"
        )
