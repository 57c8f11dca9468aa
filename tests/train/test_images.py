"""The trainers of images, and the batch mode that runs what they leave."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from monitor.batch import datasets, image_examples
from monitor.detector.model_file import Model
from train import backend
from train.images import report

backend.load(seed=0)


@pytest.fixture(scope="module")
def trained(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every example trained for two epochs of the small data."""
    from train.images import autoencoders, vae

    out = tmp_path_factory.mktemp("trained")
    for name in ("basic", "denoise", "undercomplete"):
        autoencoders.main(name, small, out / name, 2, 0, "tuned")
    vae.main(small, out / "vae", 2, 0, "tuned")
    return out


def test_the_networks_are_those_of_the_sources() -> None:
    from train.images import autoencoders, vae

    sizes = {
        name: [part.count_params() for part in autoencoders.network(name).layers]
        for name in autoencoders.LOSS
    }
    assert sizes == {
        "basic": [784 * 64 + 64, 64 * 784 + 784],
        "denoise": [1320, 1897],
        "undercomplete": [784 * 32 + 32, 32 * 784 + 784],
    }
    model = vae.VAE()
    assert model.encoder.count_params() == 69_076
    assert model.decoder.count_params() == 65_089
    assert autoencoders.TUTORIAL["undercomplete"].epochs == 50


MODELS = {"vae": "vae-encoder.onnx"}

WITHOUT_TRAINERS = """
import sys
for name in ("tensorflow", "keras", "tf2onnx", "onnx", "sklearn", "scipy", "pandas", "train"):
    sys.modules[name] = None
sys.argv[0] = "ecg-monitor"
from monitor.cli import main
main()
"""


def batch(*arguments: object) -> dict[str, Any]:
    """Run `ecg-monitor batch` where no library of the trainers' can be imported."""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRAINERS, "batch", *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def assert_drawn(folder: Path, *names: str) -> None:
    for name in names:
        picture = imread(folder / name)
        assert min(picture.shape[:2]) > 250, f"{name} is small"
        assert picture[..., :3].std() > 0.05, f"{name} is blank"


@pytest.mark.parametrize("name", ["basic", "denoise", "undercomplete", "vae"])
def test_batch_finds_what_the_trainer_reported(
    trained: Path, small: Path, tmp_path: Path, name: str
) -> None:
    reported = json.loads((trained / name / "report.json").read_text())
    assert reported["history"]["loss"][-1] < reported["history"]["loss"][0]
    assert_drawn(trained / name, "reconstructions.png", "latent.png", "losses.png")
    model = trained / name / MODELS.get(name, f"{name}.onnx")
    found = batch(name, "--data", small, "--model", model, "--out", tmp_path)
    assert found["figures"]
    for figure, value in found["figures"].items():
        assert value == pytest.approx(reported["figures"][figure], abs=1e-4), figure
    pictures = ["latent.png", "manifold.png"] if name == "vae" else []
    assert_drawn(tmp_path, "reconstructions.png", *pictures)
    assert json.loads((tmp_path / "metrics.json").read_text()) == found


@pytest.mark.parametrize("name", ["basic", "denoise", "undercomplete", "vae"])
def test_batch_finds_what_is_on_the_shipped_card(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    found = batch(name, "--data", real_data, "--out", tmp_path)
    for figure, value in found["figures"].items():
        assert value == pytest.approx(found["reported"][figure], abs=1e-4), figure


def test_the_tuned_models_that_ship_reach_the_goals(real_data: Path) -> None:
    from monitor.detector.model_file import shipped

    cards = {name: Model(shipped(name)).card for name in ("basic", "denoise", "undercomplete")}
    images = datasets.images("fashion-mnist", real_data)
    assert {card.training["recipe"] for card in cards.values()} == {"tuned"}
    assert cards["basic"].dataset.sha256 == images.sha256
    assert cards["basic"].figures["val_loss"] <= 0.0086
    assert cards["denoise"].figures["val_loss"] <= 0.0070
    assert cards["undercomplete"].figures["val_loss"] <= 0.093


def test_the_noise_is_the_tutorials_and_always_the_same() -> None:
    grey = np.full((100, 28, 28, 1), 0.5, np.float32)
    noisy = image_examples.noisy(grey)
    assert noisy.dtype == np.float32
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert noisy.std() == pytest.approx(0.2, rel=0.03)
    assert np.array_equal(noisy, image_examples.noisy(grey))
    assert not np.array_equal(noisy, image_examples.noisy(grey, seed=1))


def test_the_principal_directions_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    random = np.random.default_rng(0)
    samples = (random.standard_normal((300, 12)) * np.arange(1, 13)).astype(np.float32)
    mean, directions = image_examples.principal(samples, 3)
    expected = PCA(3).fit(samples)
    assert np.allclose(mean, expected.mean_, atol=1e-4)
    assert np.allclose(np.abs(directions), np.abs(expected.components_), atol=1e-3)


def test_one_page_shows_all_trainings(trained: Path) -> None:
    page = report.write_page(trained, ["basic", "denoise", "undercomplete", "vae"]).read_text()
    for name in ("basic", "denoise", "undercomplete", "vae"):
        for picture in (trained / name).glob("*.png"):
            assert f'<img src="{name}/{picture.name}"' in page
    assert "Total params: 1,320" in page
    assert "pca_mse" in page


def test_another_kind_of_file_is_refused(trained: Path, small: Path, tmp_path: Path) -> None:
    from monitor.commands import batch
    from monitor.errors import Failure, UsageError

    decoder = trained / "vae" / "vae-decoder.onnx"
    with pytest.raises(Failure, match="kind vae-decoder, not vae-encoder"):
        batch.main("vae", small, decoder, tmp_path, True)
    with pytest.raises(UsageError, match="allowed are basic, denoise, undercomplete, vae, ecg"):
        batch.main("sharpen", small, None, tmp_path, True)
