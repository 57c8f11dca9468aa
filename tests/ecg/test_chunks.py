"""What is a chunk of samples, and what is not."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.ecg import chunks
from monitor.errors import Rejected


def test_a_chunk_is_read() -> None:
    chunk = chunks.decode(b'{"samples": [1, 2.5], "rate": 250, "seq": 7, "time": 1000}')
    assert chunk.leads[""].tolist() == [1, 2.5]
    assert (chunk.rate, chunk.seq, chunk.time) == (250, 7, 1.0)
    assert len(chunk) == 2


def test_a_chunk_may_hold_several_leads() -> None:
    chunk = chunks.decode(b'{"leads": {"II": [1, 2], "V1": [null, 4]}}')
    assert list(chunk.leads) == ["II", "V1"]
    assert chunk.leads["V1"][1] == 4
    assert np.isnan(chunk.leads["V1"][0])


@pytest.mark.parametrize("lost", ["null", "NaN", "Infinity", "-Infinity"])
def test_what_is_not_finite_was_lost(lost: str) -> None:
    chunk = chunks.decode(f'{{"samples": [1, {lost}, 3]}}'.encode())
    assert np.isnan(chunk.leads[""]).tolist() == [False, True, False]
    binary = chunks.decode(np.array([1, np.inf, np.nan, 4], "<f4").tobytes())
    assert np.isnan(binary.leads[""]).tolist() == [False, True, True, False]


@pytest.mark.parametrize("sample", ["1e300", "-1e16", "9" * 300])
def test_what_is_larger_than_any_ecg_was_lost(sample: str) -> None:
    """Its square would be infinite, and blind the filters of its lead for good."""
    chunk = chunks.decode(f'{{"samples": [1, {sample}, -1e15]}}'.encode())
    assert np.isnan(chunk.leads[""]).tolist() == [False, True, False]


@given(st.sampled_from([b"{", b"["]), st.binary(min_size=3, max_size=3), st.integers(1, 50))
def test_float32_that_opens_like_json_is_still_float32(
    opening: bytes, rest: bytes, number: int
) -> None:
    payload = opening + rest + np.full(number, -0.1, "<f4").tobytes()
    assert len(chunks.decode(payload)) == number + 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "empty"),
        (b"abc", "length"),
        (b"{", "json"),
        (b"{}", "shape"),
        (b'{"samples": "x"}', "shape"),
        (b'{"samples": []}', "shape"),
        (b'{"samples": [1], "leads": {"II": [1]}}', "shape"),
        (b'{"leads": {}}', "shape"),
        (b'{"leads": {"II": [1], "V1": [1, 2]}}', "shape"),
        (b'{"leads": {"\\u3000": [1]}}', "shape"),
        (b'{"samples": [1, "2"]}', "shape"),
        (b'{"samples": [NaN, "2"]}', "shape"),
        (b'{"samples": [1], "seq": -1}', "shape"),
        (b'{"samples": [1], "time": "yesterday"}', "time"),
        (b"[1, 2, 3, 40]", "shape"),
        (b" [1, 2, 3,  4]\n\n", "shape"),
        (b"[" * 100_001, "shape"),
    ],
)
def test_what_is_no_chunk_is_rejected(payload: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as rejected:
        chunks.decode(payload)
    assert rejected.value.reason == reason


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_whatever_comes_is_read_or_rejected(payload: bytes) -> None:
    try:
        chunk = chunks.decode(payload)
    except Rejected:
        return
    assert len(chunk) > 0


def test_one_message_cannot_take_all_memory() -> None:
    payload = json.dumps({"leads": {str(i): [0] * 10 for i in range(17)}}).encode()
    with pytest.raises(Rejected, match="17 leads"):
        chunks.decode(payload)
    with pytest.raises(Rejected, match="100,000"):
        chunks.decode(np.zeros(chunks.MAX_SAMPLES + 1, "<f4").tobytes())
