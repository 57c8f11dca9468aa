"""Show a model file's card."""

import json
from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from monitor.detector.model_file import DetectorCard, Model
from monitor.text import printable


def show(path: Path, as_json: bool) -> None:
    """Print the card of the model file `path`, as a table on a terminal and as lines elsewhere.

    As JSON, print the card as it is in the file, with the file's SHA-256.

    Raises:
        ModelError: the file cannot be used.
    """
    model = Model(path)
    if as_json:
        card = msgspec.to_builtins(model.card) | {"sha256": model.sha256}
        print(json.dumps(card, indent=2))
        return
    console = Console()
    if not console.is_terminal:
        for name, value in _lines(model):
            print(f"{name}: {value}")
        return
    table = Table(title=str(path), show_header=False)
    table.add_column()
    table.add_column(overflow="fold")  # a truncated SHA-256 is useless
    for name, value in _lines(model):
        table.add_row(name, Text(value))
    console.print(table)


def _lines(model: Model) -> list[tuple[str, str]]:
    """Return the card as pairs of name and text."""
    card = model.card
    lines = [
        ("name", card.name),
        ("kind", card.kind),
        ("created", card.created),
        ("file SHA-256", model.sha256),
        ("data set", card.dataset.name),
        ("data SHA-256", card.dataset.sha256),
        ("rows", _pairs(card.dataset.rows)),
        ("split", card.split),
        ("training", _pairs(card.training)),
    ]
    if isinstance(card, DetectorCard):
        table = zip(card.quantiles.probabilities, card.quantiles.scores, strict=True)
        lines += [
            ("threshold", f"{card.threshold.value:.6g}: {card.threshold.chosen}"),
            (
                f"scores of {card.quantiles.beats:,} held-out normal beats",
                ", ".join(f"{100 * share:g} %: {score:.4g}" for share, score in table),
            ),
            ("segmentation", _pairs(card.segmentation or {}) or "unknown: the beats come cut"),
        ]
    lines += [("figures", _pairs(card.figures)), ("versions", _pairs(card.versions))]
    return [(name, printable(value)) for name, value in lines]


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in values.items())


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
