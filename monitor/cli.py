"""The commands of `ecg-monitor`. Whatever is heavy is imported by the command that needs it."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from monitor import __version__, program

app = typer.Typer(
    name="ecg-monitor",
    help="Scores heartbeats that arrive over MQTT and raises alarms. Not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Scores heartbeats that arrive over MQTT and raises alarms. Not a medical device."""
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def batch(
    name: Annotated[str, typer.Argument(help="One of basic, denoise, undercomplete, vae and ecg.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The folder of the data sets; for ecg also a .csv or .parquet of beats."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A model file instead of the one that is shipped.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write to.", show_default="out/batch/NAME")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Reproduce an image example from its model file, or score a whole file of beats."""
    from monitor import batch

    batch.main(name, data, model, out or Path("out", "batch", name), as_json)


@app.command()
def model(
    file: Annotated[Path | None, typer.Argument(help="A model file; else the shipped one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Print a model file's card: what it was trained on, its threshold, its figures."""
    from monitor import card
    from monitor.model import shipped

    card.show(file or shipped("ecg"), as_json)


def main() -> NoReturn:
    """Run `ecg-monitor`."""
    program.run(app)
