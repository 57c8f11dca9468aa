"""What a training leaves to be looked at: a `report.json` each, and one page over all of them."""

import json
from html import escape
from pathlib import Path
from typing import Any, Final

import keras
import msgspec

from monitor.model import Dataset

PICTURES: Final = {
    "reconstructions.png": "Test images and what the network makes of them",
    "latent.png": "The test images' codes, coloured by class",
    "manifold.png": "What the decoder makes of the latent plane from -2 to 2",
    "losses.png": "Loss after each epoch",
}

STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid #ddd }
td { font-variant-numeric: tabular-nums }
figure { margin: 1.5rem 0 } figcaption { color: #555 } img { max-width: 100% }
pre { font-size: .75rem; line-height: 1.2; overflow-x: auto }
"""


class Report(msgspec.Struct, kw_only=True):
    """A training of an image example, as `report.json` holds it."""

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
        """Add the networks' summaries and write `report.json` into `out`."""
        for network in networks:
            lines: list[str] = []
            network.summary(line_length=80, print_fn=lines.append)
            self.summaries.append("\n".join(lines))
        (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2))


def write_page(out: Path, names: list[str]) -> Path:
    """Write `report.html` over the trainings in the folders `names` of `out`, and give its path."""
    sections = []
    for name in names:
        report = json.loads((out / name / "report.json").read_text())
        summaries = report.pop("summaries", [])
        report.pop("history", None)  # drawn
        pictures = sorted(
            (path.name for path in (out / name).glob("*.png")),
            key=lambda picture: (*PICTURES, picture).index(picture),
        )
        sections += [
            f'<h2 id="{name}">{name}</h2>',
            _table(report),
            *(
                f'<figure><img src="{name}/{picture}" alt="{picture}">'
                f"<figcaption>{PICTURES.get(picture, picture)}</figcaption></figure>"
                for picture in pictures
            ),
            *(f"<pre>{escape(summary)}</pre>" for summary in summaries),
        ]
    links = " · ".join(f'<a href="#{name}">{name}</a>' for name in names)
    page = out / "report.html"
    page.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Trainings</title>'
        f"<style>{STYLE}</style><h1>Trainings</h1><p>{links}</p>{''.join(sections)}</html>\n"
    )
    return page


def _table(value: Any) -> str:
    """Write JSON as nested tables."""
    if isinstance(value, dict):
        rows = (f"<tr><th>{escape(key)}<td>{_table(inner)}" for key, inner in value.items())
        return f"<table>{''.join(rows)}</table>"
    if isinstance(value, list):
        return "<br>".join(map(_table, value))
    return f"{value:.5g}" if isinstance(value, float) else escape(str(value))
