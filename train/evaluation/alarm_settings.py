"""What other alarm settings and thresholds would have made of a folder of records."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from monitor.alarms import decisions, evaluation
from monitor.settings import Settings
from train import backend
from train.evaluation import model_selection, patients, recordings

SOON = 60  # seconds after a clearing within which an alarm counts as come again

GRID = ((10, 3), (10, 4), (16, 4), (20, 4), (20, 5), (24, 6), (30, 6), (36, 6), (36, 7), (40, 8))
OTHERS = [
    decisions.Policy(window, raise_at, clear_at) for window, raise_at in GRID for clear_at in (0, 1)
]
THRESHOLDS = (0.6, 0.8, 1.25, 1.6)
"""Alarm settings, and thresholds of the score, that the shipped ones are held against."""


class SettingsTrial(NamedTuple):
    """What settings made of a record; `again`: alarms that came soon after a clearing."""

    threshold: float
    policy: decisions.Policy
    judged: evaluation.Judged
    again: int


class Row(NamedTuple):
    """A record's trials, those of the settings that ship first, and its number of V."""

    trials: list[SettingsTrial]
    ventricular: int


def main(folder: Path, seed: int = 0) -> None:
    """Print a row for each choice of settings, and what to expect of other patients.

    Raises UsageError for a folder without records, Failure if none of them can be judged.
    """
    paths = recordings.headers(folder)
    backend.load(seed)

    def trials(path: Path) -> Row:
        ecg = recordings.annotated(path)
        fitted = patients.fit(ecg, seed)
        heard, known = patients.hear(ecg, fitted), patients.annotated(ecg)
        rows = [
            trial
            for threshold in (fitted.threshold, *THRESHOLDS)
            for trial in _tried(heard, known, threshold)
        ]
        return Row(rows, int((heard.classes == "V").sum()))

    rows = [row for _, row in recordings.judged(paths, trials)]
    _print_settings([row.trials for row in rows])
    print()
    _print_expected([row.trials for row in rows if row.ventricular >= patients.FEWEST])


def _tried(
    heard: patients.Heard, known: patients.Annotated, threshold: float
) -> Iterator[SettingsTrial]:
    verdicts = heard.told.verdicts(threshold).tobytes()
    for policy in dict.fromkeys((Settings().alarm.policy, *OTHERS)):
        raised = evaluation.alarms(verdicts, heard.times, policy)
        again = sum(after.begin - before.end < SOON for before, after in pairwise(raised))
        yield SettingsTrial(threshold, policy, evaluation.judge(raised, *known), again)


def _print_settings(rows: list[list[SettingsTrial]]) -> None:
    columns = ("raised at", "cleared at", "episodes", "raised", "false/h", "other/h", "again/h")
    table = Table(*columns, box=None)
    for trials in zip(*rows, strict=True):
        threshold, policy = trials[0][:2]
        if threshold != rows[0][0].threshold:
            continue
        judged = [trial.judged for trial in trials]
        table.add_row(
            f"{policy.raise_at} of {policy.window}",
            str(policy.clear_at),
            str(sum(counts.episodes for counts in judged)),
            str(sum(counts.raised for counts in judged)),
            f"{np.mean([counts.false / counts.hours for counts in judged]):.2f}",
            f"{np.mean([counts.other / counts.hours for counts in judged]):.2f}",
            f"{np.mean([trial.again / trial.judged.hours for trial in trials]):.2f}",
        )
    Console(width=None if Console().is_terminal else 110).print(table)
    print(f"The first row ships. Again: alarms raised within {SOON} s of a clearing.")


def _print_expected(rows: list[list[SettingsTrial]]) -> None:
    """Print what to expect of new patients with ventricular beats."""
    if len(rows) < 2:
        return
    crossed, chosen = model_selection.crossed([[trial.judged for trial in row] for row in rows])
    table = Table(
        f"of {len(rows)} records with ventricular beats", "raised", "false/h", "other/h",
        "both goals met", box=None,
    )  # fmt: skip
    for name, judged in (
        ("at the settings that ship", [row[0].judged for row in rows]),
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
        threshold, policy = rows[0][k][:2]
        print(
            f"chosen {times} times: {policy.raise_at} of {policy.window}, cleared at "
            f"{policy.clear_at}, a score above {threshold:g}"
        )
