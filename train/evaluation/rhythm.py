"""What the live program hears of the rhythm on annotated records: episodes found, false alarms.

Each record goes through `monitor.ecg.streams` in seconds, all leads, as it would live.
"""

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from monitor.ecg import records
from monitor.ecg.chunks import Chunk
from monitor.ecg.rhythm import SEVERITY, Finding, RhythmKind, RhythmSettings
from monitor.ecg.segmenter import CutBeat
from monitor.ecg.streams import Streams
from monitor.errors import Failure, Rejected
from train.evaluation import recordings

EXPLAINED_BY: Final[dict[RhythmKind, tuple[RhythmKind, ...]]] = {
    "ventricular-fibrillation": (),
    "asystole": (),
    "ventricular-tachycardia": ("ventricular-fibrillation",),
    "tachycardia": ("ventricular-tachycardia", "ventricular-fibrillation"),
    "bradycardia": ("asystole",),
}
"""The kinds that stand above another which they explain: either tells of its episode."""

EXCUSED_BY: Final[dict[RhythmKind, tuple[RhythmKind, ...]]] = {
    "ventricular-fibrillation": ("ventricular-fibrillation", "ventricular-tachycardia"),
    "asystole": ("asystole", "ventricular-fibrillation"),
    "ventricular-tachycardia": ("ventricular-tachycardia", "ventricular-fibrillation"),
    "tachycardia": ("tachycardia", "ventricular-tachycardia", "ventricular-fibrillation"),
    "bradycardia": ("bradycardia", "asystole", "ventricular-fibrillation"),
}
"""The kinds of episodes in which an alarm is not false: their borders are a matter of opinion."""

NOTES: Final[dict[str, RhythmKind]] = {
    "(VFL": "ventricular-fibrillation",
    "(VF": "ventricular-fibrillation",
    "(VFIB": "ventricular-fibrillation",
    "(VT": "ventricular-tachycardia",
    "(ASYS": "asystole",
}
"""What notes of a change of the rhythm are called, in a record without annotated beats."""

SHORTEST: Final = 4.0
"""Seconds of fibrillation that an alarm is asked for (`RhythmSettings.fibrillation_after`)."""

BEFORE, BEHIND, LATE = 3.0, 12.0, 10.0
"""Seconds: an alarm that begins `BEHIND` after an episode, or ends `BEFORE` it, is outside of it;
one that begins `LATE` after its end still tells of it."""

JOINED: Final = 3.0
JOINED_FIBRILLATION: Final = 0.6
"""Seconds between two episodes that are one."""

BEAT_MARKS: Final = "NLRBAaJSVrFejnE/fQ?!"
VENTRICULAR_MARKS: Final = "VFE!"

SLOW, FAST, RUN, PAUSE = 42.0, 137.0, 95.0, 3.9
"""Beats a minute, and seconds, from which annotated beats excuse an alarm: the definitions of
`RhythmSettings` less what the place of a mark may err by."""

Span = tuple[float, float]


class Alarm(NamedTuple):
    """An alarm of the rhythm: from second `raised` to `cleared`, and its highest priority."""

    kind: RhythmKind
    raised: float
    cleared: float
    priority: str


class Listened(NamedTuple):
    """What the live program made of a record: its beats, and its alarms of the rhythm by begin."""

    beats: list[CutBeat]
    alarms: list[Alarm]


class Row(NamedTuple):
    """A record's figures, by kind.

    Attributes:
        episodes: annotated ones.
        found: those of them that were told, as their kind or as one that explains it.
        false: alarms outside of all episodes that would excuse them.
        high: how many of those of all kinds are of high priority.
        delays: seconds from the begin of fibrillation until it was told.
        hours: how long the record is.
    """

    episodes: Counter[str]
    found: Counter[str]
    false: Counter[str]
    high: int
    delays: list[float]
    hours: float


def main(folder: Path, out: Path) -> None:
    """Print the episodes found and the false alarms of the rhythm; write `rhythm.json` to `out`.

    Raises UsageError for a folder without records, Failure if none of them can be judged.
    """
    paths = recordings.headers(folder)
    out.mkdir(parents=True, exist_ok=True)

    def judge_record(path: Path) -> Row:
        ecg = records.read(path, annotated=False)
        known = episodes(path, ecg.rate, len(ecg.signal) / ecg.rate)
        return judge(listen(ecg).alarms, known, len(ecg.signal) / ecg.rate / 3600)

    rows = dict(recordings.judged(paths, judge_record))
    _print(rows)
    content = {name: row._asdict() for name, row in rows.items()}
    (out / "rhythm.json").write_text(json.dumps(content, indent=2) + "\n")


def listen(ecg: records.Record, until: float = np.inf) -> Listened:
    """Let the live program hear a record up to second `until`, a chunk of all its leads a second.

    Raises:
        Failure: its rate cannot be used.
    """
    streams, settings = Streams(), RhythmSettings()
    second = round(ecg.rate)
    last = min(len(ecg.signal), round(min(until, 1e9) * ecg.rate))
    leads = ecg.leads or {ecg.lead: ecg.signal}
    beats: list[CutBeat] = []
    alarms: list[Alarm] = []
    open_: dict[RhythmKind, Alarm] = {}
    for first in range(0, last, second):
        chunk = {name: own[first : min(first + second, last)] for name, own in leads.items()}
        now = min(first + second, last) / ecg.rate
        time = first / ecg.rate
        try:
            taken = streams.take("", Chunk(chunk, ecg.rate, first, time), now)
        except Rejected as reason:
            raise Failure(str(reason)) from None
        beats += taken.beats
        stream = streams.find("")
        standing = {each.kind: each for each in stream.rhythm()} if stream else {}
        for kind in [kind for kind in open_ if kind not in standing]:
            alarms.append(open_.pop(kind)._replace(cleared=now))
        for kind, finding in standing.items():
            open_[kind] = _risen(open_.get(kind), finding, now, settings)
    return Listened(beats, sorted([*alarms, *open_.values()], key=lambda alarm: alarm.raised))


def _risen(before: Alarm | None, finding: Finding, now: float, settings: RhythmSettings) -> Alarm:
    priority = finding.priority(settings)
    if before is None:
        return Alarm(finding.kind, now, np.inf, priority)
    return before._replace(priority="high") if priority == "high" else before


def episodes(path: Path, rate: float, seconds: float) -> dict[RhythmKind, list[Span]]:
    """Return when an alarm of each kind is right, by the annotations of a record.

    Of a record with annotated beats they and the marks of fibrillation decide, else the notes of
    its rhythm.

    Raises:
        Failure: there are no annotations, or they cannot be read.
    """
    name = str(path.with_suffix(""))
    if not Path(f"{name}.atr").is_file():
        raise Failure(f"{path}: no annotations (.atr)")
    try:
        with warnings.catch_warnings(action="ignore"):  # wfdb is behind on what pandas deprecates
            import wfdb

            marks = wfdb.rdann(name, "atr")
        times = np.asarray(marks.sample, np.float64) / (marks.fs or rate)
    except Exception as error:  # wfdb fails on broken files in more ways than it documents
        raise Failure(f"{path}: its annotations ({name}.atr) cannot be read: {error}") from None
    symbols = np.array([str(symbol) for symbol in marks.symbol])
    beats = np.isin(symbols, list(BEAT_MARKS))
    right: dict[RhythmKind, list[Span]] = {kind: [] for kind in SEVERITY}
    right["ventricular-fibrillation"] += _between_marks(times, symbols, seconds)
    if beats.any():
        _by_beats(times[beats], symbols[beats], right)
    else:
        notes = [str(note).strip("\0") for note in marks.aux_note]
        changes = [(at, note) for at, note in zip(times, notes, strict=True) if note[:1] == "("]
        ends = [*[at for at, _ in changes[1:]], seconds]
        for (at, note), end in zip(changes, ends, strict=True):
            if note in NOTES:
                right[NOTES[note]].append((float(at), float(end)))
    return {
        kind: _joined(spans, JOINED_FIBRILLATION if kind == SEVERITY[0] else JOINED)
        for kind, spans in right.items()
    }


def _between_marks(
    times: NDArray[np.float64], symbols: NDArray[np.str_], seconds: float
) -> Iterator[Span]:
    """Return when fibrillation is marked, from [ to ]."""
    begun: float | None = None
    for at, symbol in zip(times.tolist(), symbols.tolist(), strict=True):
        if symbol == "[":
            begun = at
        elif symbol == "]" and begun is not None:
            yield begun, at
            begun = None
    if begun is not None:
        yield begun, seconds


def _by_beats(
    at: NDArray[np.float64], symbols: NDArray[np.str_], right: dict[RhythmKind, list[Span]]
) -> None:
    """Add when annotated beats, [n], are too slow, too fast, too far apart, or a run of V."""
    settings = RhythmSettings()

    def over(beats: int) -> tuple[NDArray[np.float64], list[Span]]:
        first, last = at[: len(at) - beats + 1], at[beats - 1 :]
        rates = 60 * (beats - 1) / np.maximum(last - first, 1e-9)
        return rates, list(zip(first.tolist(), last.tolist(), strict=True))

    def where(flags: NDArray[np.bool_], spans: list[Span]) -> list[Span]:
        return [span for span, flag in zip(spans, flags, strict=True) if flag]

    if len(at) > 1:
        apart, gaps = np.diff(at), list(zip(at[:-1].tolist(), at[1:].tolist(), strict=True))
        right["asystole"] += where(apart >= PAUSE, gaps)
    if len(at) >= settings.bradycardia_beats:
        rates, spans = over(settings.bradycardia_beats)
        right["bradycardia"] += where(rates < SLOW, spans)
    if len(at) >= settings.run_beats:
        rates, spans = over(settings.run_beats)
        ventricular = np.isin(symbols, list(VENTRICULAR_MARKS))
        run = np.lib.stride_tricks.sliding_window_view(ventricular, settings.run_beats).all(axis=1)
        right["ventricular-tachycardia"] += where((rates > RUN) & run, spans)
    if len(at) >= settings.tachycardia_beats:
        rates, spans = over(settings.tachycardia_beats)
        right["tachycardia"] += where(rates > FAST, spans)


def _joined(spans: list[Span], gap: float) -> list[Span]:
    """Join intervals that are no more than `gap` apart."""
    whole: list[Span] = []
    for begin, end in sorted(spans):
        if whole and begin <= whole[-1][1] + gap:
            whole[-1] = whole[-1][0], max(end, whole[-1][1])
        else:
            whole.append((begin, end))
    return whole


def judge(alarms: list[Alarm], known: dict[RhythmKind, list[Span]], hours: float) -> Row:
    """Hold alarms against the annotated episodes of a record."""
    row = Row(Counter(), Counter(), Counter(), 0, [], hours)
    for kind, spans in known.items():
        for begin, end in spans:
            if kind == "ventricular-fibrillation" and end - begin < SHORTEST:
                continue
            told = [
                alarm
                for alarm in alarms
                if alarm.kind in (kind, *EXPLAINED_BY[kind])
                and alarm.raised <= end + LATE
                and alarm.cleared >= begin
            ]
            row.episodes[kind] += 1
            row.found[kind] += bool(told)
            if told and kind == "ventricular-fibrillation":
                row.delays.append(max(0.0, told[0].raised - begin))
    high = 0
    for alarm in alarms:
        excusing = [span for kind in EXCUSED_BY[alarm.kind] for span in known[kind]]
        if not any(
            alarm.raised <= end + BEHIND and alarm.cleared >= begin - BEFORE
            for begin, end in excusing
        ):
            row.false[alarm.kind] += 1
            high += alarm.priority == "high"
    return row._replace(high=high)


def _print(rows: dict[str, Row]) -> None:
    every = list(rows.values())
    hours = sum(row.hours for row in every)

    def total(counts: str, kind: str) -> int:
        return sum(getattr(row, counts)[kind] for row in every)

    table = Table(
        "kind", "episodes", "found", "false", "false/h",
        title=f"Alarms of the rhythm: {len(rows)} records, {hours:.1f} hours", title_justify="left",
        box=None,
    )  # fmt: skip
    for kind in SEVERITY:
        false = total("false", kind)
        table.add_row(
            kind,
            str(total("episodes", kind)),
            str(total("found", kind)),
            str(false),
            f"{false / hours:.2f}",
        )
    table.add_section()
    false, high = sum(sum(row.false.values()) for row in every), sum(row.high for row in every)
    table.add_row("all", "", "", str(false), f"{false / hours:.2f}")
    table.add_row("all of high priority", "", "", str(high), f"{high / hours:.2f}")
    Console(width=None if Console().is_terminal else 110).print(table)
    _print_where(rows)
    delays = [delay for row in every for delay in row.delays]
    if delays:
        print(
            f"Fibrillation told after {np.median(delays):.1f} s, 95th percentile "
            f"{np.percentile(delays, 95):.1f} s."
        )
    print(
        f"Found: an alarm of the kind, or of one that explains it, until {LATE:g} s after the "
        f"episode; fibrillation of {SHORTEST:g} s or more. False: outside of all episodes that "
        "would excuse it."
    )


def _print_where(rows: dict[str, Row]) -> None:
    where: Counter[str] = Counter()
    for name, row in rows.items():
        where.update({f"{name} {kind}": number for kind, number in row.false.items()})
    if where:
        print("False: " + ", ".join(f"{what} {number}" for what, number in where.most_common()))
