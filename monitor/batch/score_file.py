"""Score a file of beats, block by block: CSV to CSV, Parquet to Parquet.

The output has the format of the input: people who keep beats in Parquet have a reader for it, and
many beats.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from monitor.batch import plots
from monitor.detector.model_file import Detector
from monitor.ecg import beat_files
from monitor.ecg.beat import Floats
from monitor.errors import Failure


def score(detector: Detector, path: Path, out: Path) -> dict[str, Any]:
    """Score the beats of `path`; write `scored.csv` or `.parquet` and figures to folder `out`.

    Return `beats`, `anomalous` and `threshold`. If there are labels, also return `accuracy`,
    `precision` and `recall` with normal as the positive class, like the TensorFlow tutorial, and
    `detection_rate`, `false_alarm_rate`, `roc_auc` and the four counts of `confusion` with
    anomalous as the positive class.

    Raises:
        Failure: a row is not a beat; the beats scored before it remain in the file.
    """
    blocks = beat_files.read(path)
    scores: list[Floats] = []  # with the labels, memory grows by five bytes a beat
    normals: list[NDArray[np.bool_]] = []
    called = np.zeros((2, 2), np.int64)  # [labelled normal, called anomalous]
    shown: dict[bool, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    labelled = True
    console = Console(stderr=True)
    suffix = ".parquet" if path.suffix.lower() == ".parquet" else ".csv"  # also of .csv.gz
    with _writer(out / f"scored{suffix}") as file:
        for block in track(blocks, "scoring", console=console, disable=not console.is_terminal):
            scored = detector.score(block.beats)
            anomalous = scored.scores > detector.threshold
            file.write_batch(_batch(block, scored.scores, anomalous))
            labelled = labelled and block.labels is not None
            normal = np.ones(len(anomalous), bool) if block.labels is None else block.labels
            scores.append(scored.scores)
            normals.append(normal)
            np.add.at(called, (normal.astype(int), anomalous.astype(int)), 1)
            for verdict in {False, True} - shown.keys():
                if (anomalous == verdict).any():
                    first = int((anomalous == verdict).argmax())
                    shown[verdict] = block.beats[first], scored.reconstructions[first]
    for verdict, (beat, reconstruction) in shown.items():
        name = "anomalous" if verdict else "normal"
        title = f"The first {name} beat"
        plots.reconstruction(out / f"{name}.png", title, beat, reconstruction)
    every, normal = np.concatenate(scores), np.concatenate(normals)
    named = {"normal": every[normal], "anomalous": every[~normal]} if labelled else {"beats": every}
    plots.histogram(out / "scores.png", "Scores", named, detector.threshold)
    figures: dict[str, Any] = {
        "beats": int(called.sum()),
        "anomalous": int(called[:, 1].sum()),
        "threshold": detector.threshold,
    }
    return figures | _measure(called, _roc_auc(every, normal)) if labelled else figures


def _roc_auc(scores: Floats, normal: NDArray[np.bool_]) -> float | None:
    """Return the probability that an abnormal beat scores above a normal one; ties count half.

    Return None if there are no beats of one kind. It is the statistic U of H. Mann and D. Whitney,
    "On a test of whether one of two random variables is stochastically larger than the other",
    1947, divided by the number of pairs.
    """
    if normal.all() or not normal.any():
        return None
    try:
        from scipy.stats import mannwhitneyu
    except ModuleNotFoundError:
        raise Failure("batch needs SciPy: pip install 'ecg-monitor[batch]'") from None
    exact = scores.astype(np.float64)  # SciPy adds up the ranks in the scores' own precision
    abnormal = exact[~normal]
    above = mannwhitneyu(abnormal, exact[normal], method="asymptotic").statistic
    return float(above / (len(abnormal) * int(normal.sum())))


def _measure(called: NDArray[np.int64], auc: float | None) -> dict[str, Any]:
    (missed, found), (quiet, false_alarms) = called.tolist()

    def share(part: int, of: int) -> float | None:
        return part / of if of else None

    return {
        "accuracy": share(found + quiet, int(called.sum())),
        "precision": share(quiet, quiet + missed),
        "recall": share(quiet, quiet + false_alarms),
        "detection_rate": share(found, found + missed),
        "false_alarm_rate": share(false_alarms, quiet + false_alarms),
        "roc_auc": auc,
        "confusion": {
            "found": found,
            "missed": missed,
            "false_alarms": false_alarms,
            "quiet": quiet,
        },
    }


def _writer(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise Failure("batch needs pyarrow: pip install 'ecg-monitor[batch]'") from None
    columns = {
        "device": pa.string(),
        "seq": pa.int64(),
        "score": pa.float32(),
        "anomalous": pa.bool_(),
    }
    file = pa.csv.CSVWriter if path.suffix == ".csv" else pa.parquet.ParquetWriter
    return file(path, pa.schema(columns))


def _batch(
    block: beat_files.Block, scores: NDArray[np.float32], anomalous: NDArray[np.bool_]
) -> Any:
    import pyarrow as pa

    return pa.record_batch(
        {
            "device": pa.array(block.devices, pa.string()),
            "seq": block.seq,
            "score": scores,
            "anomalous": anomalous,
        }
    )
