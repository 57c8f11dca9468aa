"""The tables of ANSI/AAMI EC57: how well a detector finds and classifies beats and runs of them.

Source: ANSI/AAMI EC57:2012, "Testing and reporting performance results of cardiac rhythm and ST
segment measurement algorithms", as its reference implementations define it: `bxb` (beat by beat),
`rxr` (run by run) and `sumstats` (gross and average), described in the WFDB Applications Guide
(https://physionet.org/physiotools/wag/). This module follows their published algorithms.

The labels are those of the standard: N (normal, bundle branch block), S (supraventricular ectopic),
V (ventricular ectopic), F (fusion of V and N), Q (paced or unclassifiable). Where a beat of one
side has none on the other, that side is O, or X during a shutdown (a signal called unreadable).

How it differs from the reference implementations: `sumstats` leaves fusion beats called S out of
the gross S +P, which `bxb` counts as false; here they count in both. Records with paced beats,
which the standard leaves out of its totals, are the caller's to leave out.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.console import Console
from rich.table import Table

LEARNING: Final = 300.0
"""Seconds from the start of a record that are not judged (EC57, 4.3.2)."""

WINDOW: Final = 0.15
"""Seconds between two annotations of the same beat, at most (EC57, 4.3.2)."""

LABELS: Final = "NSVFQOX"
"""The order of rows (reference) and columns (test) of a matrix of beats."""

LONGEST: Final = 6
"""Beats of a run beyond which its length is no longer told apart; fibrillation counts as long."""

SYMBOLS: Final = (
    dict.fromkeys("NLRB", "N")
    | dict.fromkeys("AaJSnej", "S")
    | dict.fromkeys("VEr", "V")
    | {"F": "F"}
    | dict.fromkeys("/fQ?", "Q")
)
"""The label of each annotation code of a beat, as `bxb` maps them; escape beats (e, j) are S."""

UNREADABLE: Final = 0x30
"""Bits of a noise annotation's subtype that are all set where neither signal can be read."""

NEVER: Final = np.iinfo(np.int64).max // 4

Ectopic = Literal["V", "S"]
Counts = NDArray[np.int64]


class Annotations(NamedTuple):
    """The beats of a record as one annotator has them, in sample numbers.

    Attributes:
        positions: int64 [n], ascending.
        labels: [n], each one of N, S, V, F and Q.
        fibrillation: int64 [m, 2], where ventricular fibrillation or flutter begins and ends.
        unreadable: int64 [k, 2], where the signal is called unreadable (shutdown).
        atrial: int64 [j, 2], where atrial fibrillation or flutter begins and ends. Run by run, it
            counts as a long supraventricular run, and normal beats within it as supraventricular.
        paced: int64 [p], the paced beats among them.
    """

    positions: Counts
    labels: NDArray[np.str_]
    fibrillation: Counts = np.empty((0, 2), np.int64)
    unreadable: Counts = np.empty((0, 2), np.int64)
    atrial: Counts = np.empty((0, 2), np.int64)
    paced: Counts = np.empty(0, np.int64)


class Share(NamedTuple):
    """Some of all: a sensitivity, a positive predictivity or a false-positive rate."""

    some: int
    of: int

    @property
    def value(self) -> float:
        """Return the share as a number, NaN of nothing."""
        return self.some / self.of if self.of else float("nan")


class Comparison(NamedTuple):
    """What a comparison of two annotators counted in one record, or in several together.

    Attributes:
        beats: int64 [7, 7], pairs of beats by label, rows the reference's, columns the test's, both
            in the order of `LABELS`.
        runs: for V and S, int64 [2, 7, 7]: pairs of runs by length (0 to 5, and 6 or longer), rows
            the reference's, columns the test's; first of the reference's runs, then of the test's.
    """

    beats: Counts
    runs: dict[Ectopic, Counts]

    def __add__(self, other: object) -> "Comparison":
        """Return the counts of both together."""
        if not isinstance(other, Comparison):
            return NotImplemented
        runs = {kind: counts + other.runs[kind] for kind, counts in self.runs.items()}
        return Comparison(self.beats + other.beats, runs)

    def shares(self) -> dict[str, Share]:
        """Return the statistics of the standard's tables by their names.

        `Q` is QRS detection; `V` and `S` are ventricular and supraventricular ectopic beats; `VC`,
        `VS`, `VL` (`SC`, `SS`, `SL`) their couplets, short runs (3 to 5) and long runs (6 or more).
        `Se` is sensitivity, `+P` positive predictivity, `FPR` the false-positive rate. A fusion
        or unclassifiable beat called V counts neither for nor against V.
        """
        q_found = int(self.beats[:5, :5].sum())
        shares = {
            "Q Se": Share(q_found, int(self.beats[:5].sum())),
            "Q +P": Share(q_found, int(self.beats[:, :5].sum())),
            **_ectopic(self.beats, "V", wrong="NSOX"),
            **_ectopic(self.beats, "S", wrong="NVFOX"),
        }
        for kind, counts in self.runs.items():
            for letter, least, most in (("C", 2, 2), ("S", 3, 5), ("L", 6, 6)):
                of_reference = counts[0, least : most + 1]
                of_test = counts[1, :, least : most + 1]
                shares[f"{kind}{letter} Se"] = Share(
                    int(of_reference[:, least:].sum()), int(of_reference.sum())
                )
                shares[f"{kind}{letter} +P"] = Share(int(of_test[least:].sum()), int(of_test.sum()))
        return shares


def _ectopic(beats: Counts, label: Ectopic, wrong: str) -> dict[str, Share]:
    """Return the statistics of one label; a beat labelled one of `wrong` must not be called so."""
    at = LABELS.index(label)
    found = int(beats[at, at])
    false = sum(int(beats[LABELS.index(other), at]) for other in wrong)
    others = np.delete(beats, at, axis=0)
    left_alone = int(np.delete(others, at, axis=1)[:, :4].sum())
    return {
        f"{label} Se": Share(found, int(beats[at].sum())),
        f"{label} +P": Share(found, found + false),
        f"{label} FPR": Share(false, false + left_alone),
    }


def compare(
    reference: Annotations,
    test: Annotations,
    rate: float,
    duration: float,
    start: float = LEARNING,
    window: float = WINDOW,
) -> Comparison:
    """Return how `test` compares with `reference`, beat by beat and run by run.

    Args:
        reference: what experts annotated.
        test: what a detector found; it needs no beats before `start`.
        rate: samples a second.
        duration: length of the record, in seconds.
        start: where judging begins, in seconds.
        window: how far apart two annotations of a beat may be, in seconds.

    Raises:
        ValueError: if positions do not ascend or a label is none of N, S, V, F and Q.
    """
    for name, side in (("reference", reference), ("test", test)):
        if np.any(np.diff(side.positions) < 0):
            raise ValueError(f"{name}: positions must ascend")
        if strange := set(side.labels.tolist()) - set("NSVFQ"):
            raise ValueError(f"{name}: labels {sorted(strange)}, allowed are N, S, V, F and Q")
    first, end, within = round(start * rate), round(duration * rate), int(window * rate)
    reference = _outside_fibrillation(reference)
    pairs = match(reference.positions, test.positions, first, end, within)
    runs: dict[Ectopic, Counts] = {
        "V": _compare_runs(reference, test, "V", first, end, within),
        "S": _compare_runs(reference, test, "S", first, end, within),
    }
    return Comparison(_tally(reference, test, pairs), runs)


def match(
    reference: ArrayLike, test: ArrayLike, first: int, end: int, within: int
) -> list[tuple[int | None, int | None]]:
    """Return the pairs of beats from `first` to `end`: their indices, None where there is no other.

    Of the two beats that come next, the earlier one is paired with the later if they are at most
    `within` samples apart and no beat of the later one's side, or of its own, comes closer.

    Args:
        reference: int [n], ascending sample numbers.
        test: int [m], ascending sample numbers.
        first: sample number at which judging begins.
        end: sample number at which it ends.
        within: how many samples two annotations of a beat may be apart.
    """
    beats, others = (np.append(np.asarray(side, np.int64), [NEVER, NEVER]).tolist()
                     for side in (reference, test))  # fmt: skip
    i = int(np.searchsorted(beats, first))
    k = int(np.searchsorted(others, first))
    pairs: list[tuple[int | None, int | None]] = []

    # A beat at the border may have been found on the other side of it.
    before = others[k - 1] if k else -NEVER
    if beats[i] - before < abs(beats[i] - others[k]) and beats[i] - before <= within:
        pairs.append((i, k - 1))
        i += 1
    elif others[k] - first <= within and abs(beats[i] - others[k + 1]) < abs(beats[i] - others[k]):
        k += 1

    while beats[i] <= end or others[k] <= end:
        apart = beats[i] - others[k]
        if apart > 0:
            paired = apart <= within and apart < abs(beats[i] - others[k + 1])
        else:
            paired = -apart <= within and -apart < abs(others[k] - beats[i + 1])
        if paired:
            pairs.append((i, k))
        elif apart > 0:
            pairs.append((None, k))
        else:
            pairs.append((i, None))
        i += paired or apart <= 0
        k += paired or apart > 0
    return pairs


def _outside_fibrillation(reference: Annotations) -> Annotations:
    outside = ~_inside(reference.positions, reference.fibrillation)
    return reference._replace(
        positions=reference.positions[outside], labels=reference.labels[outside]
    )


def _inside(positions: Counts, intervals: Counts) -> NDArray[np.bool_]:
    begins, ends = intervals[:, 0], intervals[:, 1]
    inside = (begins <= positions[:, None]) & (positions[:, None] <= ends)
    return np.asarray(inside.any(axis=1))


def _tally(
    reference: Annotations, test: Annotations, pairs: Sequence[tuple[int | None, int | None]]
) -> Counts:
    """Count pairs by label: int64 [7, 7]. Extra beats during fibrillation are not counted."""
    beats = np.zeros((7, 7), np.int64)
    fibrillating = _inside(test.positions, reference.fibrillation)
    no_reference = np.where(_inside(test.positions, reference.unreadable), "X", "O")
    no_test = np.where(_inside(reference.positions, test.unreadable), "X", "O")
    for i, k in pairs:
        if i is None and k is not None:
            if not fibrillating[k]:
                beats[LABELS.index(no_reference[k]), LABELS.index(test.labels[k])] += 1
        elif i is not None:
            label = no_test[i] if k is None else test.labels[k]
            beats[LABELS.index(reference.labels[i]), LABELS.index(label)] += 1
    return beats


class _Runs(NamedTuple):
    """What one annotator says of ectopic beats of one kind.

    Attributes:
        positions: int64 [n], sample numbers of beats and of the begins of shutdowns, ascending.
        ectopic: bool [n], which of them are such beats; any other one ends a run.
        episodes: int64 [m, 2], fibrillation of that kind.
    """

    positions: Counts
    ectopic: NDArray[np.bool_]
    episodes: Counts

    @classmethod
    def of(cls, side: Annotations, kind: Ectopic) -> "_Runs":
        """Collect what an annotator says; fusion beats count as ventricular ones in a run."""
        labels = side.labels
        if kind == "S":
            labels = np.where(_inside(side.positions, side.atrial) & (labels == "N"), "S", labels)
        shutdowns = side.unreadable[:, 0]
        positions = np.concatenate([side.positions, shutdowns])
        ectopic = np.append(
            np.isin(labels, ["V", "F"] if kind == "V" else ["S"]), np.zeros(len(shutdowns), bool)
        )
        order = np.argsort(positions, kind="stable")
        episodes = side.fibrillation if kind == "V" else side.atrial
        return cls(positions[order], ectopic[order], episodes)

    def between(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """Return length, begin and end of each run from `first` to `end`, as `rxr` delimits them.

        A run that begins with fibrillation is `LONGEST` from there on. One that no other beat
        ends before `end` is not counted.
        """
        beat, other, episode, over = range(4)
        events = [
            *zip(
                self.positions.tolist(), np.where(self.ectopic, beat, other).tolist(), strict=True
            ),
            *((begin, episode) for begin in self.episodes[:, 0].tolist()),
            *((end, over) for end in self.episodes[:, 1].tolist()),
        ]
        runs: list[tuple[int, int, int]] = []
        going_on = bool(((self.episodes[:, 0] < first) & (self.episodes[:, 1] >= first)).any())
        length, begin, last = LONGEST * going_on, first, first
        for at, event in sorted(events):
            if not first <= at <= end:
                continue
            if event == other:
                if length:
                    runs.append((length, begin, last))
                length = 0
            elif not length and event in (beat, episode):
                length, begin, last = (1 if event == beat else LONGEST), at, at
            elif length and event in (beat, over):
                length, last = min(length + (event == beat), LONGEST), at
        return runs

    def longest(self, begin: int, end: int) -> int:
        """Return the length of the longest run between two sample numbers, `LONGEST` at most."""
        if np.any((self.episodes[:, 0] <= end) & (self.episodes[:, 1] > begin)):
            return LONGEST
        longest = length = 0
        inside = slice(*np.searchsorted(self.positions, [begin, end + 1]).tolist())
        for ectopic in self.ectopic[inside].tolist():
            length = length + 1 if ectopic else 0
            longest = max(longest, length)
        return min(longest, LONGEST)


def _compare_runs(
    reference: Annotations, test: Annotations, kind: Ectopic, first: int, end: int, within: int
) -> Counts:
    """Count pairs of runs by length: int64 [2, 7, 7], of the reference's runs and of the test's."""
    counts = np.zeros((2, LONGEST + 1, LONGEST + 1), np.int64)
    expected, found = _Runs.of(reference, kind), _Runs.of(test, kind)
    for length, begin, last in expected.between(first, end):
        counts[0, length, found.longest(begin - within, last + within)] += 1
    for length, begin, last in found.between(first, end):
        counts[1, expected.longest(begin - within, last + within), length] += 1
    return counts


def classified(
    ventricular: NDArray[np.bool_],
    supraventricular: NDArray[np.bool_],
    believed: NDArray[np.bool_],
) -> NDArray[np.str_]:
    """Return the labels of a detector's beats, [n], from what it says of each, bool [n].

    A beat that is not believed, being of poor quality, is Q: found, but of no class.
    """
    return np.select([~believed, ventricular, supraventricular], ["Q", "V", "S"], "N")


def read(path: Path, rate: float) -> Annotations:
    """Return the expert annotations of a WFDB record, the file `path` with the ending `.atr`.

    `rate`: samples a second, in which positions are told. A shutdown begins with a noise annotation
    that calls both signals unreadable, and ends with the next noise annotation; where there is
    none, it lies between the beats on either side.

    Raises:
        FileNotFoundError: if the record has no annotations.
    """
    with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
        import wfdb

        marks = wfdb.rdann(str(path.with_suffix("")), "atr")
    at = np.rint(np.asarray(marks.sample) * (rate / (marks.fs or rate))).astype(np.int64)
    codes = np.asarray(marks.symbol)
    is_beat = np.isin(codes, list(SYMBOLS))
    within = int(WINDOW * rate)
    fibrillation: list[tuple[int, int]] = []
    unreadable: list[tuple[int, int]] = []
    atrial: list[tuple[int, int]] = []
    for i in range(len(at)):
        if codes[i] == "[":
            ends = at[i:][codes[i:] == "]"]
            fibrillation.append((at[i], ends[0] if len(ends) else NEVER))
        elif codes[i] == "~" and marks.subtype[i] & UNREADABLE == UNREADABLE:
            if i + 1 < len(at) and codes[i + 1] == "~":
                unreadable.append((at[i], at[i + 1]))
            else:
                before = at[:i][is_beat[:i]]
                begin = before[-1] + within if len(before) else 0
                end = at[i + 1] - within if i + 1 < len(at) else NEVER
                unreadable.append((min(begin, end), end))
        elif codes[i] == "+" and marks.aux_note[i].startswith("(AF"):
            changes = [
                k for k in range(i + 1, len(at))
                if codes[k] == "[" or (codes[k] == "+" and not marks.aux_note[k].startswith("(AF"))
            ]  # fmt: skip
            if not atrial or atrial[-1][1] <= at[i]:
                atrial.append((at[i], at[changes[0]] if changes else NEVER))
    return Annotations(
        at[is_beat],
        np.array([SYMBOLS[code] for code in codes[is_beat]], "<U1"),
        *(np.array(rows, np.int64).reshape(-1, 2) for rows in (fibrillation, unreadable, atrial)),
    )._replace(paced=at[codes == "/"])


BEAT_COLUMNS: Final = ("Q Se", "Q +P", "V Se", "V +P", "V FPR", "S Se", "S +P", "S FPR")
RUN_COLUMNS: Final[dict[Ectopic, tuple[str, ...]]] = {
    "V": ("VC Se", "VC +P", "VS Se", "VS +P", "VL Se", "VL +P"),
    "S": ("SC Se", "SC +P", "SS Se", "SS +P", "SL Se", "SL +P"),
}


def gross(records: Sequence[Comparison]) -> dict[str, float]:
    """Return each statistic of all records' counts together, every beat of the same weight."""
    total = records[0]
    for record in records[1:]:
        total = total + record
    return {name: share.value for name, share in total.shares().items()}


def average(records: Sequence[Comparison]) -> dict[str, float]:
    """Return each statistic's mean over the records that define it, NaN where none does.

    Every record has the same weight.
    """
    rows = [record.shares() for record in records]
    values = {name: [row[name].value for row in rows if row[name].of] for name in rows[0]}
    return {
        name: float(np.mean(known)) if known else float("nan") for name, known in values.items()
    }


def tables(records: dict[str, Comparison]) -> list[Table]:
    """Return the tables of the standard: a row for each record by name, gross and average.

    One is of beats, one of ventricular and one of supraventricular runs, in percent.
    """
    shown = [
        ("ANSI/AAMI EC57, beat by beat, in percent", BEAT_COLUMNS),
        ("Ventricular runs: couplets (C), 3 to 5 (S), longer (L)", RUN_COLUMNS["V"]),
        ("Supraventricular runs", RUN_COLUMNS["S"]),
    ]
    return [_table(title, columns, records) for title, columns in shown]


def _table(title: str, columns: tuple[str, ...], records: dict[str, Comparison]) -> Table:
    of = tuple(column for column in columns if column.endswith("Se"))
    table = Table("record", *(f"{column[:-3]} n" for column in of), *columns,
                  title=title, title_justify="left", box=None)  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"

    def add(name: str, values: dict[str, float], numbers: dict[str, int]) -> None:
        table.add_row(
            name,
            *(str(numbers[column]) if numbers else "" for column in of),
            *(_percent(column, values[column]) for column in columns),
        )

    for name, record in records.items():
        shares = record.shares()
        add(
            name,
            {column: share.value for column, share in shares.items()},
            {column: share.of for column, share in shares.items()},
        )
    table.add_section()
    every = list(records.values())
    add("gross", gross(every), {
        column: sum(record.shares()[column].of for record in every) for column in of
    })  # fmt: skip
    add("average", average(every), {})
    return table


def _percent(column: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{100 * value:.3f}" if column.endswith("FPR") else f"{100 * value:.2f}"


def show(records: dict[str, Comparison], width: int | None = None) -> None:
    """Print the tables of the standard."""
    console = Console(width=width)
    for table in tables(records):
        console.print(table)
        console.print()
