"""The TensorFlow tutorial's ECG anomaly detector, to the letter, over several seeds.

Source: "Intro to Autoencoders", third example
(https://www.tensorflow.org/tutorials/generative/autoencoder), on ECG5000 in the layout of the
tutorial's `ecg.csv`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from monitor.batch import datasets, plots
from monitor.detector.model_file import Dataset, DetectorCard, Threshold
from monitor.ecg.beat import Floats
from train import backend
from train.detectors import metrics
from train.export import Graph, export, provenance

# --- the tutorial's settings ---------------------------------------------------------------------
ROWS = 4998  # in the tutorial's file; with the last two of ECG5000's 5,000 the split is another one
TEST_SHARE = 0.2  # of all beats, normal or not
SPLIT_STATE = 21  # of scikit-learn's train_test_split
EPOCHS = 20
BATCH = 512
# The optimiser is Adam as Keras has it, the loss the mean absolute error; the threshold is the mean
# and one standard deviation of the errors of the normal beats that were trained on.

# --- ours ----------------------------------------------------------------------------------------
SEEDS = (0, 1, 2, 3, 4)  # of the first weights and of the order of beats; the first one is exported

PUBLISHED = {  # the lowest and the highest of the tutorial's three published runs
    "threshold": (0.0324, 0.0326),
    "accuracy": (0.944, 0.945),
    "precision": (0.9922, 0.9922),
    "recall": (0.907, 0.909),
}


def main(data: Path | None, out: Path, epochs: int = EPOCHS, seed: int | None = None) -> None:
    """Train with every seed, or with `seed` alone, and write figures, report and `anomaly.onnx`."""
    backend.load()
    from sklearn.model_selection import train_test_split

    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be had is told before the work

    # Data: scaled to [0, 1] with what the training part shows, and normal beats alone to learn from
    ecg = datasets.ecg(data)
    train, test, train_is_normal, test_is_normal = train_test_split(
        ecg.beats[:ROWS], ecg.labels[:ROWS], test_size=TEST_SHARE, random_state=SPLIT_STATE
    )
    lowest, highest = train.min(), train.max()
    train_scaled, test_scaled = ((x - lowest) / (highest - lowest) for x in (train, test))
    normal = train_scaled[train_is_normal]

    seeds = SEEDS if seed is None else (seed,)
    runs: list[dict[str, float]] = []
    for number in track(seeds, "training", console=Console(stderr=True), transient=True):
        # Model
        backend.load(number)
        model = autoencoder()

        # Fit: the validation part is the test part, as in the tutorial; it decides nothing
        model.compile(optimizer="adam", loss="mae")
        history = model.fit(
            normal,
            normal,
            epochs=epochs,
            batch_size=BATCH,
            validation_data=(test_scaled, test_scaled),
            shuffle=True,
            verbose=0,
        ).history

        # Judge
        fitted = mean_absolute_error(model.predict(normal, verbose=0), normal)
        threshold = float(fitted.mean() + fitted.std())
        reconstructed = model.predict(test_scaled, verbose=0)
        scores = mean_absolute_error(reconstructed, test_scaled)
        figures = metrics.figures(scores, test_is_normal, threshold)
        runs.append({"seed": number, "threshold": threshold, **figures})
        print(f"seed {number}: threshold {threshold:.4f}, accuracy {figures['accuracy']:.4f}")
        if number != seeds[0]:
            continue

        # Export the first one, and draw the tutorial's seven pictures of it
        export(
            out / "anomaly.onnx",
            graph(model, lowest, highest),
            DetectorCard(
                **provenance(),
                name="anomaly",
                kind="detector",
                dataset=Dataset(
                    name="ECG5000",
                    sha256=ecg.sha256,
                    rows={
                        "train": len(train),
                        "train_normal": len(normal),
                        "test": len(test),
                        "test_normal": int(test_is_normal.sum()),
                    },
                ),
                split=f"scikit-learn's train_test_split of the first {ROWS} rows with test_size="
                f"{TEST_SHARE} and random_state={SPLIT_STATE}; fitted on the normal beats of the "
                "training part; the figures and the quantiles are the test part's",
                training={"recipe": "tutorial", "seed": number, "epochs": epochs, "batch": BATCH},
                figures=figures,
                threshold=Threshold(
                    value=threshold,
                    chosen="mean and one standard deviation of the scores of the normal beats that "
                    "were fitted",
                ),
                quantiles=metrics.quantiles(scores[test_is_normal]),
                segmentation=None,
            ),
            inputs=test,
            expected={
                "reconstruction": reconstructed * (highest - lowest) + lowest,
                "score": scores,
            },
        )
        first, other = test_is_normal.argmax(), test_is_normal.argmin()
        plots.beat(out / "beat-normal.png", "A normal beat", normal[0])
        plots.beat(
            out / "beat-anomalous.png", "An anomalous beat", train_scaled[~train_is_normal][0]
        )
        plots.curves(out / "training.png", "Training", history["loss"], history["val_loss"])
        plots.reconstruction(
            out / "reconstruction-normal.png",
            "A normal beat of the test part",
            test_scaled[first],
            reconstructed[first],
        )
        plots.reconstruction(
            out / "reconstruction-anomalous.png",
            "An anomalous beat of the test part",
            test_scaled[other],
            reconstructed[other],
        )
        plots.histogram(
            out / "scores-normal.png",
            "Normal beats of the training part",
            {"beats": fitted},
            threshold,
        )
        plots.histogram(
            out / "scores-anomalous.png",
            "Anomalous beats of the test part",
            {"beats": scores[~test_is_normal]},
            threshold,
        )

    report(runs, out, epochs, ecg.sha256)


def autoencoder() -> Any:
    """Build the tutorial's network, for beats scaled to [0, 1], float32 [N, 140]."""
    from keras import Sequential, layers

    encoder = [layers.Dense(32, "relu"), layers.Dense(16, "relu"), layers.Dense(8, "relu")]
    decoder = [layers.Dense(16, "relu"), layers.Dense(32, "relu"), layers.Dense(140, "sigmoid")]
    return Sequential([layers.Input((140,)), *encoder, *decoder])


def mean_absolute_error(reconstructed: Floats, beats: Floats) -> Floats:
    """Give the tutorial's score of each beat, float32 [N], from two arrays of float32 [N, 140]."""
    errors: Floats = np.abs(reconstructed - beats).mean(axis=1)
    return errors


def graph(model: Any, lowest: np.float32, highest: np.float32) -> Graph:
    """Put scaling and scoring around `model`, for beats in units of their own."""
    import tensorflow as tf

    def scored(beat: Any) -> dict[str, Any]:
        scaled = (beat - lowest) / (highest - lowest)
        reconstructed = model(scaled)
        return {
            "reconstruction": reconstructed * (highest - lowest) + lowest,
            "score": tf.reduce_mean(tf.abs(reconstructed - scaled), axis=1),
        }

    return scored


def report(runs: list[dict[str, float]], out: Path, epochs: int, sha256: str) -> None:
    """Print the runs beside the published ones and write them to `report.json`."""
    mean = {key: float(np.mean([run[key] for run in runs])) for key in runs[0] if key != "seed"}
    spread = {key: float(np.std([run[key] for run in runs])) for key in mean}
    table = Table("", *(str(run["seed"]) for run in runs), "mean ± spread", "published", box=None)
    for key in mean:
        low, high = PUBLISHED.get(key, (None, None))
        table.add_row(
            key,
            *(f"{run[key]:.4f}" for run in runs),
            f"{mean[key]:.4f} ± {spread[key]:.4f}",
            "" if low is None else f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}",
        )
    Console(width=None if Console().is_terminal else 120).print(table)
    content = {
        "source": "https://www.tensorflow.org/tutorials/generative/autoencoder",
        "data_sha256": sha256,
        "epochs": epochs,
        "runs": runs,
        "mean": mean,
        "spread": spread,
        "published": PUBLISHED,
    }
    (out / "report.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"wrote {out / 'anomaly.onnx'} (seed {runs[0]['seed']}), report.json and seven pictures")
