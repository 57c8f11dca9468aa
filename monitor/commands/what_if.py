"""Show how other alarm settings would have treated a recording, to help choose them.

Or what they would have made of the alarms of a device that people have judged. The history holds
one beat of each change of an alarm: alone, it tells what other thresholds make of the beats that
raised alarms. The other settings count beats: for those, a recording of the device is needed, in
which these beats are looked for.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from monitor.alarms import decisions, evaluation
from monitor.alarms.kinds import NORMAL, POOR
from monitor.batch import plots
from monitor.commands.replay import INTERVAL
from monitor.detector import model_file, rr_history
from monitor.detector.model_file import Detector
from monitor.ecg import beat_files, quality, records
from monitor.ecg.beat import SAMPLES, Floats
from monitor.errors import ConfigurationError, Failure
from monitor.history import query
from monitor.history.query import PastAlarm

WINDOWS: Final = (10, 20, 36)
RAISE_AT: Final = (3, 4, 6)
CLEAR_AT: Final = (0, 1)
RATES: Final = (0.05, 0.02, 0.01, 0.005)
"""The grid. Rates that the model's held-out beats do not support are left out."""


SAME: Final = 0.01
"""Standard deviations of a beat by which it may differ between a recording and the history.

Of five minutes of MIT-BIH records 119 and 208 and of SVDB 800, beats cut from chunks and from the
file were the same to the last bit, and the nearest other beat was 0.025 or more away. What is
allowed is for the rounding of whoever sends the signal.
"""


class Kept(NamedTuple):
    """What becomes of known alarms.

    Attributes:
        true, raised: alarms judged true, and how many of them are still raised.
        false, avoided: alarms judged false, and how many of them are not raised any more.
        others, others_raised: alarms that nobody has judged, and how many are still raised.
    """

    true: int
    raised: int
    false: int
    avoided: int
    others: int
    others_raised: int

    @classmethod
    def of(cls, alarms: Sequence[PastAlarm], raised: Sequence[bool]) -> "Kept":
        """Count alarms, and which of them are still raised."""
        counts: dict[bool | None, list[int]] = {True: [0, 0], False: [0, 0], None: [0, 0]}
        for alarm, stays in zip(alarms, raised, strict=True):
            count = counts[alarm.judged.verdict if alarm.judged else None]
            count[0] += 1
            count[1] += stays
        (true, found), (false, wrong), (others, also) = counts.values()
        return cls(true, found, false, false - wrong, others, also)

    def cells(self) -> list[str]:
        """Return the cells of `COLUMNS`."""
        return [
            f"{self.raised} of {self.true}",
            f"{self.avoided} of {self.false}",
            f"{self.others_raised} of {self.others}",
        ]


COLUMNS: Final = ("true raised", "false avoided", "others raised")


class Recording(NamedTuple):
    """The beats of a recording, their times, and the annotated beats if there are any.

    `rr` contains the RR intervals before each beat, float32 [N, 32]; None for a file of beats.
    """

    beats: Floats
    rr: Floats | None
    times: evaluation.Seconds
    annotated: evaluation.Seconds
    classes: NDArray[np.str_]
    hours: float


class SettingsTrial(NamedTuple):
    """The result of one choice of settings; `rate` is None for the model's default threshold.

    `kept` says what becomes of the alarms that the history has, of those in the recording.
    """

    rate: float | None
    policy: decisions.Policy
    alarms_per_hour: float
    judged: evaluation.Judged
    kept: Kept


def read(source: Path, start: float = 0, lead: str | None = None) -> Recording:
    """Read a record, or a file of beats at one beat per second; a label of 0 counts as V."""
    if records.is_record(source):
        ecg = records.read(source, lead)
        print(f"{source}: using {ecg.lead!r}", file=sys.stderr)
        cut = records.beats(ecg, start)
        rest = ecg.positions >= start * ecg.rate
        return Recording(
            np.array([beat.samples for beat in cut], np.float32).reshape(-1, SAMPLES),
            rr_history.whole([beat.rr_ms for beat in cut]),
            np.array([beat.seq / ecg.rate for beat in cut], np.float64),
            (ecg.positions[rest] / ecg.rate).astype(np.float64),
            ecg.classes[rest],
            (len(ecg.signal) / ecg.rate - start) / 3600,
        )
    blocks = list(beat_files.read(source))
    table = np.concatenate([block.beats for block in blocks])
    times = np.arange(len(table), dtype=np.float64) * INTERVAL
    labels = [block.labels for block in blocks if block.labels is not None]
    normal = np.concatenate(labels) if labels else np.empty(0, bool)
    kept = times >= start
    return Recording(
        table[kept],
        None,
        times[kept],
        times[: len(normal)][kept[: len(normal)]],
        np.where(normal, "N", "V")[kept[: len(normal)]],
        (len(table) * INTERVAL - start) / 3600,
    )


def known_alarms(file: Path, device: str, since: float | None = None) -> list[PastAlarm]:
    """Return the anomalies of a device that the history has, with their beats, oldest first.

    Raises:
        Failure: the history cannot be read, or none of them was judged.
    """
    found = [
        each
        for each in query.alarms(file, since, device)
        if each.kind == "anomaly" and each.beat is not None
    ][::-1]
    if not any(each.judged for each in found):
        raise Failure(f"{device}: no anomaly of this device was judged, of those in {file}")
    return found


def by_threshold(
    alarms: Sequence[PastAlarm], detector: Detector
) -> Iterator[tuple[float | None, Kept]]:
    """Yield what becomes of alarms at each rate, None for the model's default threshold.

    An alarm stays if the beat that raised it is anomalous.
    """
    beats = np.array([each.beat for each in alarms], np.float32)
    scores, _, ventricular = detector.score(beats)
    good = quality.assess(beats) == quality.GOOD
    for rate, threshold in _thresholds(detector):
        verdicts = model_file.verdicts(scores > threshold, good, ventricular)
        yield rate, Kept.of(alarms, ((verdicts != NORMAL) & (verdicts != POOR)).tolist())


def places(alarms: Sequence[PastAlarm], recording: Recording) -> list[int | None]:
    """Return the number of each alarm's beat in a recording; None if it is not there."""
    found: list[int | None] = []
    for alarm in alarms:
        beat = np.array(alarm.beat, np.float32)
        apart = np.square(recording.beats - beat).mean(axis=1)
        nearest = int(apart.argmin())
        found.append(nearest if apart[nearest] <= (SAME * beat.std()) ** 2 else None)
    return found


def _thresholds(detector: Detector) -> Iterator[tuple[float | None, float]]:
    """Yield the rates that the model supports, each with its threshold."""
    yield None, detector.threshold
    for rate in RATES:
        try:
            yield rate, detector.threshold_at(rate)
        except ConfigurationError:
            continue


def outcomes(
    recording: Recording, detector: Detector, alarms: Sequence[PastAlarm] = ()
) -> Iterator[SettingsTrial]:
    """Run the recording through the daemon's alarm decisions at every point of the grid.

    Of the `alarms` that the history has, one stays if an alarm is open within `evaluation.BEATS`
    of its beat.
    """
    scores, _, ventricular = detector.score(recording.beats, recording.rr)
    good = quality.assess(recording.beats) == quality.GOOD
    there = [
        (alarm, at)
        for alarm, at in zip(alarms, places(alarms, recording), strict=True)
        if at is not None
    ]
    times, last = recording.times, len(recording.times) - 1
    for rate, threshold in _thresholds(detector):
        verdicts = model_file.verdicts(scores > threshold, good, ventricular).tobytes()
        for window, raise_at, clear_at in product(WINDOWS, RAISE_AT, CLEAR_AT):
            policy = decisions.Policy(window, raise_at, clear_at)
            raised = evaluation.alarms(verdicts, recording.times, policy)
            judged = evaluation.judge(
                raised, recording.annotated, recording.classes, recording.hours
            )
            stays = [
                any(
                    span.begin <= times[min(last, at + evaluation.BEATS)] and span.end >= times[at]
                    for span in raised
                )
                for _, at in there
            ]
            kept = Kept.of([alarm for alarm, _ in there], stays)
            yield SettingsTrial(rate, policy, len(raised) / recording.hours, judged, kept)


def show_thresholds(alarms: Sequence[PastAlarm], detector: Detector) -> None:
    """Print what becomes of the alarms of a device at other thresholds."""
    table = Table("rate", *COLUMNS, box=None)
    rates = []
    for rate, kept in by_threshold(alarms, detector):
        table.add_row(_name(rate), *kept.cells())
        rates.append(rate)
    Console(width=None if Console().is_terminal else 110).print(table)
    _print_rates(detector, [rate for rate in rates if rate])
    print(
        "raised: the beat that raised the alarm is anomalous to this model, without the beats "
        "before it; to try window, raise_at and clear_at as well, give a recording of the device"
    )


def main(
    source: Path,
    detector: Detector,
    out: Path,
    start: float = 0,
    alarms: Sequence[PastAlarm] = (),
    lead: str | None = None,
) -> None:
    """Print the grid, and draw it to `what-if.png` in the folder `out`.

    Raises:
        Failure: the recording cannot be read, or contains no beat after second `start`.
        UsageError: it has no such lead.
    """
    recording = read(source, start, lead)
    if not len(recording.beats) or recording.hours <= 0:
        raise Failure(f"{source}: contains no beat after second {start:g}")
    every = list(outcomes(recording, detector, alarms))
    annotated = len(recording.annotated) > 0
    table = Table("rate", "window", "raise_at", "clear_at", "alarms/h", box=None)
    for column in ("episodes", "raised", "missed", "false/h") if annotated else ():
        table.add_column(column)
    for column in COLUMNS if alarms else ():
        table.add_column(column)
    for rate, policy, per_hour, judged, kept in every:
        cells = [
            _name(rate),
            *(str(number) for number in (policy.window, policy.raise_at, policy.clear_at)),
            f"{per_hour:.1f}",
        ]
        if annotated:
            missed = judged.episodes - judged.raised
            cells += [str(judged.episodes), str(judged.raised), str(missed)]
            cells.append(f"{judged.false / judged.hours:.1f}")
        if alarms:
            cells += kept.cells()
        table.add_row(*cells)
    Console(width=None if Console().is_terminal else 110).print(table)
    _print_rates(detector, [rate for rate in dict.fromkeys(rate for rate, *_ in every) if rate])
    if alarms:
        there = sum(at is not None for at in places(alarms, recording))
        print(f"{there} of {len(alarms)} alarms in the history have their beat in the recording")
    out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[float]] = {}
    rates: dict[str, None] = {}
    for rate, policy, per_hour, *_ in every:
        rates[_name(rate)] = None
        name = f"{policy.raise_at} of {policy.window}, cleared at {policy.clear_at}"
        lines.setdefault(name, []).append(per_hour)
    plots.trade(out / "what-if.png", source.stem, lines, list(rates))
    print(f"wrote {out / 'what-if.png'}")


def _name(rate: float | None) -> str:
    return "the model's" if rate is None else f"{rate:g}"


def _print_rates(detector: Detector, supported: list[float]) -> None:
    """Print how far each rate can be trusted, and which rates of the grid are not supported."""
    held_out = detector.card.quantiles
    for rate in RATES:
        if rate in supported:
            low, high = held_out.interval(rate)
            print(f"rate {rate:g}: {low:.2g} to {high:.2g} by {held_out.beats:,} held-out beats")
        else:
            print(f"rate {rate:g}: not supported by {held_out.beats:,} held-out beats")
