"""Show how other alarm settings would have treated a recording, to help choose them."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from monitor.alarms import decisions, evaluation
from monitor.batch import plots
from monitor.commands.replay import INTERVAL
from monitor.detector import model_file, rr_history
from monitor.detector.model_file import Detector
from monitor.ecg import beat_files, quality, records
from monitor.ecg.beat import SAMPLES, Floats
from monitor.errors import ConfigurationError

WINDOWS: Final = (10, 20, 36)
RAISE_AT: Final = (3, 4, 6)
CLEAR_AT: Final = (0, 1)
RATES: Final = (0.05, 0.02, 0.01, 0.005)
"""The grid. Rates that the model's held-out beats do not support are left out."""


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
    """The result of one choice of settings; `rate` is None for the model's default threshold."""

    rate: float | None
    policy: decisions.Policy
    alarms_per_hour: float
    judged: evaluation.Judged


def read(source: Path, start: float = 0) -> Recording:
    """Read a record, or a file of beats at one beat per second; a label of 0 counts as V."""
    if records.is_record(source):
        ecg = records.read(source)
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


def outcomes(recording: Recording, detector: Detector) -> Iterator[SettingsTrial]:
    """Run the recording through the daemon's alarm decisions at every point of the grid."""
    scores, _, ventricular = detector.score(recording.beats, recording.rr)
    good = quality.assess(recording.beats) == quality.GOOD
    for rate in (None, *RATES):
        try:
            threshold = detector.threshold if rate is None else detector.threshold_at(rate)
        except ConfigurationError:
            continue
        verdicts = model_file.verdicts(scores > threshold, good, ventricular).tobytes()
        for window, raise_at, clear_at in product(WINDOWS, RAISE_AT, CLEAR_AT):
            policy = decisions.Policy(window, raise_at, clear_at)
            raised = evaluation.alarms(verdicts, recording.times, policy)
            judged = evaluation.judge(
                raised, recording.annotated, recording.classes, recording.hours
            )
            yield SettingsTrial(rate, policy, len(raised) / recording.hours, judged)


def main(source: Path, model: Path, out: Path, start: float = 0) -> None:
    """Print the grid, and draw it to `what-if.png` in the folder `out`."""
    recording = read(source, start)
    detector = Detector(model)
    every = list(outcomes(recording, detector))
    annotated = len(recording.annotated) > 0
    table = Table("rate", "window", "raise_at", "clear_at", "alarms/h", box=None)
    for column in ("episodes", "raised", "missed", "false/h") if annotated else ():
        table.add_column(column)
    for rate, policy, per_hour, judged in every:
        cells = [
            "the model's" if rate is None else f"{rate:g}",
            *(str(number) for number in (policy.window, policy.raise_at, policy.clear_at)),
            f"{per_hour:.1f}",
        ]
        if annotated:
            missed = judged.episodes - judged.raised
            cells += [str(judged.episodes), str(judged.raised), str(missed)]
            cells.append(f"{judged.false / judged.hours:.1f}")
        table.add_row(*cells)
    Console(width=None if Console().is_terminal else 110).print(table)
    _print_rates(detector, [rate for rate in dict.fromkeys(rate for rate, *_ in every) if rate])
    out.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[float]] = {}
    rates: dict[str, None] = {}
    for rate, policy, per_hour, _ in every:
        rates["the model's" if rate is None else f"{rate:g}"] = None
        name = f"{policy.raise_at} of {policy.window}, cleared at {policy.clear_at}"
        lines.setdefault(name, []).append(per_hour)
    plots.trade(out / "what-if.png", source.stem, lines, list(rates))
    print(f"wrote {out / 'what-if.png'}")


def _print_rates(detector: Detector, supported: list[float]) -> None:
    """Print how far each rate can be trusted, and which rates of the grid are not supported."""
    held_out = detector.card.quantiles
    for rate in RATES:
        if rate in supported:
            low, high = held_out.interval(rate)
            print(f"rate {rate:g}: {low:.2g} to {high:.2g} by {held_out.beats:,} held-out beats")
        else:
            print(f"rate {rate:g}: not supported by {held_out.beats:,} held-out beats")
