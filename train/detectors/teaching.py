"""Teaches the networks of the second opinion on annotated records, whole records left out in turn.

Each record's patient gets the autoencoder that `ecg-train ecg --record` would fit to his first five
minutes, unlabelled; what the networks then see of all his beats that can be believed is what they
learn from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from monitor.detector import rr_history
from monitor.detector.model_file import VENTRICULAR_ABOVE
from monitor.ecg import quality, records
from monitor.ecg.beat import Floats
from monitor.errors import UsageError
from train import backend
from train.detectors import patient, score_graph, second_opinion
from train.detectors.second_opinion import CLASSES, Networks, Taught, Usual
from train.export import provenance

MINUTES: Final = 5
"""Of each record, which the patient's autoencoder is fitted to; figures are of the rest."""

TAUGHT_MINUTES: Final = 30
"""Of each record, which the networks learn from: of a long one no more than of the others."""

FOLDS: Final = 6
"""Parts that whole records are dealt to, each database by itself."""

WIDTHS: Final = (96, 48)
"""Units of the layers. 24 alone, or 128 and 64 with half of them dropped, did within 0.01 of F1."""

SEEDS: Final = 3
"""Networks whose logits are averaged; nine gained nothing."""

EPOCHS: Final = 5
"""Of 5, 8 and 12 epochs 5 had the best F1 on records left out: more fits the taught patients."""

BATCH: Final = 512
RATE: Final = 0.002
"""Of AdamW at the start, with a weight decay of a thousandth; it falls to 0 by a cosine."""

DROPOUT: Final = 0.3
"""Share of a layer's units that are left out of each step; a half did within 0.01 of F1."""

NOISE: Final = 0.05
"""Deviations of a feature that are added to it at random: no threshold is sharper than that."""

SILENT: Final = 0.25
"""Share of the beats that are shown once more without any RR interval: payloads may carry none."""


class Lesson(NamedTuple):
    """What a record teaches, and what its patient's autoencoder says.

    Attributes:
        name, database, sha256: of the record: its file, its folder, and its signal.
        seen: float32 [N, F + R], `second_opinion.features` of its beats.
        silent: the same without RR intervals.
        scores: float32 [N], of the patient's autoencoder.
        classes: [N], annotated, of AAMI; "-" where nothing is annotated near.
        believed: bool [N].
        times: float64 [N], in seconds from the start.
        usual: what the patient's usual beats are like.
    """

    name: str
    database: str
    sha256: str
    seen: Floats
    silent: Floats
    scores: Floats
    classes: NDArray[np.str_]
    believed: NDArray[np.bool_]
    times: NDArray[np.float64]
    usual: Usual


def main(folders: Sequence[Path], out: Path, seed: int = 0) -> None:
    """Teach the networks on all WFDB records of `folders` and write them to the file `out`.

    Print what networks that have not seen the record make of it, by folder; the same figures are
    on the card.

    Raises:
        UsageError: a folder has no records, or there are fewer records than folds.
        Failure: a record cannot be read.
    """
    paths = []
    for folder in folders:
        found = sorted(folder.glob("*.hea"))
        if not found:
            raise UsageError(f"--records {folder}: no WFDB records there (*.hea)")
        paths += found
    if len(paths) < FOLDS:
        raise UsageError(f"--records: {len(paths)} records there; at least {FOLDS} are needed")
    backend.load(seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    import keras

    console = Console(stderr=True)
    lessons = []
    for path in track(paths, "patients", console=console, disable=not console.is_terminal):
        lessons.append(lesson(path, seed))
        keras.backend.clear_session()  # else each fit is slower than the one before
    taught = teach(lessons, seed)
    _print(taught.card["figures"])
    taught.save(out)
    print(f"wrote {out}")


def lesson(path: Path, seed: int) -> Lesson:
    """Fit the autoencoder of a record's patient, and see his beats as the networks will."""
    import tensorflow as tf

    ecg = records.read(path)
    cut = records.beats(ecg)
    beats = np.array([beat.samples for beat in cut], np.float32)
    times = np.array([beat.seq for beat in cut]) / ecg.rate
    believed = quality.assess(beats) == quality.GOOD
    first = believed & (times < 60 * MINUTES)
    fitted = patient.fit(beats[first], seed)
    scores = score_graph.outputs(fitted.fitted.graph, beats)["score"]
    usual = second_opinion.usual(beats[first], fitted.used, scores[first], fitted.threshold)
    rr = rr_history.whole([beat.rr_ms for beat in cut])
    seen, silent = (
        second_opinion.features(tf.constant(beats), tf.constant(scores), known, usual).numpy()
        for known in (tf.constant(rr), tf.zeros_like(rr))
    )
    return Lesson(
        path.stem,
        path.parent.name,
        second_opinion.sha256(ecg.signal),
        seen,
        silent,
        scores,
        records.classes(ecg, cut),
        believed,
        times,
        usual,
    )


def teach(lessons: Sequence[Lesson], seed: int = 0) -> Taught:
    """Teach networks for each fold, judge them on its records, and teach those that ship."""
    fold = deal([each.database for each in lessons])
    folds, judged = [], []
    for k in range(FOLDS):
        networks = fit([each for each, its in zip(lessons, fold, strict=True) if its != k], seed)
        folds.append(networks)
        judged += [
            (each.database, row)
            for each, its in zip(lessons, fold, strict=True)
            if its == k
            for row in _judge(networks, each)
        ]
    card = {
        "records": [
            {"name": f"{each.database}/{each.name}", "sha256": each.sha256, "fold": its}
            for each, its in zip(lessons, fold, strict=True)
        ],
        "folds": FOLDS,
        "networks": SEEDS,
        "widths": list(WIDTHS),
        "epochs": EPOCHS,
        "seed": seed,
        "figures": _figures(judged),
    } | provenance()
    return Taught(fit(lessons, seed), folds, card)


def deal(databases: Sequence[str]) -> list[int]:
    """Deal records, given by their databases, out to the folds, each database evenly."""
    random = np.random.default_rng(0)
    fold = np.zeros(len(databases), int)
    for database in dict.fromkeys(databases):
        mine = np.flatnonzero(np.array(databases) == database)
        fold[mine[random.permutation(len(mine))]] = np.arange(len(mine)) % FOLDS
    return [int(each) for each in fold]


def fit(lessons: Sequence[Lesson], seed: int = 0) -> Networks:
    """Teach networks; `seed` is that of the first of them."""
    import keras

    parts = [
        each.believed & np.isin(each.classes, list(CLASSES)) & (each.times < 60 * TAUGHT_MINUTES)
        for each in lessons
    ]
    seen, silent, classes = (
        np.concatenate(
            [getattr(each, what)[part] for each, part in zip(lessons, parts, strict=True)]
        )
        for what in ("seen", "silent", "classes")
    )
    once_more = np.random.default_rng(seed).random(len(seen)) < SILENT
    rows = np.concatenate([seen, silent[once_more]])
    target = np.array([CLASSES.index(name) for name in classes])
    target = np.concatenate([target, target[once_more]])
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 1e-3
    scaled = ((rows - mean) / deviation).astype(np.float32)
    steps = max(len(rows) // BATCH, 1)
    weights = []
    for k in range(SEEDS):
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed + k)
        network = keras.Sequential(
            [keras.layers.Input((rows.shape[1],)), keras.layers.GaussianNoise(NOISE)]
        )
        for width in WIDTHS:
            network.add(
                keras.layers.Dense(width, "relu", kernel_regularizer=keras.regularizers.L2(1e-4))
            )
            network.add(keras.layers.Dropout(DROPOUT))
        network.add(keras.layers.Dense(len(CLASSES), "softmax"))
        decay = keras.optimizers.schedules.CosineDecay(RATE, steps * EPOCHS)
        network.compile(
            keras.optimizers.AdamW(decay, weight_decay=1e-3),
            "sparse_categorical_crossentropy",
            steps_per_execution=steps,
        )
        network.fit(scaled, target, batch_size=BATCH, epochs=EPOCHS, verbose=0)
        kernel, bias, *rest = network.get_weights()
        kernel = kernel / deviation[:, np.newaxis]  # scaling becomes part of the first layer
        weights.append(
            [kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32), *rest]
        )
    return Networks(weights)


# -- figures of records left out

BY: Final = ("autoencoder alone", "second opinion", "second opinion, no RR")


class _Row(NamedTuple):
    """Of a record's annotated beats after the first minutes, by one judge of `BY`.

    Attributes:
        by: the judge.
        classes: [n], as annotated.
        flagged: bool [n], whether a beat is believed and anomalous.
        told: bool [n], whether it is believed and called ventricular.
    """

    by: str
    classes: NDArray[np.str_]
    flagged: NDArray[np.bool_]
    told: NDArray[np.bool_]


def _judge(networks: Networks, record: Lesson) -> list[_Row]:
    rest = (record.times >= 60 * MINUTES) & (record.classes != "-")
    classes, believed = record.classes[rest], record.believed[rest]
    alone = record.scores[rest] > record.usual.threshold
    rows = [_Row(BY[0], classes, believed & alone, np.zeros(len(classes), bool))]
    for by, seen in zip(BY[1:], (record.seen, record.silent), strict=True):
        score, ventricular = second_opinion.judged(
            networks, seen[rest], record.scores[rest], record.usual
        )
        told = believed & (ventricular.numpy() > VENTRICULAR_ABOVE)
        rows.append(_Row(by, classes, (believed & (score.numpy() > 1)) | told, told))
    return rows


def _figures(judged: list[tuple[str, _Row]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return by database and judge: F1 of N against all else, and shares of the beats."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for database in dict.fromkeys(name for name, _ in judged):
        for by in BY:
            rows = [row for name, row in judged if name == database and row.by == by]
            classes, flagged, told = (
                np.concatenate([getattr(row, what) for row in rows])
                for what in ("classes", "flagged", "told")
            )
            abnormal = classes != "N"
            right = int((flagged & abnormal).sum())
            mean: dict[str, float] = {
                "records": len(rows),
                "f1": 2 * right / max(int(flagged.sum() + abnormal.sum()), 1),
                "n_flagged": _share(flagged, classes == "N"),
                "n_told_ventricular": _share(told, np.isin(classes, ["N", "S"])),
            }
            for kind in "SVF":
                mean[f"{kind.lower()}_found"] = _share(flagged, classes == kind)
            mean["v_told_ventricular"] = _share(told, classes == "V")
            figures.setdefault(database, {})[by] = mean
    return figures


def _share(flags: NDArray[np.bool_], of: NDArray[np.bool_]) -> float:
    return float(flags[of].mean()) if of.any() else 0.0


def _print(figures: Any) -> None:
    table = Table(
        "records left out", "", "F1", "N flagged", "S found", "V found", "F found",
        "V told", "N, S told V", box=None,
    )  # fmt: skip
    for database, by_judge in figures.items():
        for by, row in by_judge.items():
            table.add_row(
                f"{database} ({row['records']})" if by == BY[0] else "",
                by,
                f"{row['f1']:.3f}",
                *(f"{row[name]:.2%}" for name in
                  ("n_flagged", "s_found", "v_found", "f_found", "v_told_ventricular",
                   "n_told_ventricular")),
            )  # fmt: skip
    Console(width=None if Console().is_terminal else 120).print(table)
    print(
        f"After the first {MINUTES} minutes, own peaks, beats with an annotation within 150 ms. F1 "
        "of N against S, V, F and Q. V told: called ventricular."
    )
