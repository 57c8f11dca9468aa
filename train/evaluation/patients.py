"""Judges detectors of single patients on annotated records: five minutes to fit, the rest to judge.

Source: G. Moody and R. Mark, "The impact of the MIT-BIH Arrhythmia Database", IEEE Engineering in
Medicine and Biology 20(3), 2001 (https://doi.org/10.13026/C2F305). The fit sees no annotation.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from monitor.alarms import evaluation, kinds
from monitor.ecg import records
from monitor.ecg.segmenter import CutBeat, Segmenter
from monitor.errors import Failure
from monitor.settings import Settings
from train import backend
from train.detectors import patient, second_opinion
from train.evaluation import ec57, recordings

MINUTES = 5
FEWEST = 10  # ventricular beats to judge by; with fewer an AUC says nothing

Flags = NDArray[np.bool_]


class Heard(NamedTuple):
    """What a patient's detector makes of the beats after the minutes that it was fitted to, [n].

    Attributes:
        times: the second of each R peak.
        known: the second at which the live program has the beat.
        told: scores, quality, and how likely each is ventricular.
        verdicts: uint8, what each is to the alarm decisions.
        peaks: which are R peaks; the others were cut in a pause, to judge the lead by.
        labels: N, S, V or Q, as the detector classes them.
        classes: as they are annotated, "-" where nothing is.
    """

    times: evaluation.Seconds
    known: evaluation.Seconds
    told: patient.Heard
    verdicts: NDArray[np.uint8]
    peaks: Flags
    labels: NDArray[np.str_]
    classes: NDArray[np.str_]

    @property
    def anomalous(self) -> Flags:
        """Which beats are believed and called anomalous, bool [n]."""
        return ~np.isin(self.verdicts, [kinds.NORMAL, kinds.POOR])


class Annotated(NamedTuple):
    """The annotated beats that are judged by: their seconds, their classes, and of how long."""

    times: evaluation.Seconds
    classes: NDArray[np.str_]
    hours: float


class Found(NamedTuple):
    """How many annotated beats are abnormal (S, V, F, Q) or normal, and how many were flagged.

    A beat that was not found was not flagged.
    """

    abnormal_flagged: int
    normal_flagged: int
    abnormal: int
    normal: int

    def shares(self) -> dict[str, float]:
        """Return specificity, precision, recall and F1; NaN of nothing."""
        hit, false, abnormal, normal = self
        precision, recall = _share(hit, hit + false), _share(hit, abnormal)
        return {
            "specificity": 1 - _share(false, normal),
            "precision": precision,
            "recall": recall,
            "F1": _share(2 * hit, hit + false + abnormal),
        }


class Judged(NamedTuple):
    """A record's figures; the AUC is NaN where there are too few ventricular beats.

    `delays`: the seconds from the third ventricular beat to the alert, for each episode that was
    raised and in which no alarm stood already.
    """

    auc: float
    found: float
    flagged: float
    beats: Found
    alarms: evaluation.Judged
    delays: list[float]


class Row(NamedTuple):
    """All that is printed of a record."""

    judged: Judged
    compared: ec57.Comparison


def main(folder: Path, out: Path, seed: int = 0) -> None:
    """Print how patients' detectors do on the records of `folder`; write `records.json` to `out`.

    The tables of ANSI/AAMI EC57, normal beats against all others, and the alarms. Raises UsageError
    for a folder without records, Failure if none of them can be judged.
    """
    paths = recordings.headers(folder)
    backend.load(seed)
    out.mkdir(parents=True, exist_ok=True)
    rows = dict(recordings.judged(paths, lambda path: judge_record(path, seed)))
    ec57.show({name: row.compared for name, row in rows.items()}, _width())
    judged = {name: row.judged for name, row in rows.items()}
    _print_beats({name: row.beats for name, row in judged.items()})
    print()
    _print_alarms(judged)
    content = {
        name: row.judged._asdict()
        | {"beats": row.judged.beats._asdict() | row.judged.beats.shares()}
        | {"alarms": row.judged.alarms._asdict()}
        | {"ec57": {title: share.value for title, share in row.compared.shares().items()}}
        for name, row in rows.items()
    }
    (out / "records.json").write_text(json.dumps(content, indent=2) + "\n")


def judge_record(path: Path, seed: int) -> Row:
    """Fit a detector to the first minutes of a record, and judge it by the rest.

    Raises:
        Failure: the record cannot be read, has no annotated beats or paced ones, or too few beats
            that can be believed.
    """
    ecg = recordings.annotated(path)
    reference = ec57.read(path, ecg.rate)
    if len(reference.paced):
        raise Failure(f"{path}: has paced beats, which EC57 leaves out of its totals")
    heard = hear(ecg, fit(ecg, seed))
    told = ec57.Annotations(
        np.rint(heard.times[heard.peaks] * ecg.rate).astype(np.int64), heard.labels[heard.peaks]
    )
    lasts = len(ecg.signal) / ecg.rate
    return Row(judge(ecg, heard), ec57.compare(reference, told, ecg.rate, lasts, 60 * MINUTES))


def fit(
    ecg: records.Record, seed: int, networks: second_opinion.Networks | None = None
) -> patient.Patient:
    """Fit a patient's detector to the first minutes of a record.

    Args:
        ecg: the record.
        seed: of the fit.
        networks: those of the second opinion; None for the ones that ship, or, if the record taught
            them, for those that have not seen it.

    Raises:
        Failure: too few beats of them can be believed.
    """
    networks = networks or second_opinion.Taught.load().for_signal(ecg.signal)
    return patient.fit_record(records.beats(ecg, 0, 60 * MINUTES), networks, seed)


def hear(ecg: records.Record, fitted: patient.Patient) -> Heard:
    """Let a patient's detector judge the rest of a record as it comes in, second by second.

    Raises:
        Failure: no beat comes after the minutes that were fitted.
    """
    live = _live(ecg)
    rest = np.array([beat.seq >= 60 * MINUTES * ecg.rate for beat, _ in live], bool)
    if not rest.any():
        raise Failure(f"no beat after its first {MINUTES} minutes")
    cut = [beat for beat, _ in live]
    every = patient.hear(fitted, cut)
    told = patient.Heard(
        every.scores[rest],
        every.believed[rest],
        None if every.ventricular is None else every.ventricular[rest],
    )
    verdicts = told.verdicts(fitted.threshold)
    return Heard(
        np.array([beat.seq for beat in cut])[rest] / ecg.rate,
        np.array([at for _, at in live])[rest],
        told,
        verdicts,
        np.array([beat.rr_ms is not None for beat in cut])[rest],
        labels(verdicts),
        records.classes(ecg, cut)[rest],
    )


def labels(verdicts: NDArray[np.uint8]) -> NDArray[np.str_]:
    """Return the label of each beat by what a detector says of it, uint8 [n].

    What is anomalous, and not ventricular, counts as supraventricular. A detector that tells no
    kinds: what is anomalous counts as ventricular.
    """
    ventricular = np.isin(verdicts, [kinds.VENTRICULAR, kinds.ANOMALOUS])
    return ec57.classified(ventricular, verdicts == kinds.ATYPICAL, verdicts != kinds.POOR)


def judge(ecg: records.Record, heard: Heard) -> Judged:
    """Judge what was heard of a record by its annotations.

    Raises:
        Failure: no beat is annotated after the minutes that were fitted.
    """
    from sklearn.metrics import roc_auc_score

    known = annotated(ecg)
    if not len(known.times):
        raise Failure(f"no beat is annotated after its first {MINUTES} minutes")
    ventricular, normal = heard.classes == "V", heard.classes == "N"
    both = ventricular | normal
    enough = ventricular.sum() >= FEWEST and normal.any()
    raised = evaluation.alarms(heard.verdicts.tobytes(), heard.times, Settings().alarm.policy)
    return Judged(
        float(roc_auc_score(ventricular[both], heard.told.scores[both]))
        if enough
        else float("nan"),
        _share(heard.anomalous[ventricular].sum(), ventricular.sum()),
        _share(heard.anomalous[normal].sum(), normal.sum()),
        _found(ecg, heard),
        evaluation.judge(raised, *known),
        _delays(raised, known, heard),
    )


def annotated(ecg: records.Record) -> Annotated:
    """Return the annotated beats after the minutes that are fitted."""
    begin = 60 * MINUTES * ecg.rate
    rest = ecg.positions >= begin
    hours = (len(ecg.signal) - begin) / ecg.rate / 3600
    return Annotated(ecg.positions[rest] / ecg.rate, ecg.classes[rest], hours)


def _live(ecg: records.Record) -> list[tuple[CutBeat, float]]:
    """Return the beats of a record, and the second at which each was given."""
    segmenter = Segmenter(ecg.rate)
    second = round(ecg.rate)
    given: list[tuple[CutBeat, float]] = []
    for first in range(0, len(ecg.signal), second):
        cut = segmenter.feed(ecg.signal[first : first + second])
        given += [(beat, min(first + second, len(ecg.signal)) / ecg.rate) for beat in cut]
    return given + [(beat, len(ecg.signal) / ecg.rate) for beat in segmenter.finish()]


def _found(ecg: records.Record, heard: Heard) -> Found:
    """Hold each annotated beat against the one that was found for it, as EC57 pairs them."""
    at = np.rint(heard.times * ecg.rate).astype(np.int64)[heard.peaks]
    flagged = heard.anomalous[heard.peaks]
    begin, within = round(60 * MINUTES * ecg.rate), int(ec57.WINDOW * ecg.rate)
    pairs = ec57.match(ecg.positions, at, begin, len(ecg.signal), within)
    rows = [
        (ecg.classes[i] != "N", k is not None and flagged[k]) for i, k in pairs if i is not None
    ]
    abnormal, hit = np.array(rows, bool).reshape(-1, 2).T
    return Found(
        int((abnormal & hit).sum()),
        int((~abnormal & hit).sum()),
        int(abnormal.sum()),
        int((~abnormal).sum()),
    )


def _delays(raised: list[evaluation.Span], known: Annotated, heard: Heard) -> list[float]:
    """Return the seconds from the third ventricular beat to the alert, where none stood already."""
    ventricular = known.times[known.classes == "V"]
    delays = []
    for episode in evaluation.episodes(known.times, known.classes):
        third = ventricular[ventricular >= episode.begin][evaluation.VENTRICULAR - 1]
        alarm = next((a for a in raised if a.begin <= episode.due and a.end >= episode.begin), None)
        if alarm is not None:
            alerted = heard.known[np.searchsorted(heard.times, alarm.begin)]
            if alerted > third:
                delays.append(float(alerted - third))
    return delays


def _share(some: Any, of: Any) -> float:
    return float(some / of) if of else float("nan")


def _number(value: float, how: str = ".4f") -> str:
    return "-" if np.isnan(value) else format(value, how)


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _width() -> int | None:
    return None if Console().is_terminal else 130


def _print_beats(rows: dict[str, Found]) -> None:
    columns = ("specificity", "precision", "recall", "F1")
    table = Table(
        "record", "N", "S V F Q", *columns,
        title="Beat by beat: N against S, V, F and Q", title_justify="left", box=None,
    )  # fmt: skip

    def add(name: str, counts: tuple[str, str], shares: dict[str, float]) -> None:
        table.add_row(name, *counts, *(_number(shares[column], ".3f") for column in columns))

    for name, row in rows.items():
        add(name, (str(row.normal), str(row.abnormal)), row.shares())
    every = list(rows.values())
    total = Found(*np.sum(every, axis=0).tolist())
    shares = [row.shares() for row in every]
    table.add_section()
    add("gross", (str(total.normal), str(total.abnormal)), total.shares())
    add("average", ("", ""), {name: _mean([row[name] for row in shares]) for name in columns})
    Console(width=_width()).print(table)


def _print_alarms(rows: dict[str, Judged]) -> None:
    table = Table(
        "record", "AUC V/N", "V found", "N flagged", "episodes", "raised", "other/h", "false/h",
        title="Beats and alarms of a patient's own detector", title_justify="left", box=None,
    )  # fmt: skip

    def add(name: str, shares: list[float], counts: list[int], an_hour: list[float]) -> None:
        table.add_row(
            name,
            *(_number(share) for share in shares),
            *(str(count) for count in counts),
            *(_number(value, ".2f") for value in an_hour),
        )

    shares = {name: [row.auc, row.found, row.flagged] for name, row in rows.items()}
    hourly = {
        name: [row.alarms.other / row.alarms.hours, row.alarms.false / row.alarms.hours]
        for name, row in rows.items()
    }
    for name, row in rows.items():
        add(name, shares[name], [row.alarms.episodes, row.alarms.raised], hourly[name])
    table.add_section()
    every = list(rows.values())
    add(
        "mean",
        [_mean([row[i] for row in shares.values()]) for i in range(3)],
        [sum(row.alarms.episodes for row in every), sum(row.alarms.raised for row in every)],
        [_mean([row[i] for row in hourly.values()]) for i in range(2)],
    )
    Console(width=_width()).print(table)
    delays = [delay for row in every for delay in row.delays]
    if delays:
        raised = sum(row.alarms.raised for row in every)
        print(
            f"In {raised - len(delays)} of {raised} episodes raised an alarm stood already. In the "
            "others, from the third ventricular beat to the alert: "
            f"median {np.median(delays):.1f} s, 95th percentile {np.percentile(delays, 95):.1f} s."
        )
    print(
        "Episodes: three or more V among ten beats, their number in all; raised: within ten beats. "
        "Other: alarms outside of episodes; false: those with fewer than three abnormal beats "
        "among ten."
    )
