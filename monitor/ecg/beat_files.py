"""Read beats from a file, block by block: memory does not grow with the file.

A file of beats is a table with 140 numbers in a row, in the units of its source. A 141st column is
the label: 1 for a normal beat, 0 for any other (the layout of `ecg.csv`, the TensorFlow tutorial's
ECG5000). A CSV file may be compressed with gzip, may have a header, of names or of column numbers,
and is read as spreadsheets write it: with semicolons and decimal commas, with tabs, with empty
lines, in UTF-8 or UTF-16. A Parquet file may store each beat in one list column instead, and may
have the columns `device` and `seq`.
"""

import contextlib
import gzip
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

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
    """Return an iterator over a `.csv`, `.csv.gz` or `.parquet` file, in blocks of at most `rows`.

    Raises:
        Failure: at once, the file does not exist or has another suffix; while iterating, a row has
            the wrong length or contains something other than finite numbers (the message gives row
            and column, counted from 1; in a CSV file the row is the line), or the file contains no
            beats.
    """
    readers = {".csv": _csv, ".csv.gz": _csv, ".parquet": _parquet}
    for suffix, reader in readers.items():
        if path.name.lower().endswith(suffix):
            if not path.is_file():
                raise Failure(f"{path}: no such file")
            return _blocks(path, path.name[: -len(suffix)], reader(path, rows))
    raise Failure(f"{path}: the name of a file of beats must end in .csv, .csv.gz or .parquet")


class _Rows(NamedTuple):
    """Consecutive rows, and where they stand in the file.

    Attributes:
        table: the numbers, float32 [n, 140 or 141].
        places: the number of each row, counted from 1, as messages give it: [n].
        devices: [n], if the file has them.
        seq: [n], if the file has them.
    """

    table: NDArray[np.float32]
    places: Sequence[int]
    devices: Sequence[str] | None = None
    seq: NDArray[np.int64] | None = None


def _blocks(path: Path, device: str, tables: Iterator[_Rows]) -> Iterator[Block]:
    start = 0
    try:
        for rows in tables:
            yield _block(path, device, start, rows)
            start += len(rows.table)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error
    except (EOFError, zlib.error) as error:
        raise Failure(f"{path}: not a readable gzip file: {error}") from None
    if start == 0:
        raise Failure(f"{path}: contains no beats; expected rows of {SAMPLES} numbers")


def _block(path: Path, device: str, start: int, rows: _Rows) -> Block:
    table, places, devices, seq = rows
    finite = np.isfinite(table)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise Failure(
            f"{path}: row {places[row]}, column {column + 1}: "
            f"{table[row, column]} is not a finite number"
        )
    labels = None
    if table.shape[1] > SAMPLES:
        labels = table[:, SAMPLES] == 1
        wrong = ~labels & (table[:, SAMPLES] != 0)
        if wrong.any():
            row = int(wrong.argmax())
            raise Failure(
                f"{path}: row {places[row]}, column {SAMPLES + 1}: "
                f"label {table[row, SAMPLES]:g} is neither 1 (normal) nor 0"
            )
    n = len(table)
    return Block(
        beats=np.ascontiguousarray(table[:, :SAMPLES]),
        labels=labels,
        devices=[device] * n if devices is None else devices,
        seq=np.arange(start, start + n) if seq is None else seq,
    )


def _csv(path: Path, rows: int) -> Iterator[_Rows]:
    with _open(path) as file:
        lines: Iterator[tuple[int, str]] = (
            (place, line) for place, line in enumerate(file, 1) if line.strip()
        )
        first = next(lines, None)
        if first is None:
            return
        place, line = first
        delimiter = next((each for each in ";\t," if each in line), None)  # None: white space
        cells = _cells(line, delimiter)
        header = _is_header(cells)
        unnamed = int(header and cells[0] == "")  # pandas and R write the rows' numbers there
        columns = len(cells) - unnamed
        if columns not in (SAMPLES, SAMPLES + 1):
            raise Failure(
                f"{path}: row {place} has {columns} columns, "
                f"expected {SAMPLES}, or {SAMPLES + 1} with the label last"
            )
        if not header:
            lines = itertools.chain([first], lines)
        while block := list(itertools.islice(lines, rows)):
            places, texts = zip(*block, strict=True)
            if delimiter != ",":
                texts = tuple(text.replace(",", ".") for text in texts)
            try:
                table = np.loadtxt(
                    texts, np.float32, delimiter=delimiter, comments=None, quotechar='"', ndmin=2
                )
            except ValueError:
                raise _bad_row(path, unnamed + columns, delimiter, block) from None
            if table.shape != (len(block), unnamed + columns):
                raise _bad_row(path, unnamed + columns, delimiter, block)
            yield _Rows(table[:, unnamed:], places)


def _open(path: Path) -> IO[str]:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        start = file.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return opened(path, "rt", encoding=encoding, errors="backslashreplace")


def _cells(line: str, delimiter: str | None) -> list[str]:
    line = line if delimiter == "," else line.replace(",", ".")
    return [cell.strip().strip('"') for cell in line.rstrip("\r\n").split(delimiter)]


def _is_header(cells: list[str]) -> bool:
    """Return whether no cell is a number, or all numbers are those of the columns: 0, 1, 2 …"""
    offsets = set()
    for column, cell in enumerate(cells):
        with contextlib.suppress(ValueError):
            offsets.add(float(cell) - column)
    return len(cells) > 1 and (not offsets or offsets in ({-1}, {0}, {1}))


def _bad_row(
    path: Path, columns: int, delimiter: str | None, block: list[tuple[int, str]]
) -> Failure:
    """Return the failure for the first row that is not `columns` numbers."""
    for row, line in block:
        cells = _cells(line, delimiter)
        if len(cells) != columns:
            return Failure(f"{path}: row {row} has {len(cells)} columns, expected {columns}")
        for column, cell in enumerate(cells, 1):
            try:
                float(cell)
            except ValueError:
                return Failure(f"{path}: row {row}, column {column}: {cell[:20]!r} is not a number")
    return Failure(f"{path}: rows {block[0][0]} to {block[-1][0]} are not all numbers")


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
        start = 1
        for batch in file.iter_batches(rows):
            if len(batch):
                yield _columns(path, batch, start)
            start += len(batch)
    except pa.ArrowException as error:
        raise Failure(f"{path}: not a readable Parquet file: {error}") from error


def _columns(path: Path, batch: Any, start: int) -> _Rows:
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
    return _Rows(table, range(start, start + len(batch)), devices, seq)
