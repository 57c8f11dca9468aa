"""The commands of `ecg-train`. TensorFlow is imported by the command that needs it."""

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from monitor import errors, terminal

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
Recipe = Annotated[
    Literal["tutorial", "tuned"],
    typer.Option(help="The source's settings to the letter, or ours, which ship."),
]


@app.callback()
def train() -> None:
    """Fits the autoencoders and writes their model files."""


@app.command()
def anomaly(
    data: Data = None,
    out: Out = Path("out/anomaly"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tutorial",
) -> None:
    """The TensorFlow tutorial's ECG detector, to the letter, over five seeds (or the one given)."""
    if recipe != "tutorial":
        raise errors.UsageError("anomaly has the tutorial's recipe alone; the tuned one is ecg")
    from train.detectors import tutorial

    tutorial.main(data, out, epochs or tutorial.EPOCHS, seed)


@app.command()
def ecg(
    data: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the data sets, as elsewhere; or a .csv or .parquet file of one "
            "patient's beats, 140 values a row: fit a detector for him."
        ),
    ] = None,
    out: Out = Path("out/ecg"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
    networks: Annotated[
        Literal["1", "5"] | None,
        typer.Option(help="Score by five networks, or by one alone, not by one that five taught."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="A WFDB record: fit a detector for this patient.")
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=1, help="How much of the record to fit, from its begin.")
    ] = 5,
) -> None:
    """The detector that ships, or one for a patient: --record, or --data FILE.csv of his beats."""
    if recipe != "tuned":
        raise errors.UsageError("ecg has our recipe alone; the tutorial's is anomaly")
    beats = data if data and (data.is_file() or data.suffix in (".csv", ".parquet")) else None
    if record and data:
        raise errors.UsageError("a patient's beats are those of --record or those of --data")
    if networks and (record or beats):
        raise errors.UsageError("--networks: a patient's detector has five")
    from train.detectors import ecg5000, patient

    if source := record or beats:
        patient.main(source, minutes if record else None, out, epochs or ecg5000.EPOCHS, seed or 0)
    else:
        ecg5000.main(
            data, out, epochs or ecg5000.EPOCHS, seed or 0, int(networks) if networks else None
        )


@app.command()
def evaluate(
    data: Data = None,
    out: Out = Path("out/evaluate"),
    mitdb: Annotated[
        Path | None, typer.Option(help="A folder of WFDB records: judge patients' own detectors.")
    ] = None,
    table: Annotated[
        Literal["records", "peaks", "stress"],
        typer.Option(
            help="Of --mitdb: each record; how R peaks are found; or what noise, a lead off or "
            "upside down, and other sampling rates do."
        ),
    ] = "records",
) -> None:
    """The recipe of the detector that ships, over seeds and splits, beside simpler detectors."""
    if mitdb is not None:
        if table == "peaks":
            from train.evaluation import rpeaks

            rpeaks.main(mitdb, out)
        elif table == "stress":
            from train.evaluation import robustness

            robustness.main(mitdb, out)
        else:
            from train.evaluation import patients as records

            records.main(mitdb, out)
        return
    if table != "records":
        raise errors.UsageError(f"--table {table}: of the records that --mitdb names")
    from train.evaluation import ecg5000

    ecg5000.main(data, out)


@app.command()
def simulator(data: Data = None, out: Out = Path("out/simulator"), seed: Seed = None) -> None:
    """The simulator of beats that the demo runs on, judged by the shipped detector."""
    from train import simulator

    simulator.main(data, out, seed or 0)


@app.command()
def basic(
    data: Data = None,
    out: Out = Path("out/basic"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """The TensorFlow tutorial's first autoencoder: two dense layers, on Fashion-MNIST."""
    _images("basic", data, out, epochs, seed or 0, recipe)


@app.command()
def denoise(
    data: Data = None,
    out: Out = Path("out/denoise"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """The TensorFlow tutorial's denoising autoencoder: convolutions, on Fashion-MNIST."""
    _images("denoise", data, out, epochs, seed or 0, recipe)


@app.command()
def undercomplete(
    data: Data = None,
    out: Out = Path("out/undercomplete"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """The Keras blog's simplest autoencoder: a code of 32, on MNIST."""
    _images("undercomplete", data, out, epochs, seed or 0, recipe)


@app.command()
def vae(
    data: Data = None,
    out: Out = Path("out/vae"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """Keras' variational autoencoder: a latent plane, on MNIST."""
    from train import backend

    backend.load()
    from train.images import vae

    vae.main(data, out, epochs, seed or 0, recipe)


@app.command("all")
def everything(
    data: Data = None,
    out: Out = Path("out"),
    epochs: Epochs = None,
    seed: Seed = None,
    recipe: Recipe = "tuned",
) -> None:
    """Every example of the sources and our detector, one after the other, and a page over them."""
    anomaly(data, out / "anomaly", epochs, seed)
    ecg(data, out / "ecg", epochs, seed)
    basic(data, out / "basic", epochs, seed, recipe)
    denoise(data, out / "denoise", epochs, seed, recipe)
    undercomplete(data, out / "undercomplete", epochs, seed, recipe)
    vae(data, out / "vae", epochs, seed, recipe)
    from train.images import report

    names = ["anomaly", "ecg", "basic", "denoise", "undercomplete", "vae"]
    page = report.write_page(out, names)
    print(f"look at {page}")


def _images(
    name: str, data: Path | None, out: Path, epochs: int | None, seed: int, recipe: str
) -> None:
    from train import backend

    backend.load()
    from train.images import autoencoders

    autoencoders.main(name, data, out, epochs, seed, recipe)


def main() -> NoReturn:
    """Run `ecg-train`."""
    terminal.run(app)
