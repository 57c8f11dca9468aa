"""The batch mode: run the image examples from their ONNX files, or score a file of beats."""

from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from monitor.batch import datasets, image_examples, score_file, spark
from monitor.detector.model_file import Detector, Model, shipped
from monitor.errors import UsageError
from monitor.processors import available

NAMES: Final = (*image_examples.EXAMPLES, "ecg")


class BatchResult(msgspec.Struct):
    """The result of a run, as `metrics.json` and `--json` contain it."""

    name: str
    models: dict[str, str]
    """The SHA-256 of each model file used, by the name on its card."""
    figures: dict[str, Any]
    """Measured in this run, from the ONNX files."""
    reported: dict[str, float]
    """Measured by the trainer, from the card."""


def main(
    name: str,
    data: Path | None,
    model: Path | None,
    out: Path,
    as_json: bool,
    master: str | None = None,
) -> None:
    """Run one of `NAMES`; write figures and `metrics.json` to `out`, and print the metrics.

    Args:
        name: one of `NAMES`.
        data: folder of the data sets, or for `ecg` a file of beats or a folder of Parquet files.
        model: model file; for `vae` the encoder's, with the decoder's in the same folder.
        out: folder to write to.
        as_json: print the metrics as JSON.
        master: of the Spark cluster that scores the beats of `ecg`; None to do it here.

    Raises:
        UsageError: `name` is not one of `NAMES`, or `master` does not go with it.
    """
    if name not in NAMES:
        raise UsageError(f"NAME {name!r}: not an example; allowed are {', '.join(NAMES)}")
    if master and (name != "ecg" or data is None):
        raise UsageError("--spark scores beats: batch ecg --data FILE.parquet, or a folder of them")
    out.mkdir(parents=True, exist_ok=True)
    run = {"ecg": _ecg, "vae": _vae}.get(name) or _image
    result = _on_spark(master, data, model, out) if master and data else run(name, data, model, out)
    content = msgspec.json.encode(result)
    (out / "metrics.json").write_bytes(msgspec.json.format(content, indent=2))
    if as_json:
        print(content.decode())
    else:
        _show(result)
        print(f"figures and metrics.json are in {out}")


def _image(name: str, data: Path | None, path: Path | None, out: Path) -> BatchResult:
    model = Model(path or shipped(name), "image", available())
    images = datasets.images(image_examples.EXAMPLES[name].dataset, data)
    figures = image_examples.reconstruction(name, model.run, images, out)
    return BatchResult(name, {model.card.name: model.sha256}, figures, model.card.figures)


def _vae(name: str, data: Path | None, path: Path | None, out: Path) -> BatchResult:
    path = path or shipped("vae-encoder")
    beside = path.with_name(path.name.replace("encoder", "decoder"))
    encoder = Model(path, "vae-encoder", available())
    decoder = Model(beside, "vae-decoder", available())
    images = datasets.images(image_examples.EXAMPLES[name].dataset, data)
    figures = image_examples.vae(encoder.run, decoder.run, images, out)
    models = {model.card.name: model.sha256 for model in (encoder, decoder)}
    return BatchResult(name, models, figures, encoder.card.figures)


def _ecg(name: str, data: Path | None, path: Path | None, out: Path) -> BatchResult:
    detector = Detector(path or shipped("ecg"))
    figures = score_file.score(detector, _beats(data), out, available())
    return BatchResult(name, {detector.name: detector.sha256}, figures, detector.card.figures)


def _on_spark(master: str, data: Path, path: Path | None, out: Path) -> BatchResult:
    detector, figures = spark.score(path or shipped("ecg"), master, data, out)
    return BatchResult("ecg", {detector.name: detector.sha256}, figures, detector.card.figures)


def _beats(data: Path | None) -> Path:
    """Return the file of beats, or the folder of Parquet files, that `data` is or contains."""
    if data is None or data.is_dir():
        archive = data and not (data / "ecg.csv").exists() and any(data.rglob("*.parquet"))
        return data if data and archive else datasets.find("", "ecg.csv", data)
    return data


def _show(result: BatchResult) -> None:
    table = Table(result.name, "measured", "on the card (test part)", box=None)
    for name, value in result.figures.items():
        if isinstance(value, dict):
            shown = ", ".join(f"{count} {what}" for what, count in value.items())
        else:
            shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        reported = result.reported.get(name)
        table.add_row(name, shown, "" if reported is None else f"{reported:.6g}")
    Console().print(table)
