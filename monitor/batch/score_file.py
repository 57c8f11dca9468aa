"""Score files of beats, block by block: CSV to CSV, Parquet to Parquet.

The output has the format of the input: people who keep beats in Parquet have a reader for it, and
many beats.
"""

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from monitor.batch import plots
from monitor.detector.model_file import Detector
from monitor.ecg import beat_files
from monitor.ecg.beat import Floats
from monitor.errors import Failure

AT_ONCE: Final = 1024
"""Beats in one run of the graph, which then stays in the cache: two threads score 2.84 million
beats a second in runs of 1,024, 2.67 in runs of 256, and 2.48 in runs of 4,096."""


def score(detector: Detector, path: Path, out: Path, threads: int = 1) -> dict[str, Any]:
    """Score the beats of `path`; write `scored.csv` or `.parquet` and figures to folder `out`.

    Return `beats`, `anomalous` and `threshold`. If there are labels, also return `accuracy`,
    `precision` and `recall` with normal as the positive class, like the TensorFlow tutorial, and
    `detection_rate`, `false_alarm_rate`, `roc_auc` and the four counts of `confusion` with
    anomalous as the positive class.

    Args:
        detector: opened with one thread; `threads` blocks are scored at a time.
        path: a file of beats, or a folder of Parquet files.
        out: folder to write to.
        threads: at most as many as there are processors.

    Raises:
        Failure: a row is not a beat; the beats scored before it remain in the file.
    """
    from_parquet = path.is_dir() or path.suffix.lower() == ".parquet"
    suffix = ".parquet" if from_parquet else ".csv"  # also of .csv.gz
    blocks = _scored(detector, beat_files.read(path), threads)
    scores: list[Floats] = []  # with the labels, memory grows by five bytes a beat
    normals: list[NDArray[np.bool_]] = []
    called = np.zeros((2, 2), np.int64)  # [labelled normal, called anomalous]
    shown: dict[bool, Floats] = {}
    labelled = True
    console = Console(stderr=True)
    with _writer(out / f"scored{suffix}") as file:
        for block, found in track(
            blocks, "scoring", console=console, disable=not console.is_terminal
        ):
            anomalous = found > detector.threshold
            file.write_batch(columns(block, found, anomalous))
            labelled = labelled and block.labels is not None
            normal = np.ones(len(anomalous), bool) if block.labels is None else block.labels
            scores.append(found)
            normals.append(normal)
            called += np.bincount(2 * normal + anomalous, minlength=4).reshape(2, 2)
            for verdict in {False, True} - shown.keys():
                if (anomalous == verdict).any():
                    shown[verdict] = block.beats[int((anomalous == verdict).argmax())]
    for verdict, beat in shown.items():
        name = "anomalous" if verdict else "normal"
        reconstruction = detector.score(beat[None]).reconstructions[0]
        plots.reconstruction(out / f"{name}.png", f"The first {name} beat", beat, reconstruction)
    every, normal = np.concatenate(scores), np.concatenate(normals)
    named = {"normal": every[normal], "anomalous": every[~normal]} if labelled else {"beats": every}
    plots.histogram(out / "scores.png", "Scores", named, detector.threshold)
    figures = counts(called, detector.threshold, labelled)
    return figures | {"roc_auc": _roc_auc(every, normal)} if labelled else figures


def scores(detector: Detector, beats: Floats) -> Floats:
    """Return the scores of a block of beats, float32 [n].

    onnxruntime adds up a row's squares in an order that depends on the row's address, so the last
    bit of a score depends on where in a run of the graph the beat is. Here the same block has the
    same scores on every machine with the same processor, if the detector was opened with one
    thread.
    """
    runs = [beats[start : start + AT_ONCE] for start in range(0, len(beats), AT_ONCE)]
    return np.concatenate([detector.score(run).scores for run in runs])


def columns(block: beat_files.Block, scores: Floats, anomalous: NDArray[np.bool_]) -> Any:
    """Return the columns that are written of a block, as an Arrow record batch."""
    import pyarrow as pa

    named = isinstance(block.devices, pa.Array)
    return pa.record_batch(
        {
            "device": block.devices if named else pa.array(block.devices, pa.string()),
            "seq": block.seq,
            "score": scores,
            "anomalous": anomalous,
        }
    )


def counts(called: NDArray[np.int64], threshold: float, labelled: bool) -> dict[str, Any]:
    """Return what `score` does, but for the area under the curve.

    Args:
        called: int64 [2, 2], the beats that were [labelled normal, called anomalous]; those without
            a label count as normal.
        threshold: the detector's.
        labelled: whether there are labels.
    """
    figures: dict[str, Any] = {
        "beats": int(called.sum()),
        "anomalous": int(called[:, 1].sum()),
        "threshold": threshold,
    }
    return figures | _measure(called) if labelled else figures


class _Scored(NamedTuple):
    """A block with its scores, and the task that reads and scores the one after it."""

    block: beat_files.Block
    scores: Floats
    following: "Future[_Scored | None]"


def _scored(
    detector: Detector, blocks: Iterator[beat_files.Block], threads: int
) -> Generator[tuple[beat_files.Block, Floats]]:
    """Yield each block with its scores, in order, while further ones are read and scored.

    Arrow and onnxruntime release the lock. Whichever thread has read a block lets another one read
    the next, and scores its own, which is then still in its cache: no thread only reads, so as many
    of them as there are processors keep these busy. Blocks read before a `Failure` come before it.
    """
    room = Semaphore(2 * threads)  # for each thread one in work and one that waits to be written

    def work() -> _Scored | None:
        room.acquire()
        block = next(blocks, None)
        if block is None:
            return None
        following = pool.submit(work)
        return _Scored(block, scores(detector, block.beats), following)

    with ThreadPoolExecutor(threads) as pool:
        try:
            task = pool.submit(work)
            while scored := task.result():
                yield scored.block, scored.scores
                task = scored.following
                room.release()
        finally:  # whoever takes no more, or cannot write, lets nobody wait to read on
            pool.shutdown(wait=False, cancel_futures=True)
            room.release()


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


def _measure(called: NDArray[np.int64]) -> dict[str, Any]:
    (missed, found), (quiet, false_alarms) = called.tolist()

    def share(part: int, of: int) -> float | None:
        return part / of if of else None

    return {
        "accuracy": share(found + quiet, int(called.sum())),
        "precision": share(quiet, quiet + missed),
        "recall": share(quiet, quiet + false_alarms),
        "detection_rate": share(found, found + missed),
        "false_alarm_rate": share(false_alarms, quiet + false_alarms),
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
    if path.is_dir():
        raise Failure(f"{path}: is a folder, as --spark writes it; remove it or use another --out")
    schema = pa.schema(
        {"device": pa.string(), "seq": pa.int64(), "score": pa.float32(), "anomalous": pa.bool_()}
    )
    if path.suffix == ".csv":
        return pa.csv.CSVWriter(path, schema)
    # Scores hardly repeat: looking for those that do takes as long again as writing them
    return pa.parquet.ParquetWriter(path, schema, use_dictionary=["device"])
