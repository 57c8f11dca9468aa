"""The alarms of intensive care of the PhysioNet/CinC 2015 challenge, judged by the live program.

Source: G. Clifford et al., "The PhysioNet/Computing in Cardiology Challenge 2015: reducing false
arrhythmia alarms in the ICU" (https://physionet.org/content/challenge-2015/1.0.0/). A bedside
monitor raised an alarm 5:00 into each record; experts said whether it was true. The program hears
the ECG up to there and nothing after.
"""

import json
import warnings
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from monitor.alarms import kinds
from monitor.ecg import records
from monitor.ecg.rhythm import SEVERITY, IntervalRhythm, RhythmKind
from monitor.ecg.segmenter import CutBeat
from monitor.errors import Failure
from train import backend
from train.detectors import patient, second_opinion
from train.evaluation import recordings, rhythm

ALARM: Final = 300.0
"""Seconds from the start of a record to the monitor's alarm."""

BEFORE: Final = 16.0
"""Seconds before the alarm in which ours must have stood: the event lies within 10 s of it, and an
alarm is told within 10 s of its onset, but the shortest events end sooner."""

FITTED: Final = 240.0
"""Seconds that the patient's own model is fitted to."""

MISSED: Final = 5
"""What a true alarm that is not told costs, in false ones that are."""

KINDS: Final[dict[str, RhythmKind]] = {
    "asystole": "asystole",
    "bradycardia": "bradycardia",
    "tachycardia": "tachycardia",
    "ventricular_flutter_fib": "ventricular-fibrillation",
    "ventricular_tachycardia": "ventricular-tachycardia",
}
"""The kinds by what a record's header calls them."""

FOLDS, TIMES = 5, 20
"""Parts of the records, and how often they are parted anew, for the spread of the score."""


class Case(NamedTuple):
    """A monitor's alarm: its kind, whether it was true, and what was heard up to it.

    `told`: whether the live program told it; `beats`: those before it, at `rate` samples a second.
    """

    kind: RhythmKind
    true: bool
    told: bool
    beats: list[CutBeat]
    rate: float


Flags = NDArray[np.bool_]


def main(folder: Path, out: Path, seed: int = 0) -> None:
    """Print a row for each kind and the score, without and with a model of the patient's own.

    Writes the answers to `challenge.json` in the folder `out`. Raises UsageError for a folder
    without records, Failure if none of them is such an alarm.
    """
    paths = recordings.headers(folder, "--challenge")
    cases = dict(recordings.judged(paths, hear))
    _print("Without a model", {name: case.told for name, case in cases.items()}, cases)
    print(flush=True)

    backend.load(seed)
    runs = [name for name, case in cases.items() if case.kind == "ventricular-tachycardia"]
    to_fit = [path for path in paths if path.stem in runs]
    raised = dict(recordings.judged(to_fit, lambda path: run_told(cases[path.stem], seed)))
    told = {name: case.told or bool(raised.get(name)) for name, case in cases.items()}
    _print(f"With a model fitted to the first {FITTED / 60:g} minutes", told, cases)
    unfitted = [name for name, by_model in raised.items() if by_model is None]
    if unfitted:
        print(f"Too few beats for a model, judged without: {' '.join(unfitted)}")
    print(
        f"Told: an alarm of the kind, or of one that explains it, stood within the {BEFORE:g} s "
        "before; with a model, also a run of beats that it calls ventricular. "
        f"Score: (TP + TN) / (TP + TN + FP + {MISSED} FN)."
    )
    content = {
        name: {"kind": case.kind, "true": case.true, "told": case.told, "with_model": told[name]}
        for name, case in cases.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "challenge.json").write_text(json.dumps(content, indent=2) + "\n")


def hear(path: Path) -> Case:
    """Let the live program hear a record up to the alarm.

    Raises:
        Failure: it cannot be read, or its header does not say what alarm it was, and whether true.
    """
    kind, true = asked(path)
    ecg = records.read(path, annotated=False)
    if len(ecg.signal) < ALARM * ecg.rate:
        raise Failure(f"{path}: ends before the alarm, at {ALARM:g} s")
    heard = rhythm.listen(ecg, ALARM)
    told = any(
        alarm.kind in (kind, *rhythm.EXPLAINED_BY[kind]) and alarm.cleared > ALARM - BEFORE
        for alarm in heard.alarms
    )
    return Case(kind, true, told, heard.beats, ecg.rate)


def asked(path: Path) -> tuple[RhythmKind, bool]:
    """Return of what kind the alarm of a record was, and whether it was true, by its header."""
    try:
        with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
            import wfdb

            comments = wfdb.rdheader(str(path.with_suffix(""))).comments
    except Exception as error:  # wfdb fails on broken files in more ways than it documents
        raise Failure(f"{path}: not a WFDB header that can be read: {error}") from None
    words = [str(comment).strip().lower() for comment in comments]
    kinds = [KINDS[word] for word in words if word in KINDS]
    truths = [word == "true alarm" for word in words if word in ("true alarm", "false alarm")]
    if not kinds or not truths:
        raise Failure(
            f"{path}: its comments do not say which alarm it was, and whether it was true"
        )
    return kinds[0], truths[0]


def run_told(case: Case, seed: int) -> bool | None:
    """Whether a model of the patient's own tells a run of ventricular beats just before the alarm.

    None where there are too few beats to fit one.
    """
    early = [beat for beat in case.beats if beat.seq < FITTED * case.rate]
    try:
        fitted = patient.fit_record(early, second_opinion.Taught.load().networks, seed)
    except Failure:
        return None
    heard = patient.hear(fitted, case.beats)
    rhythm_by_beats = IntervalRhythm()
    for beat, verdict in zip(case.beats, heard.verdicts(fitted.threshold).tolist(), strict=True):
        at = beat.seq / case.rate
        if verdict == kinds.POOR:
            rhythm_by_beats.gap()
            continue
        rhythm_by_beats.beat(at, ventricular=verdict == kinds.VENTRICULAR)
        told = [each.kind for each in rhythm_by_beats.standing]
        if at > ALARM - BEFORE and "ventricular-tachycardia" in told:
            return True
    return False


def score(true: Flags, told: Flags) -> float:
    """Return the challenge's score of answers, bool [n], in percent; 100 of none."""
    right, missed = int((true == told).sum()), int((true & ~told).sum())
    whole = len(true) + (MISSED - 1) * missed
    return 100 * right / whole if whole else 100.0


def _print(title: str, told: dict[str, bool], cases: dict[str, Case]) -> None:
    names = np.array(list(cases))
    asked = np.array([each.kind for each in cases.values()])
    true = np.array([each.true for each in cases.values()])
    ours = np.array([told[name] for name in cases])
    table = Table(
        "kind", "true told", "false left alone", "score", "missed", "told, though false",
        title=title, title_justify="left", box=None,
    )  # fmt: skip
    for kind in (*SEVERITY, "all"):
        of = (asked == kind) | (kind == "all")
        wrong = of & (true != ours)
        table.add_row(
            kind,
            f"{(true & ours & of).sum()} of {(true & of).sum()}",
            f"{(~true & ~ours & of).sum()} of {(~true & of).sum()}",
            f"{score(true[of], ours[of]):.1f}" if of.any() else "-",
            *(
                "" if kind == "all" else " ".join(names[wrong & side].tolist())
                for side in (true, ~true)
            ),
        )
    Console(width=None if Console().is_terminal else 130).print(table)
    random = np.random.default_rng(0)
    folds = []
    for _ in range(TIMES):
        fold = random.permutation(len(true)) % FOLDS
        folds += [score(true[fold == k], ours[fold == k]) for k in range(FOLDS) if k in fold]
    print(
        f"Spread over {FOLDS} parts of the records, parted {TIMES} times: {np.mean(folds):.1f} "
        f"± {np.std(folds):.1f}"
    )
