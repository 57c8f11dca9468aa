"""The detector that ships: its threshold comes from normal beats that its fit has not seen."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor import datasets
from monitor.model import Dataset, DetectorCard, Floats, Threshold
from train import backend, judge
from train.anomaly import autoencoder, graph, mean_absolute_error
from train.export import export, provenance

TEST_SHARE = 0.2  # of all beats, kept for the figures
HELD_OUT_SHARE = 0.2  # of the training part's normal beats, kept for the threshold
SPLIT_STATE = 21
EPOCHS = 20
BATCH = 512
FALSE_ALARM_RATE = 0.1  # about the share of normal beats above the tutorial's threshold


def main(data: Path | None, out: Path, epochs: int = EPOCHS, seed: int = 0) -> None:
    """Train the detector and write `ecg.onnx` to the folder `out`."""
    backend.load(seed)
    from sklearn.model_selection import train_test_split

    out.mkdir(parents=True, exist_ok=True)  # a folder that cannot be had is told before the work

    # Data
    ecg = datasets.ecg(data)
    train, test, train_is_normal, test_is_normal = split(ecg)
    fitted, held_out = train_test_split(
        train[train_is_normal], test_size=HELD_OUT_SHARE, random_state=SPLIT_STATE
    )
    lowest, highest = fitted.min(), fitted.max()
    fitted_scaled, held_out_scaled, test_scaled = (
        (beats - lowest) / (highest - lowest) for beats in (fitted, held_out, test)
    )

    # Model and fit
    model = autoencoder()
    model.compile(optimizer="adam", loss="mae")
    model.fit(fitted_scaled, fitted_scaled, epochs=epochs, batch_size=BATCH, verbose=0)

    # Judge
    held_out_scores = mean_absolute_error(
        model.predict(held_out_scaled, verbose=0), held_out_scaled
    )
    threshold = float(np.quantile(held_out_scores, 1 - FALSE_ALARM_RATE))
    reconstructed = model.predict(test_scaled, verbose=0)
    scores = mean_absolute_error(reconstructed, test_scaled)
    figures = judge.figures(scores, test_is_normal, threshold)
    for name, figure in figures.items():
        print(f"{name}: {figure:.4f}")

    # Export
    export(
        out / "ecg.onnx",
        graph(model, lowest, highest),
        DetectorCard(
            **provenance(),
            name="ecg",
            kind="detector",
            dataset=Dataset(
                name="ECG5000",
                sha256=ecg.sha256,
                rows={
                    "fitted": len(fitted),
                    "held_out": len(held_out),
                    "test": len(test),
                    "test_normal": int(test_is_normal.sum()),
                },
            ),
            split=f"scikit-learn's train_test_split with test_size={TEST_SHARE} and random_state="
            f"{SPLIT_STATE}; of the training part's normal beats {HELD_OUT_SHARE:.0%} held out in "
            "the same way for the threshold and the quantiles; the figures are the test part's",
            training={"recipe": "tutorial", "seed": seed, "epochs": epochs, "batch": BATCH},
            figures=figures,
            threshold=Threshold(
                value=threshold,
                chosen=f"{FALSE_ALARM_RATE:.0%} of the held-out normal beats lie above it",
            ),
            quantiles=judge.quantiles(held_out_scores),
            segmentation=None,
        ),
        inputs=test,
        expected={"reconstruction": reconstructed * (highest - lowest) + lowest, "score": scores},
    )
    print(f"wrote {out / 'ecg.onnx'}")


def split(
    ecg: datasets.Beats,
) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Part all beats into training and test, float32 [N, 140], and say which are normal, bool [N].

    Whatever is fitted, the simulator too, is fitted on this training part alone.
    """
    from sklearn.model_selection import train_test_split

    train, test, train_is_normal, test_is_normal = train_test_split(
        ecg.beats, ecg.labels, test_size=TEST_SHARE, random_state=SPLIT_STATE
    )
    return train, test, train_is_normal, test_is_normal
