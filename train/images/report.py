"""Write the report of a training, `report.json`, and one page for all trainings."""

import json
from html import escape
from pathlib import Path
from typing import Any, Final

import keras
import msgspec

from monitor.detector.model_file import Dataset, Model

PICTURES: Final = {
    "reconstructions.png": "Test images and their reconstructions",
    "latent.png": "Codes of the test images, coloured by class",
    "manifold.png": "Decoded images over the latent plane from -2 to 2",
    "losses.png": "Loss after each epoch",
}

STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid #ddd }
td { font-variant-numeric: tabular-nums }
table table { margin: 0 }
figure { margin: 1.5rem 0 } figcaption { color: #555 } img { max-width: 100% }
pre { font-size: .75rem; line-height: 1.2; overflow-x: auto }
"""


class Report(msgspec.Struct, kw_only=True):
    """The report of an image example's training, as in `report.json`."""

    name: str
    published: str
    figures: dict[str, float]
    training: dict[str, Any]
    seconds: float
    history: dict[str, list[float]]
    dataset: Dataset
    parameters: dict[str, int]
    summaries: list[str] = []

    def write(self, out: Path, networks: list[keras.Model]) -> None:
        """Add the networks' summaries, write `report.json` into `out` and print the figures."""
        for network in networks:
            lines: list[str] = []
            network.summary(line_length=80, print_fn=lines.append)
            self.summaries.append("\n".join(lines))
        (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2))
        for figure, value in self.figures.items():
            print(f"{figure:>24}  {value:.6g}")
        print(f"{'published':>24}  {self.published}")
        print(f"trained in {self.seconds:.1f} s; figures, report.json and model files are in {out}")


def write_page(out: Path, names: list[str]) -> Path:
    """Write `report.html` for the trainings in the folders `names` of `out`; return its path."""
    links = " · ".join(f'<a href="#{name}">{name}</a>' for name in names)
    sections = "".join(_section(out, name) for name in names)
    page = out / "report.html"
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Trainings</title>'
        f"<style>{STYLE}</style><h1>Trainings</h1><p>{links}</p>{sections}</html>\n"
    )
    return page


def _section(out: Path, name: str) -> str:
    path = out / name / "report.json"
    if path.exists():
        report = json.loads(path.read_text())
    else:  # a detector's card is its report
        report = msgspec.to_builtins(Model(out / name / f"{name}.onnx").card)
        report.pop("quantiles", None)  # for machines
    summaries = report.pop("summaries", [])
    report.pop("history", None)  # shown as a figure
    known = [picture for picture in PICTURES if (out / name / picture).exists()]
    others = sorted({path.name for path in (out / name).glob("*.png")} - PICTURES.keys())
    figures = "".join(
        f'<figure><img src="{name}/{picture}" alt="">'
        f"<figcaption>{PICTURES.get(picture, '')}</figcaption></figure>"
        for picture in [*known, *others]
    )
    summary = "".join(f"<pre>{escape(text)}</pre>" for text in summaries)
    return f'<h2 id="{name}">{name}</h2>{_table(report)}{figures}{summary}'


def _table(value: Any) -> str:
    """Return JSON data as nested HTML tables; a list of objects gets a column for each."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        value = {key: [item.get(key) for item in value] for key in value[0]} if value else {}
    if isinstance(value, dict):
        rows = "".join(f"<tr><th>{escape(key)}{_cells(inner)}" for key, inner in value.items())
        return f"<table>{rows}</table>"
    return f"{value:.5g}" if isinstance(value, float) else escape(str(value))


def _cells(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
        return "".join(f"<td>{_table(item)}" for item in value)
    return f"<td>{_table(value)}"
