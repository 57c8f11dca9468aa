"""A model file: one ONNX graph with its card, checked when it is opened, and run by onnxruntime.

The graph holds scaling and scoring, so nothing outside it can do them differently. The card is JSON
in the graph's own metadata and says where the model comes from and where its threshold lies.
"""

import hashlib
import os
import stat
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import onnxruntime
from msgspec import Meta
from numpy.typing import NDArray

from monitor import errors
from monitor.alarms import kinds
from monitor.detector.rr_history import INTERVALS
from monitor.ecg.beat import Floats

CARD: Final = "ecg_monitor"
"""The key of ONNX' `metadata_props` under which the card stands."""

LARGEST: Final = 256 * 1024 * 1024
"""Bytes of a model file, at most: those that are shipped have less than a hundredth of it."""

VENTRICULAR_ABOVE: Final = 0.6
"""How likely a beat must be ventricular to be called so. On records that taught nothing 89 % of the
ventricular beats are then found, and 0.3 % of N and S called so (docs/detector.md)."""

Kind = Literal["detector", "image", "vae-encoder", "vae-decoder"]

Text = Annotated[str, Meta(min_length=1)]

SHA256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ModelError(errors.Failure):
    """A model file is refused. The text is "FILE: reason"."""

    def __init__(self, path: Path, reason: str) -> None:
        """Put file and reason together."""
        super().__init__(f"{path}: {reason}")


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """What the model was fitted and judged on: the file's SHA-256, and rows for each part."""

    name: Text
    sha256: SHA256
    rows: Annotated[dict[str, int], Meta(min_length=1)]


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """The default threshold, in units of the score, and a sentence on how it was chosen."""

    value: float
    chosen: Text


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles of the score on `beats` normal beats that the fit has not seen.

    `scores[i]` is the score below which the share `probabilities[i]` of those beats lies.
    """

    beats: Annotated[int, Meta(ge=1)]
    probabilities: Annotated[list[float], Meta(min_length=2)]
    scores: Annotated[list[float], Meta(min_length=2)]

    def __post_init__(self) -> None:
        """Refuse a table that cannot be read from left to right."""
        if len(self.probabilities) != len(self.scores):
            raise ValueError("as many scores as probabilities are needed")
        if any(low >= high for low, high in pairwise([-1e-9, *self.probabilities, 1 + 1e-9])):
            raise ValueError("probabilities must rise within 0 and 1")
        if any(low > high for low, high in pairwise(self.scores)):
            raise ValueError("scores must not fall")

    def interval(self, rate: float) -> tuple[float, float]:
        """Give what the true rate may be, with 95 % confidence, where `rate` of the beats was seen.

        Source: E. Wilson, "Probable inference, the law of succession, and statistical inference",
        Journal of the American Statistical Association 22, 1927.
        """
        square = 1.96**2 / self.beats
        middle = (rate + square / 2) / (1 + square)
        reach = (square * (rate * (1 - rate) + square / 4)) ** 0.5 / (1 + square)
        return middle - reach, middle + reach


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a model file says about itself. `created` is UTC in the form of RFC 3339."""

    schema_version: Literal[1]
    name: Text
    kind: Kind
    created: Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")]
    dataset: Dataset
    split: Text
    training: Annotated[dict[str, Any], Meta(min_length=1)]
    figures: Annotated[dict[str, float], Meta(min_length=1)]
    versions: Annotated[dict[str, str], Meta(min_length=1)]


class DetectorCard(Card, frozen=True, kw_only=True):
    """The card of a detector. `segmentation`: how a beat is cut from a signal, if that is known."""

    threshold: Threshold
    quantiles: Quantiles
    segmentation: dict[str, Any] | None


class Signature(NamedTuple):
    """What a graph takes and gives; N is the free batch axis.

    What it `may_take` has a default in the file, so that whoever does not know of it leaves it out.
    """

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    may_take: tuple[str, ...] = ()
    may_give: tuple[str, ...] = ()


SIGNATURES: Final[dict[Kind, Signature]] = {
    "detector": Signature(
        ("beat float32 [N, 140]",),
        ("reconstruction float32 [N, 140]", "score float32 [N]"),
        may_take=(f"rr float32 [N, {INTERVALS}]",),
        may_give=("ventricular float32 [N]",),
    ),
    "image": Signature(
        ("image float32 [N, 28, 28, 1]",),
        ("reconstruction float32 [N, 28, 28, 1]",),
    ),
    "vae-encoder": Signature(
        ("image float32 [N, 28, 28, 1]",),
        ("z_log_var float32 [N, 2]", "z_mean float32 [N, 2]"),
    ),
    "vae-decoder": Signature(
        ("z float32 [N, 2]",),
        ("image float32 [N, 28, 28, 1]",),
    ),
}
"""What the graph of each kind takes and gives."""


class Model:
    """A model file of any kind, checked and ready to run.

    `card` is a `DetectorCard` for a detector; `sha256` is that of the very bytes that run.
    """

    def __init__(
        self,
        path: Path,
        kind: Kind | None = None,
        threads: int = 1,
        content: bytes | None = None,
    ) -> None:
        """Open `path` with `threads` threads for one run; a `kind` refuses files of another kind.

        Where the `content` is given, `path` is but its name.

        Raises `ModelError` for a file that cannot be read, is no ONNX graph, lacks a part of its
        card, or whose graph takes or gives something else than its kind does.
        """
        content = read(path) if content is None else content
        self.path = path
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._session = _session(path, content, threads)
        self.card = _card(path, self._session)
        if kind and self.card.kind != kind:
            raise ModelError(path, f"holds a model of kind {self.card.kind}, not {kind}")
        _check_graph(path, self._session, SIGNATURES[self.card.kind])
        self._input = self._session.get_inputs()[0].name
        self.optional = {node.name for node in self._session.get_overridable_initializers()}
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, batch: Floats, **optional: Floats) -> dict[str, Floats]:
        """Run the graph on float32 [N, …]; gives its outputs by name.

        `optional`: inputs of those in `self.optional`; what is left out has its default.
        """
        inputs = {self._input: batch, **optional}
        return dict(zip(self.outputs, self._session.run(None, inputs), strict=True))


class Scored(NamedTuple):
    """`scores` float32 [N], higher is more anomalous; `reconstructions` float32 [N, 140].

    `ventricular` float32 [N]: how likely each beat is ventricular; None where the file has no such
    output.
    """

    scores: Floats
    reconstructions: Floats
    ventricular: Floats | None = None


class Detector:
    """A detector's model file. A beat is anomalous when its score is above the threshold."""

    def __init__(self, path: Path, threads: int = 1, content: bytes | None = None) -> None:
        """Open the file at `path`, or its `content`. Raises `ModelError` as `Model` does."""
        self._model = Model(path, "detector", threads, content)
        assert isinstance(self._model.card, DetectorCard)
        self.card: DetectorCard = self._model.card
        self.name = self.card.name
        self.sha256 = self._model.sha256
        self.threshold = self.card.threshold.value

    @property
    def deviation(self) -> float | None:
        """The usual deviation of its patient's beats, in their unit.

        None for a detector of no patient, or one to which the size of a beat does not matter.
        """
        unit = self.card.training.get("unit")
        return float(unit) if isinstance(unit, int | float) and unit > 0 else None

    @property
    def hears_rhythm(self) -> bool:
        """Whether RR intervals change its scores."""
        return "rr" in self._model.optional

    @property
    def tells_ventricular(self) -> bool:
        """Whether it tells ventricular beats from others."""
        return "ventricular" in self._model.outputs

    def score(self, beats: Floats, rr: Floats | None = None) -> Scored:
        """Score `beats`, float32 [N, 140] in the source's own units.

        `rr`, float32 [N, 32], as `rr_history.extend` gives it; None where no interval is known.
        """
        known = {} if rr is None or not self.hears_rhythm else {"rr": rr}
        outputs = self._model.run(beats, **known)
        return Scored(outputs["score"], outputs["reconstruction"], outputs.get("ventricular"))

    def threshold_at(self, false_alarm_rate: float) -> float:
        """Give the threshold above which this share of the held-out normal beats lies.

        Linear between the card's quantiles. Raises `ConfigurationError` for a rate outside them, or
        so small that not one of the held-out beats would lie above the threshold.
        """
        table = self.card.quantiles
        smallest = max(1 - table.probabilities[-1], 1 / table.beats)
        largest = 1 - table.probabilities[0]
        # A rate is written as 0.01 and met as 1 - 0.99, which is not the same number.
        if not smallest - 1e-9 <= false_alarm_rate <= largest + 1e-9:
            raise errors.ConfigurationError(
                f"model.false_alarm_rate = {false_alarm_rate:g}: the {table.beats:,} held-out "
                f"normal beats of {self._model.path} support {smallest:.2g} to {largest:.2g}"
            )
        return float(np.interp(1 - false_alarm_rate, table.probabilities, table.scores))


def verdicts(
    anomalous: NDArray[np.bool_], believed: NDArray[np.bool_], ventricular: Floats | None
) -> NDArray[np.uint8]:
    """Return what each beat was, uint8 [N], in the words of `alarms.kinds`.

    Args:
        anomalous: bool [N], whether its score is above the threshold.
        believed: bool [N], whether its quality is good.
        ventricular: float32 [N], how likely it is ventricular, NaN where its detector cannot tell;
            None where none can. A ventricular beat is one whatever its score.
    """
    told = anomalous.astype(np.uint8)
    if ventricular is not None:
        told[anomalous & ~np.isnan(ventricular)] = kinds.ATYPICAL
        told[ventricular > VENTRICULAR_ABOVE] = kinds.VENTRICULAR
    told[~believed] = kinds.POOR
    return told


def shipped(name: str) -> Path:
    """Give the path of a model file that comes with the package, such as `ecg`."""
    return Path(__file__).parents[1] / "models" / f"{name}.onnx"


def read(path: Path) -> bytes:
    """Return the bytes of a model file. Raises `ModelError` where it cannot be one."""
    try:
        if not stat.S_ISREG((found := path.stat()).st_mode):  # to read from a pipe might never end
            raise ModelError(path, "is a directory" if path.is_dir() else "is not a file")
        if found.st_size > LARGEST:
            raise ModelError(path, f"has {found.st_size:,} bytes; {LARGEST:,} are allowed")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(path, error.strerror or "cannot be read") from None


def _session(path: Path, content: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A beat is scored in microseconds: threads that spin between beats would only heat the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # All of a model is in its file. In a folder that is none, no other file can be found.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base class but this one
        reason = " ".join(str(error).rpartition(" : ")[2].split())
        raise ModelError(path, f"is not an ONNX file that can be run: {reason}") from None


def _card(path: Path, session: onnxruntime.InferenceSession) -> Card:
    text = session.get_modelmeta().custom_metadata_map.get(CARD)
    if text is None:
        raise ModelError(path, f"is ONNX, but has no card under the metadata key {CARD}")
    try:
        card = msgspec.json.decode(text, type=Card)
        if card.kind == "detector":
            card = msgspec.json.decode(text, type=DetectorCard)
    except (ValueError, RecursionError) as error:
        raise ModelError(path, f"its card cannot be used: {error}") from None
    return card


def _check_graph(path: Path, session: onnxruntime.InferenceSession, signature: Signature) -> None:
    optional = {text.split()[0] for text in signature.may_take}
    overridable = [
        # Weights may be overridable, too, in a file of another converter: those are its own affair.
        node
        for node in session.get_overridable_initializers()
        if node.name in optional
    ]
    for verb, nodes, needed, allowed in (
        ("takes", session.get_inputs(), signature.takes, ()),
        ("may take", overridable, (), signature.may_take),
        ("gives", session.get_outputs(), signature.gives, signature.may_give),
    ):
        found = {_describe(node) for node in nodes}
        if not set(needed) <= found <= {*needed, *allowed}:
            rest = f", with or without {', '.join(allowed)}" if needed and allowed else ""
            raise ModelError(
                path,
                f"its graph {verb} {', '.join(sorted(found))} and not "
                f"{', '.join(needed or allowed)}{rest}",
            )


def _describe(node: onnxruntime.NodeArg) -> str:
    """Write a graph's input or output the way `SIGNATURES` does: "beat float32 [N, 140]".

    A single number has "[]", and so has what has no known number of axes.
    """
    dtype = {"tensor(float)": "float32"}.get(node.type, node.type)
    shape = [
        str(size) if isinstance(size, int) else "?" if axis else "N"
        for axis, size in enumerate(node.shape)
    ]
    return f"{node.name} {dtype} [{', '.join(shape)}]"
