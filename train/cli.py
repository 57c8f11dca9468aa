"""The commands of `ecg-train`. TensorFlow is imported by the command that needs it."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from monitor import program

app = typer.Typer(
    name="ecg-train",
    help="Fits the autoencoders and writes their model files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Data = Annotated[
    Path | None,
    typer.Option(help="The folder of the data sets. Else ECG_DATA names it; else it is fetched."),
]
Out = Annotated[Path, typer.Option(help="The folder to write to.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Times through the data.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of the random numbers.")]


@app.callback()
def train() -> None:
    """Fits the autoencoders and writes their model files."""


@app.command()
def anomaly(
    data: Data = None, out: Out = Path("out/anomaly"), epochs: Epochs = None, seed: Seed = None
) -> None:
    """The TensorFlow tutorial's ECG detector, to the letter, over five seeds (or the one given)."""
    from train import anomaly

    anomaly.main(data, out, epochs or anomaly.EPOCHS, seed)


@app.command()
def ecg(
    data: Data = None, out: Out = Path("out/ecg"), epochs: Epochs = None, seed: Seed = None
) -> None:
    """The detector that ships, with its threshold from normal beats that it has not seen."""
    from train import ecg

    ecg.main(data, out, epochs or ecg.EPOCHS, seed or 0)


def main() -> NoReturn:
    """Run `ecg-train`."""
    program.run(app)
