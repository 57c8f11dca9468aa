"""Measure and draw the sources' image examples, whether Keras or onnxruntime runs the network.

The trainer uses this module for its Keras model, and the batch mode for the exported ONNX file, so
that their figures can be compared.

Sources: https://www.tensorflow.org/tutorials/generative/autoencoder (`basic`, `denoise`),
https://blog.keras.io/building-autoencoders-in-keras.html (`undercomplete`) and
https://keras.io/examples/generative/vae/ (`vae`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.batch import plots
from monitor.batch.datasets import Images
from monitor.ecg.beat import Floats

Run = Callable[[Floats], Mapping[str, Floats]]
"""Runs a graph: takes a float32 batch, returns the outputs by name."""


@dataclass(frozen=True)
class Example:
    """One of the sources' examples."""

    dataset: str
    """`fashion-mnist` or `mnist`."""
    published: str
    """The result that its source reports."""
    principal_components: int | None = None
    """The size of the code, if the example is compared with PCA."""


EXAMPLES: Final = {
    "basic": Example("fashion-mnist", "val_loss 0.0088 / 0.0089", principal_components=64),
    "denoise": Example("fashion-mnist", "val_loss 0.0071 / 0.0074"),
    "undercomplete": Example("mnist", "val_loss about 0.093", principal_components=32),
    "vae": Example("mnist", "loss about 150 to 155 in all, KL 6 to 7"),
}

NOISE: Final = 0.2
"""Standard deviation of the noise that `denoise` removes: the tutorial's noise factor."""

SEED: Final = 0
"""Seed of the test images' noise and of the VAE's samples, so that results can be compared."""

SHOWN: Final = 10
"""Images in a row of a figure."""


def noisy(images: Floats, seed: int = SEED) -> Floats:
    """Return images in [0, 1] with Gaussian noise of `NOISE` added, clipped to [0, 1]."""
    noise = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    return np.clip(images + np.float32(NOISE) * noise, 0, 1)


def reconstruction(name: str, autoencoder: Run, data: Images, out: Path) -> dict[str, float]:
    """Measure `basic`, `denoise` or `undercomplete` on the 10,000 test images; draw into `out`.

    Return `mse`; for `denoise`, the mean PSNR in dB before and after; for `undercomplete`, the mean
    binary cross-entropy in nats a pixel; and if the example is compared with PCA, `pca_mse` for PCA
    fitted to the training images.
    """
    clean = data.test
    given = noisy(clean) if name == "denoise" else clean
    found = _run(autoencoder, given)["reconstruction"]
    measured = {"mse": _mean_squared_error(clean, found)}
    rows = {"original": clean, "reconstruction": found}
    if name == "denoise":
        measured["mse_noisy"] = _mean_squared_error(clean, given)
        measured["psnr_noisy"] = _psnr(clean, given)
        measured["psnr_denoised"] = _psnr(clean, found)
        rows = {"noisy": given, "denoised": found, "original": clean}
    if name == "undercomplete":
        measured["binary_crossentropy"] = float(_binary_crossentropy(clean, found).mean())
    if components := EXAMPLES[name].principal_components:
        projected = _pca(data.train, clean, components)
        measured["pca_mse"] = _mean_squared_error(clean, projected)
        rows[f"PCA, {components}"] = np.clip(projected, 0, 1)
    plots.rows(out / "reconstructions.png", {row: n[:SHOWN] for row, n in rows.items()})
    return measured


def vae(encoder: Run, decoder: Run, data: Images, out: Path) -> dict[str, float]:
    """Measure the VAE on the 10,000 test images and draw its latent plane into `out`.

    Return, in nats an image, the `reconstruction` loss (binary cross-entropy summed over the
    pixels, for one sample of the code), the `kl` divergence from the standard normal
    distribution, and `total`, their sum.
    """
    code = _run(encoder, data.test)
    mean, log_variance = code["z_mean"], code["z_log_var"]
    noise = np.random.default_rng(SEED).standard_normal(mean.shape, np.float32)
    z = mean + np.exp(log_variance / 2) * noise
    found = _run(decoder, z.astype(np.float32))["image"]
    loss = float(_binary_crossentropy(data.test, found).sum(axis=(1, 2, 3)).mean())
    divergence = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance))
    kl = float(divergence.sum(axis=1, dtype=np.float64).mean())

    axis = np.linspace(-2, 2, 30)
    plane = np.stack(np.meshgrid(axis, axis[::-1]), axis=-1).reshape(-1, 2)
    decoded = _run(decoder, plane.astype(np.float32))["image"].reshape(30, 30, 28, 28, 1)
    plots.manifold(out / "manifold.png", decoded, scale=2)
    plots.latent(
        out / "latent.png", mean, data.test_labels, data.classes, ("z_mean[0]", "z_mean[1]")
    )
    plots.rows(
        out / "reconstructions.png",
        {"original": data.test[:SHOWN], "reconstruction": found[:SHOWN]},
    )
    return {"reconstruction": loss, "kl": kl, "total": loss + kl}


def principal(data: Floats, components: int) -> tuple[Floats, Floats]:
    """Return the mean [d] and the first principal directions [components, d] of data [n, d]."""
    mean = data.mean(axis=0).astype(np.float32)
    centred = data - mean
    _, directions = np.linalg.eigh(centred.T @ centred)  # in ascending order of variance
    return mean, directions[:, : -components - 1 : -1].T


def _run(graph: Run, batch: Floats) -> dict[str, Floats]:
    """Run a graph on a thousand rows at a time, as its hidden layers are larger than its input."""
    parts = [graph(batch[start : start + 1000]) for start in range(0, len(batch), 1000)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pca(train: Floats, test: Floats, components: int) -> Floats:
    mean, directions = principal(train.reshape(len(train), -1), components)
    centred = test.reshape(len(test), -1) - mean
    projected = centred @ directions.T @ directions + mean
    return projected.reshape(test.shape).astype(np.float32)


def _mean_squared_error(truth: Floats, found: Floats) -> float:
    return float(np.square(truth - found).mean(dtype=np.float64))


def _psnr(truth: Floats, found: Floats) -> float:
    """Return the mean over the images of the peak signal-to-noise ratio in dB; the peak is 1."""
    errors = np.square(truth - found).mean(axis=(1, 2, 3), dtype=np.float64)
    return float(-10 * np.log10(errors).mean())


def _binary_crossentropy(truth: Floats, found: Floats) -> NDArray[np.float64]:
    """Return the cross-entropy of each pixel in nats, clipped like Keras to [1e-7, 1 - 1e-7]."""
    p = np.clip(found, np.float32(1e-7), np.float32(1 - 1e-7)).astype(np.float64)
    q = truth.astype(np.float64)
    return -(q * np.log(p) + (1 - q) * np.log(1 - p))
