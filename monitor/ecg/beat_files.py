"""Read beats from a file, block by block: memory does not grow with the file.

A file of beats is a table with 140 numbers in a row, in the units of its source. A 141st column is
the label: 1 for a normal beat, 0 for any other (the layout of `ecg.csv`, the TensorFlow tutorial's
ECG5000). A CSV file has no header. A Parquet file may store each beat in one list column instead,
and may have the columns `device` and `seq`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.ecg.beat import SAMPLES
from monitor.errors import Failure

ROWS = 4096
"""Rows in a block: 2.3 MB of beats, enough to keep the scorer busy."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file of beats."""

    beats: NDArray[np.float32]
    """[n, 140], all finite."""
    labels: NDArray[np.bool_] | None
    """[n], True for a normal beat; None if the file has no labels."""
    devices: Sequence[str]
    """[n]; the file's name without its suffix if the file has no column `device`."""
    seq: NDArray[np.int64]
    """[n]; the row's number, counted from 0, if the file has no column `seq`."""


def read(path: Path, rows: int = ROWS) -> Iterator[Block]:
    """Return an iterator over a `.csv` or `.parquet` file of beats, in blocks of at most `rows`.

    Raises:
        Failure: at once, the file does not exist or has another suffix; while iterating, a row has
            the wrong length or contains something other than finite numbers (the message gives row
            and column, counted from 1), or the file contains no beats.
    """
    readers = {".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise Failure(f"{path}: the name of a file of beats must end in .csv or .parquet")
    if not path.is_file():
        raise Failure(f"{path}: no such file")
    return _blocks(path, readers[path.suffix.lower()](path, rows))


_Rows = tuple[NDArray[np.float32], Sequence[str] | None, NDArray[np.int64] | None]
"""The numbers [n, 140 or 141], and the devices and sequence numbers if the file has them."""


def _blocks(path: Path, tables: Iterator[_Rows]) -> Iterator[Block]:
    start = 0
    try:
        for table, devices, seq in tables:
            yield _block(path, start, table, devices, seq)
            start += len(table)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error
    if start == 0:
        raise Failure(f"{path}: contains no beats; expected rows of {SAMPLES} numbers")


def _block(
    path: Path,
    start: int,
    table: NDArray[np.float32],
    devices: Sequence[str] | None,
    seq: NDArray[np.int64] | None,
) -> Block:
    finite = np.isfinite(table)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise Failure(
            f"{path}: row {start + row + 1}, column {column + 1}: "
            f"{table[row, column]} is not a finite number"
        )
    labels = None
    if table.shape[1] > SAMPLES:
        labels = table[:, SAMPLES] == 1
        wrong = ~labels & (table[:, SAMPLES] != 0)
        if wrong.any():
            row = int(wrong.argmax())
            raise Failure(
                f"{path}: row {start + row + 1}, column {SAMPLES + 1}: "
                f"label {table[row, SAMPLES]:g} is neither 1 (normal) nor 0"
            )
    n = len(table)
    return Block(
        beats=np.ascontiguousarray(table[:, :SAMPLES]),
        labels=labels,
        devices=[path.stem] * n if devices is None else devices,
        seq=np.arange(start, start + n) if seq is None else seq,
    )


def _csv(path: Path, rows: int) -> Iterator[_Rows]:
    with path.open(encoding="ascii", errors="backslashreplace") as file:
        start = 0
        columns = None
        while lines := list(itertools.islice(file, rows)):
            columns = columns or lines[0].count(",") + 1
            if columns not in (SAMPLES, SAMPLES + 1):
                raise Failure(
                    f"{path}: row 1 has {columns} columns, "
                    f"expected {SAMPLES}, or {SAMPLES + 1} with the label last"
                )
            try:
                table = np.loadtxt(lines, np.float32, delimiter=",", comments=None, ndmin=2)
            except ValueError:
                raise _bad_row(path, start, columns, lines) from None
            if table.shape != (len(lines), columns):  # an empty line, which loadtxt skips
                raise _bad_row(path, start, columns, lines)
            yield table, None, None
            start += len(lines)


def _bad_row(path: Path, start: int, columns: int, lines: list[str]) -> Failure:
    """Return the failure for the first row that is not `columns` numbers."""
    for row, line in enumerate(lines, start + 1):
        cells = line.rstrip("\r\n").split(",")
        if len(cells) != columns:
            return Failure(f"{path}: row {row} has {len(cells)} columns, expected {columns}")
        for column, cell in enumerate(cells, 1):
            try:
                float(cell)
            except ValueError:
                return Failure(f"{path}: row {row}, column {column}: {cell[:20]!r} is not a number")
    return Failure(f"{path}: rows {start + 1} to {start + len(lines)} are not all numbers")


def _parquet(path: Path, rows: int) -> Iterator[_Rows]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise Failure(
            f"{path}: reading Parquet needs pyarrow: pip install 'ecg-monitor[batch]'"
        ) from None
    try:
        # Without a buffer pyarrow loads whole column chunks, and a file may be a single row group
        file = pq.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False)
        for batch in file.iter_batches(rows):
            if len(batch):
                yield _columns(path, batch)
    except pa.ArrowException as error:
        raise Failure(f"{path}: not a readable Parquet file: {error}") from error


def _columns(path: Path, batch: Any) -> _Rows:
    import pyarrow as pa

    named = {name: batch.column(name) for name in ("device", "seq") if name in batch.schema.names}
    number_kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean)
    values: list[NDArray[np.float32]] = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if field.name in named:
            continue
        if column.null_count:
            raise Failure(f"{path}: column {field.name!r} has empty cells")
        if pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type):
            flat = np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float32)
            if len(flat) != len(batch) * SAMPLES:
                raise Failure(f"{path}: column {field.name!r}: expected lists of {SAMPLES} numbers")
            values.append(flat.reshape(-1, SAMPLES))
        elif any(is_kind(field.type) for is_kind in number_kinds):
            values.append(np.asarray(column.to_numpy(zero_copy_only=False), np.float32)[:, None])
        else:
            raise Failure(f"{path}: column {field.name!r} contains {field.type}, expected numbers")
    table = np.hstack(values) if values else np.empty((len(batch), 0), np.float32)
    if table.shape[1] not in (SAMPLES, SAMPLES + 1):
        raise Failure(
            f"{path}: has {table.shape[1]} columns of numbers, "
            f"expected {SAMPLES}, or {SAMPLES + 1} with the label last"
        )
    devices = named["device"].cast(pa.string()).to_pylist() if "device" in named else None
    seq = named["seq"].to_numpy(zero_copy_only=False) if "seq" in named else None
    return table, devices, seq
