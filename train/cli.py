"""The commands of `ecg-train`. TensorFlow is imported by the command that needs it."""

from typing import NoReturn

import typer

from monitor import program

app = typer.Typer(
    name="ecg-train",
    help="Fits the autoencoders and writes their model files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> NoReturn:
    """Run `ecg-train`."""
    program.run(app)
