"""Judges `ecg-train ecg --data FILE.csv` on ECG5000: files of normal beats, by the command itself.

For each split the normal beats of the training part are written to a file, the command fits them
and writes its model, and the daemon's own reader of that model scores the test part. Once more with
one abnormal beat in twenty hidden in the file.
"""

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from monitor.batch import datasets
from monitor.detector.model_file import Detector
from train.detectors import ecg5000, metrics, patient
from train.evaluation.ecg5000 import RANDOM_SPLITS, SEEDS

HIDDEN = {"normal beats alone": 0.0, "one abnormal beat in twenty": 0.05}
"""Share of abnormal beats in the file."""


class Judged(NamedTuple):
    """Figures of one fit; of `left_out` it is said how many beats, of the rest which share."""

    auc: float
    average_precision: float
    found: float
    false_alarm_rate: float
    left_out: float


def main(
    data: Path | None,
    out: Path,
    splits: tuple[int, ...] = RANDOM_SPLITS,
    seeds: tuple[int, ...] = SEEDS,
    epochs: int = ecg5000.EPOCHS,
) -> None:
    """Print a table for each share of hidden beats; write `file.json` to the folder `out`."""
    beats = datasets.ecg(data)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    content = {}
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("fitting", total=len(HIDDEN) * len(splits) * len(seeds))
        for title, share in HIDDEN.items():
            rows: dict[int, list[Judged]] = {}
            for state, seed in product(splits, seeds):
                row = judge(beats, state, seed, share, epochs)
                rows.setdefault(state, []).append(row)
                bar.advance(task)
                if not console.is_terminal:
                    print(f"{title}, split {state}, seed {seed}: AUC {row.auc:.4f}", flush=True)
            _print(title, rows)
            content[title] = {
                state: [row._asdict() for row in of_split] for state, of_split in rows.items()
            }
    (out / "file.json").write_text(json.dumps(content, indent=2) + "\n")


def judge(beats: datasets.Beats, state: int, seed: int, share: float, epochs: int) -> Judged:
    """Fit a file of one split's normal beats, with a share of hidden ones, and judge its model."""
    from sklearn.model_selection import train_test_split

    train, test, fitted, normal = train_test_split(
        beats.beats, beats.labels, test_size=ecg5000.TEST_SHARE, random_state=state
    )
    random = np.random.default_rng(state)
    abnormal = train[~fitted]
    hidden = random.permutation(len(abnormal))[: round(fitted.sum() * share / (1 - share))]
    given = random.permutation(np.concatenate([train[fitted], abnormal[hidden]]))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "beats.csv")
        np.savetxt(source, given, "%.7g", ",")
        with contextlib.redirect_stdout(io.StringIO()):
            patient.main(source, None, Path(folder), epochs, seed)
        model = Detector(Path(folder, "ecg.onnx"))
        figures = metrics.figures(model.score(test).scores, normal, model.threshold)
        left_out = len(given) - model.card.dataset.rows["fitted"]
    return Judged(
        figures["roc_auc"],
        figures["average_precision"],
        figures["detection_rate"],
        figures["false_alarm_rate"],
        float(left_out),
    )


def _print(title: str, rows: dict[int, list[Judged]]) -> None:
    table = Table(
        "split", "AUC", "AP", f"found at {ecg5000.FALSE_ALARM_RATE:.0%}", "rate it had", "left out",
        title=title, title_justify="left", box=None,
    )  # fmt: skip
    for state, of_split in rows.items():
        table.add_row(str(state), *_cells(np.mean(of_split, axis=0)))
    table.add_section()
    every = [row for of_split in rows.values() for row in of_split]
    for name, figure in (("mean", np.mean), ("spread", np.std), ("least", np.min)):
        table.add_row(name, *_cells(figure(every, axis=0)))
    Console(width=None if Console().is_terminal else 110).print(table)


def _cells(row: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Iterator[str]:
    for value, how in zip(row.tolist(), (".4f", ".4f", ".3f", ".2%", ".0f"), strict=True):
        yield format(value, how)
