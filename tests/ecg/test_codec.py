"""The wire format: what is read from a payload, what is refused and why, which beats are known."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor import errors
from monitor.ecg import codec
from monitor.ecg.beat import BYTES, Beats, fingerprints, key, samples
from monitor.ecg.codec import FLOAT32_TYPE, JSON_TYPE
from monitor.errors import Rejected
from monitor.times import from_rfc3339, rfc3339
from monitor.topics import LONGEST_NAME, Topics

ROW = [0.5] * 140
CONTENT_TYPES = st.sampled_from([None, JSON_TYPE, FLOAT32_TYPE, "text/plain"])
EXPECTED: list[codec.Payload] = ["auto", "json", "float32"]


def finite(raw: bytes) -> NDArray[np.float32]:
    table = np.frombuffer(raw, "<f4").reshape(-1, 140)
    return np.where(np.isfinite(table), table, np.float32(0)).astype("<f4")


# Any bits at all, as far as they are a number.
TABLES = st.integers(1, 3).flatmap(
    lambda n: st.binary(min_size=n * BYTES, max_size=n * BYTES).map(finite)
)


def refusal(payload: bytes, content_type: str | None = None, **kwargs: Any) -> str:
    with pytest.raises(Rejected) as rejected:
        codec.decode(payload, content_type, **kwargs)
    assert str(rejected.value)
    return rejected.value.reason


def message(**fields: object) -> bytes:
    return json.dumps({"beats": [ROW], **fields}).encode()


# -- what is read


@given(TABLES, st.sampled_from([None, FLOAT32_TYPE]))
def test_any_finite_float32_beats_survive_the_binary_format(
    table: NDArray[np.float32], content_type: str | None
) -> None:
    beats = codec.decode(table.tobytes(), content_type)
    assert beats == Beats(table.tobytes())
    assert len(beats) == len(table)
    assert np.array_equal(samples(beats.data), table)


@given(
    TABLES,
    st.sampled_from([None, JSON_TYPE]),
    st.none() | st.integers(0, 2**53 - 1000),  # more beats than a table has
    st.none() | st.integers(-(2**40), 2**46),
    st.booleans(),
    st.sampled_from([None, 1]),
)
def test_any_finite_float32_beats_survive_json_with_all_that_may_stand_beside_them(
    table: NDArray[np.float32],
    content_type: str | None,
    seq: int | None,
    time: int | None,
    intervals: bool,
    indent: int | None,
) -> None:
    rr_ms = [800.0 + i for i in range(len(table))] if intervals else None
    fields = {"beats": table.tolist(), "seq": seq, "time": time, "rr_ms": rr_ms, "unit": "mV"}
    payload = json.dumps(fields, indent=indent).encode()
    beats = codec.decode(payload, content_type)
    assert beats.data == table.tobytes()
    assert (beats.seq, beats.rr_ms) == (seq, rr_ms)
    assert beats.time == (None if time is None else time / 1000)
    for bare in (table.tolist(), table[0].tolist()) if len(table) == 1 else (table.tolist(),):
        payload = b" \n" + json.dumps(bare, indent=indent).encode() + b"\r\n"
        assert codec.decode(payload, content_type) == Beats(table.tobytes())


@given(TABLES, st.sampled_from(["[]", "{}", "[}", "{]", " ]", "[ ", "\n\t"]))
def test_float32_beats_that_open_and_close_like_json_are_still_read(
    table: NDArray[np.float32], ends: str
) -> None:
    payload = ends[0].encode() + table.tobytes()[1:-1] + ends[1].encode()
    assert codec.decode(payload).data == payload


def test_the_content_type_decides_and_the_setting_before_it() -> None:
    text = json.dumps(ROW).encode()
    text += b" " * (-len(text) % BYTES)
    assert codec.decode(text) == codec.decode(text, JSON_TYPE) == codec.decode(text, "text/plain")
    assert codec.decode(text, FLOAT32_TYPE).data == text
    assert codec.decode(text, JSON_TYPE, "float32").data == text
    assert codec.decode(text, FLOAT32_TYPE, "json") == codec.decode(text)
    assert refusal(bytes(BYTES), JSON_TYPE) == "json"
    assert refusal(bytes(BYTES), FLOAT32_TYPE, expected="json") == "json"


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-11-21T12:00:00.250Z", 1795262400.25),
        ("2026-11-21T12:00:00+05:30", 1795262400 - 5.5 * 3600),
        ("2026-11-21 12:00:00-08:00", 1795262400 + 8 * 3600),
        ("2026-11-21t12:00:00z", 1795262400.0),
        ("2016-12-31T23:59:60.5Z", 1483228800.5),
        ("2016-12-31t18:59:60-05:00", 1483228800.0),
        (1795262400250, 1795262400.25),
        (1795262400250.5, 1795262400.2505),
        (0, 0.0),
        (-1000, -1.0),
    ],
)
def test_times_are_rfc_3339_with_a_zone_or_epoch_milliseconds(
    time: str | float, seconds: float
) -> None:
    assert codec.decode(message(time=time)).time == seconds


@given(st.floats(-(2.0**33), 2.0**33))  # to the year 2242
def test_a_time_is_the_same_however_often_it_was_written_and_read(seconds: float) -> None:
    text = rfc3339(seconds)
    assert abs(from_rfc3339(text) - seconds) < 0.0011
    assert rfc3339(from_rfc3339(text)) == text


def test_each_beat_of_a_message_has_its_number_and_its_time() -> None:
    beats = codec.decode(message(beats=[ROW] * 3, seq=7, time=1000, rr_ms=[999, 800, 900]))
    assert beats.times(50.0) == pytest.approx([1.0, 1.8, 2.7])
    times = beats.times(50.0)
    assert beats.keys([5, 5, 5], times) == [key(5, 7 + i, times[i]) for i in range(3)]
    apart = codec.decode(message(beats=[ROW] * 3, seq=7, seqs=[7, 300, 612]))
    assert apart.seq == 7
    assert [apart.number(i) for i in range(3)] == [7, 300, 612]
    assert apart.keys([5, 5, 5], [0.0] * 3) == [key(5, n, None) for n in (7, 300, 612)]
    assert Beats(bytes(2 * BYTES)).number(1) is None
    assert Beats(bytes(2 * BYTES)).times(50.0) == [50.0, 50.0]
    assert Beats(bytes(2 * BYTES)).keys([5, 6], [0.0, 0.0]) == [5, 6]
    assert Beats(bytes(2 * BYTES), time=3.0).times(50.0) == [3.0, 3.0]
    assert Beats(bytes(2 * BYTES), rr_ms=[1.0, 2.0]).times(50.0) == [50.0, 50.0]


# -- what is refused


@pytest.mark.parametrize("expected", EXPECTED)
@pytest.mark.parametrize("content_type", [None, JSON_TYPE, FLOAT32_TYPE])
def test_an_empty_payload_is_empty(content_type: str | None, expected: codec.Payload) -> None:
    assert refusal(b"", content_type, expected=expected) == "empty"


@given(st.integers(1, 5 * BYTES).filter(lambda n: n % BYTES))
@example(BYTES - 1)
@example(BYTES + 1)
@example(560 * 10 + 4)
def test_bytes_of_any_other_length_are_refused_for_it(length: int) -> None:
    assert refusal(b"\x80" * length) == "length"
    assert refusal(b"[" * length, FLOAT32_TYPE) == "length"
    assert refusal(b"[" * length, expected="float32") == "length"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("null", "shape"),
        ("true", "shape"),
        ("5", "shape"),
        ('"beats"', "shape"),
        ("[]", "shape"),
        ("[[]]", "shape"),
        ("{}", "shape"),
        ('{"beats": []}', "shape"),
        ('{"beats": null}', "shape"),
        ('{"beat": [1]}', "shape"),
        (json.dumps([1.0] * 139), "shape"),
        (json.dumps([1.0] * 141), "shape"),
        (json.dumps([ROW, ROW[:-1]]), "shape"),
        (json.dumps([ROW, 5]), "shape"),
        (json.dumps([[ROW]]), "shape"),
        (json.dumps({"beats": [[ROW]]}), "shape"),
        (json.dumps({"beats": ROW}), "shape"),
        (json.dumps([None, ROW]), "shape"),
        (json.dumps([*ROW[:-1], None, None]), "shape"),
        (json.dumps([*ROW[:-1], True]), "shape"),
        (json.dumps([*ROW[:-1], "1.5"]), "shape"),
        (json.dumps([*ROW[:-1], {}]), "shape"),
        ("[" * 100_000 + "]" * 100_000, "shape"),
        (json.dumps(ROW).replace("0.5", "1e400"), "shape"),
        (json.dumps({"beats": [ROW], "seq": -1}), "shape"),
        (json.dumps({"beats": [ROW], "seq": 2**53}), "shape"),
        (json.dumps({"beats": [ROW, ROW], "seq": 2**53 - 1}), "shape"),
        (json.dumps({"beats": [ROW], "seq": 1.5}), "shape"),
        (json.dumps({"beats": [ROW], "seq": True}), "shape"),
        (json.dumps({"beats": [ROW], "seqs": [1, 2]}), "shape"),
        (json.dumps({"beats": [ROW], "seqs": [-1]}), "shape"),
        (json.dumps({"beats": [ROW], "seqs": 1}), "shape"),
        (json.dumps({"beats": [ROW], "rr_ms": 800}), "shape"),
        (json.dumps({"beats": [ROW], "rr_ms": []}), "shape"),
        (json.dumps({"beats": [ROW], "rr_ms": [800, 800]}), "shape"),
        (json.dumps({"beats": [ROW], "rr_ms": ["800"]}), "shape"),
        (json.dumps({"beats": [ROW], "time": []}), "shape"),
        (json.dumps({"beats": [ROW], "time": True}), "shape"),
        (json.dumps({"beats": [ROW], "time": ""}), "time"),
        (json.dumps({"beats": [ROW], "time": "yesterday"}), "time"),
        (json.dumps({"beats": [ROW], "time": "2026-11-21T12:00:00"}), "time"),
        (json.dumps({"beats": [ROW], "time": "2026-13-21T12:00:00Z"}), "time"),
        (json.dumps({"beats": [ROW], "time": 1e300}), "time"),
        (json.dumps({"beats": [ROW], "time": -(10**400)}), "time"),
        (json.dumps([*ROW[:-1], "NaN"]), "shape"),
        (json.dumps([*ROW[:-1], 0.5]).replace("0.5]", "NaNo]"), "json"),
        (json.dumps({"beats": [ROW]})[:-1], "json"),
        (json.dumps([ROW]) + json.dumps([ROW]), "json"),
        ('{"beats": [], "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "json"),
        ("hello", "json"),
        ("[1,]", "json"),
        ("{'beats': []}", "json"),
        (" ", "json"),
    ],
)
def test_json_of_any_other_shape_or_type_is_refused_with_the_reason(text: str, reason: str) -> None:
    payload = text.encode()
    payload += b" " * (len(payload) % BYTES == 0)
    assert refusal(payload, JSON_TYPE) == reason
    assert refusal(payload, expected="json") == reason
    if payload[:1] in b"[{" and payload.rstrip()[-1:] in b"]}":
        assert refusal(payload) == reason
    else:
        assert refusal(payload) == "length"


@pytest.mark.parametrize(
    "lost", ["null", "NaN", "-NaN", "nan", "-nan(ind)", "Infinity", "-Infinity", "inf", "1.#QNAN0"]
)
@pytest.mark.parametrize("form", ['{"beats": [%s, %s], "rr_ms": [800, %s], "seq": 7}', "[%s,%s]"])
def test_a_lost_sample_costs_no_other(lost: str, form: str) -> None:
    row = json.dumps(ROW)
    spoilt = row.replace("0.5", lost, 1)
    assert spoilt != row
    beats = codec.decode((form % (spoilt, row, lost)[: form.count("%s")]).encode())
    first, second = samples(beats.data)
    at = ROW.index(0.5)
    assert np.isnan(first[at])
    assert np.array_equal(np.delete(first, at), np.delete(second, at))
    assert second.tolist() == ROW
    if "seq" in form:
        assert (beats.seq, beats.rr_ms) == (7, [800, 0])


def test_a_number_that_float32_cannot_hold_becomes_infinite_for_the_quality_to_find() -> None:
    beats = codec.decode(json.dumps([*ROW[:-2], 1e39, -1e39]).encode())
    assert samples(beats.data)[0, -2:].tolist() == [float("inf"), float("-inf")]


@given(st.lists(st.floats(), min_size=140, max_size=140))
def test_numbers_become_float32_as_numpy_makes_it(numbers: list[float]) -> None:
    with np.errstate(over="ignore"):
        plain = np.array(numbers).astype("<f4")
    fast = np.frombuffer(codec._float32([numbers]), "<f4")
    np.testing.assert_array_equal(fast, plain)  # NaN is NaN, whatever its bits


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["beats", "seq", "time", "rr_ms", "x"]),
            inner | st.just([ROW]),
            max_size=5,
        )
    ),
)


@settings(max_examples=200)
@given(
    st.binary(max_size=1200) | JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b"", b"[", b"{", b" ["]),
    st.sampled_from([b"", b"]", b"}"]),
    CONTENT_TYPES,
    st.sampled_from(EXPECTED),
)
def test_whatever_comes_is_read_or_rejected_and_nothing_else_escapes(
    payload: bytes, begin: bytes, end: bytes, content_type: str | None, expected: codec.Payload
) -> None:
    try:
        beats = codec.decode(begin + payload + end, content_type, expected)
    except Rejected as rejected:
        assert rejected.reason in errors.REASONS
    else:
        assert len(beats) > 0
        assert len(beats.data) % BYTES == 0


def test_json_of_another_shape_is_no_float32_beat_even_if_it_is_as_long_as_some() -> None:
    payload = json.dumps(ROW[:-1]).encode()
    assert refusal(payload + b" " * (-len(payload) % BYTES)) == "shape"


@pytest.mark.parametrize(
    "fields",
    [
        {"time": "0001-01-01T00:00:00+23:59"},
        {"time": "9999-12-31T23:59:59-23:59"},
        {"time": 0, "rr_ms": [0, 1e300]},
        {"time": 0, "rr_ms": [0, 1.7e308]},
        {"time": 253402300799000, "rr_ms": [0, 5000]},
    ],
)
def test_a_time_that_is_let_in_can_be_written_again(fields: dict[str, object]) -> None:
    payload = message(beats=[ROW] * len(fields.get("rr_ms", [0])), **fields)  # type: ignore[arg-type]
    try:
        beats = codec.decode(payload)
    except Rejected as rejected:
        assert rejected.reason == "time"
        return
    times = beats.times(0.0)
    beats.keys([1] * len(times), times)
    for time in times:
        rfc3339(time)


# -- whose they are


@pytest.mark.parametrize(
    ("filters", "topic", "device"),
    [
        (["ecg/{device}/beats"], "ecg/bed-7/beats", "bed-7"),
        (["$share/ward/ecg/{device}/beats"], "ecg/bed-7/beats", "bed-7"),
        (["{device}"], "bed-7", "bed-7"),
        (["+/{device}/#"], "ward/bed-7/ecg/beats", "bed-7"),
        (["ecg/{device}/#"], "ecg/bed-7", "bed-7"),
        (["ecg/{device}/beats"], 'ecg/{"a": 1} é 心/beats', '{"a": 1} é 心'),
        (["a/{device}", "b/+/{device}/c"], "b/x/bed-7/c", "bed-7"),
        (["a/{device}", "b/+/{device}/c"], "a/bed-7", "bed-7"),
        (["$share/g/a/{device}/#", "{device}/b"], "a/bed-7/c/d", "bed-7"),
        (["$share/g/a/{device}/#", "{device}/b"], "bed-7/b", "bed-7"),
        (["a/{device}/+", "a/+/{device}/#"], "a/x/bed-7/c", "bed-7"),
        (["ecg/{device}"], "ecg/" + "x" * LONGEST_NAME, "x" * LONGEST_NAME),
    ],
)
def test_the_device_is_found_by_its_level(filters: list[str], topic: str, device: str) -> None:
    assert Topics(filters).device(topic.encode()) == device


@pytest.mark.parametrize(
    "topic",
    [
        b"ecg//beats",
        b"ecg/\xff\xfe/beats",
        b"ecg/\xed\xa0\x80/beats",
        b"ecg/a\x00b/beats",
        b"ecg/a\nb/beats",
        b"ecg/\x1b[2J/beats",
        "ecg/a\u202eb/beats".encode(),
        b"ecg/" + b"x" * (LONGEST_NAME + 1) + b"/beats",
        b"ecg",
        b"",
    ],
)
@pytest.mark.parametrize(
    "filters", [["ecg/{device}/beats"], ["x/{device}", "ecg/{device}/beats", "+/{device}/+"]]
)
def test_a_topic_that_names_no_device_is_rejected(filters: list[str], topic: bytes) -> None:
    with pytest.raises(Rejected) as rejected:
        Topics(filters).device(topic)
    assert rejected.value.reason == "topic"
    assert str(rejected.value).isprintable()


@given(
    st.text(max_size=40).map(str.encode),
    st.sampled_from([["ecg/{device}/#"], ["a/{device}", "{device}/#"]]),
)
def test_any_topic_names_a_device_or_is_rejected(topic: bytes, filters: list[str]) -> None:
    try:
        device = Topics(filters).device(topic)
    except Rejected as rejected:
        assert rejected.reason == "topic"
    else:
        assert device
        assert "/" not in device
        assert device.encode() in topic


# -- which beats are known again

KEYS = """
import numpy as np
from monitor.ecg.beat import fingerprints, key
beats = np.random.default_rng(1).standard_normal((3, 140), np.float32)
for print_ in fingerprints(beats).tolist():
    for seq in (None, 0, 7):
        for time in (None, 0.0, 1795262400.25):
            print(key(print_, seq, time))
"""


def test_beats_are_known_again_in_another_process() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", KEYS],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(told) == 1
    keys = told.pop().split()
    assert len(set(keys)) == len(keys) == 27
    assert all(0 <= int(key) < 2**64 for key in keys)


@given(TABLES, st.data())
def test_a_beat_that_differs_in_one_bit_is_another(
    table: NDArray[np.float32], data: st.DataObject
) -> None:
    bit = data.draw(st.integers(0, 8 * BYTES - 1))
    other = table[:1].copy()
    other.view(np.uint8)[0, bit // 8] ^= 1 << bit % 8
    assert fingerprints(other)[0] != fingerprints(table)[0]
    assert fingerprints(table[:1])[0] == fingerprints(table)[0]


def test_numbers_and_times_tell_equal_beats_apart() -> None:
    keys = {key(5, seq, None) for seq in range(1000)}
    keys |= {key(5, None, second / 4) for second in range(1000)}
    keys |= {key(5, seq, seq * 0.8) for seq in range(1000)}
    assert len(keys) == 3000
