"""A seeded source of messages from somebody who means harm, or from a device that is broken.

Pure: no network, no clock. The same seed gives the same messages.
"""

import json
import random
import struct
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from monitor.alarms import operator_requests
from monitor.ecg.beat import SAMPLES
from monitor.ecg.simulator import Simulator

Kind = Literal["beats", "alarm", "request", "samples"]

SHARES: dict[Kind, float] = {"beats": 0.72, "alarm": 0.1, "request": 0.08, "samples": 0.1}
"""Of the messages of each kind. A chunk of samples costs ten times what the others do."""

NAMES = 300
"""Devices that are named again and again: what is kept of each must not grow without bound."""

STRANGERS = 0.02
"""Share of messages under a name that never comes again."""

LARGEST = 1_000_000
"""Bytes of the largest payload: the shipped broker refuses packets of more than a mebibyte."""

LARGE = 0.0005
"""Share of payloads of up to a megabyte, which is what the shipped broker lets through."""

ODD_NAMES = [
    *(
        "'; DROP TABLE alarms; --",
        '"',
        "{device}",
        "{}",
        "{0}",
        "$SYS",
        "$share",
        "%s%n",
        "\\",
        "*",
    ),
    *("<script>alert(1)</script>", "[bold red]", "{{ 7 * 7 }}", "..", ".", " ", "  bed  ", "null"),
    *(
        "床-1",
        "é",
        "e\u0301",
        "\U0001f9e1",
        "\u202e7-deb",
        "\ufeff",
        "a\u200bb",
        "\u2028",
        "Ⅶ",
        "ß",
    ),
    *("x" * 256, "x" * 257, "é" * 128, "床" * 86, "x" * 5000, "bed-7\x7f", "bed\x1b[2J", "\x85"),
]

NOT_IN_TOPICS = {*map(chr, range(32)), *map(chr, range(127, 160)), "+", "#"}
"""Brokers hang up on who publishes to such a topic (MQTT 5, 1.5.4); payloads may hold these."""

TIMES: list[Any] = [
    *("2026-11-21T12:00:00Z", "2026-11-21T12:00:00.25+01:00", "20261121T120000Z", "2026-W47-6"),
    *("2026-11-21", "2026-11-21 12:00:00", "2026-11-21t12:00:00z", "2026-11-21T24:00:00Z", "now"),
    *("2026-11-21T12:00:60Z", "2026-13-01T00:00:00Z", "0000-01-01T00:00:00Z", "12:00", "", " "),
    *("0001-01-01T00:00:00Z", "0002-01-01T00:00:00Z", "9998-12-31T23:59:59Z", "+10000-01-01"),
    *("9999-12-31T23:59:59Z", "2026-11-21T12:00:00+23:59", "2026-11-21T12:00:00+99:99", "1e12"),
    *("2026-11-21T12:00:00.123456789Z", "２０２６-11-21T12:00:00Z", "2026-11-21T12:00:00\x00Z"),
    *(0, -1, 1, 1.8e9, 1.8e12, 1.8e15, 1.8e18, 253370764799999, 253370764800000, -62135596800000),
    *(2**53, 2**63, 2**64, 2**70, -(2**70), 1e308, float("nan"), float("inf"), True, None, [], {}),
]

NUMBERS: list[Any] = [
    *(0, 1, -1, 7, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64, 2**70, -(2**70), 10**400),
    *(0.0, -0.0, 0.5, 1e-320, 1e38, 4e38, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
    *(
        True,
        False,
        None,
        "1",
        "NaN",
        "",
        "x" * 300,
        [],
        [1],
        {},
        {"a": 1},
        [[[[]]]],
        "\ud800",
        "\0",
    ),
]

TYPES = [
    *("application/json", "application/octet-stream", "text/plain", "", "application/json; x=1"),
    *("APPLICATION/JSON", "\U0001f9e1", "a" * 1000, "application/x-python-pickle"),
]


class Hostile(NamedTuple):
    """A message to publish.

    Attributes:
        properties: of MQTT 5, named as paho names them.
    """

    kind: Kind
    topic: str
    payload: bytes
    retain: bool
    properties: dict[str, Any]


class Generator:
    """Makes hostile messages."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._known = [f"odd-{i}" for i in range(NAMES - len(ODD_NAMES))] + ODD_NAMES
        beats = Simulator(seed)
        drawn = np.concatenate([beats.normal(50), beats.ectopic(50)])
        self._beats: list[np.ndarray[Any, Any]] = [*drawn.astype(np.float64).round(2)]
        self._number = 0
        self._next_sample: dict[str, int] = {}

    def message(self) -> Hostile:
        """Return the next message."""
        draw = self._random
        self._number += 1
        (kind,) = draw.choices(list(SHARES), list(SHARES.values()))
        name = draw.choice(self._known)
        if draw.random() < STRANGERS:
            name = f"once-{self._number}"
        make: dict[Kind, Callable[[str], tuple[str, bytes]]] = {
            "beats": self._beats_of,
            "alarm": self._alarm_of,
            "request": self._request_of,
            "samples": self._samples_of,
        }
        end, payload = make[kind](name)
        topic = "".join("x" if each in NOT_IN_TOPICS else each for each in f"ecg/{name}/{end}")
        properties = self._properties() if draw.random() < 0.3 else {}
        payload = payload[:LARGEST]
        return Hostile(kind, topic, payload, kind == "alarm" or draw.random() < 0.01, properties)

    # -- the kinds

    def _beats_of(self, _name: str) -> tuple[str, bytes]:
        return "beats", self._one_of(
            (self._good_json, 2),
            (self._odd_json, 6),
            (self._good_float32, 1),
            (self._odd_float32, 2),
            (self._text, 2),
        )

    def _alarm_of(self, name: str) -> tuple[str, bytes]:
        return "alarm", self._one_of(
            (lambda: self._alarm(name), 4), (lambda: self._alarm("bed-7"), 1), (self._text, 1)
        )

    def _request_of(self, _name: str) -> tuple[str, bytes]:
        topic = self._random.choice(operator_requests.TOPICS)
        return topic, self._one_of((self._request, 4), (self._text, 1))

    def _samples_of(self, name: str) -> tuple[str, bytes]:
        name = name[:6]  # fewer devices, so that streams go on
        return "samples", self._one_of(
            (lambda: self._chunk(name, odd=False), 2),
            (lambda: self._chunk(name, odd=True), 4),
            (self._odd_float32, 1),
            (self._text, 1),
        )

    def _one_of(self, *ways: tuple[Callable[[], bytes], float]) -> bytes:
        if self._random.random() < LARGE:
            return self._large()
        (way,) = self._random.choices([way for way, _ in ways], [weight for _, weight in ways])
        return way()

    # -- beats

    def _good_json(self) -> bytes:
        return self._dump(self._message(self._random.randint(1, 3)))

    def _message(self, n: int) -> dict[str, Any]:
        beats = [self._random.choice(self._beats).tolist() for _ in range(n)]
        return {"beats": beats, "seq": self._number}

    def _odd_json(self) -> bytes:
        draw = self._random
        message: Any = self._message(draw.randint(1, 3))
        beats = message["beats"]
        for _ in range(draw.randint(1, 3)):
            match draw.randrange(9):
                case 0:
                    message["time"] = draw.choice(TIMES)
                case 1:
                    message["seq"] = draw.choice(NUMBERS)
                case 2:
                    rr = [draw.choice([*NUMBERS, 800]) for _ in range(len(beats))]
                    message["rr_ms"] = rr[: draw.randint(0, 3)] if draw.random() < 0.3 else rr
                case 3:
                    beats[0].insert(draw.randrange(SAMPLES), draw.choice(NUMBERS))
                    del beats[0][-1]
                case 4:
                    beats[0] = beats[0][: draw.randrange(SAMPLES)] + [0.0] * draw.randrange(3)
                case 5:
                    message["seqs"] = [draw.choice(NUMBERS) for _ in beats]
                case 6:
                    message["rhythm"] = [self._finding() for _ in range(draw.randint(0, 3))]
                case 7:
                    message[draw.choice(ODD_NAMES)] = draw.choice(NUMBERS)
                case 8:
                    message["beats"] = beats = draw.choice([beats, beats * 4, [list(beats[0])]])
        if draw.random() < 0.1:
            message = draw.choice([beats, beats[0], [beats], message["beats"][0][:1]])
        return self._spoil(self._dump(message))

    def _finding(self) -> Any:
        draw = self._random
        kinds = ["asystole", "tachycardia", "ventricular-fibrillation", "anomaly", "", None]
        finding = {"kind": draw.choice(kinds), "since": draw.choice(TIMES)}
        finding[draw.choice(["heart_rate", "pause_s", "seen"])] = draw.choice(NUMBERS)
        return finding

    def _good_float32(self) -> bytes:
        beats = [self._random.choice(self._beats) for _ in range(self._random.randint(1, 4))]
        return np.concatenate(beats).astype("<f4").tobytes()

    def _odd_float32(self) -> bytes:
        draw = self._random
        if draw.random() < 0.5:
            return draw.randbytes(draw.choice([1, 3, 4, 559, 560, 561, 1000, 1120, 2240]))
        samples = np.concatenate([draw.choice(self._beats) for _ in range(2)]).astype("<f4")
        odd = [float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-45, 0.0]
        for _ in range(draw.choice([1, 10, 280])):
            samples[draw.randrange(len(samples))] = draw.choice(odd)
        return self._spoil(samples.tobytes())

    # -- alarms and requests

    def _alarm(self, name: str) -> bytes:
        draw = self._random
        opened = {
            "id": f"{draw.getrandbits(128):032x}",
            "kind": draw.choice(["anomaly", "silent", "signal-quality", "asystole"]),
            "priority": draw.choice(["high", "medium", "low"]),
            "since": "2026-11-21T12:00:00.000Z",
        }
        alarm: dict[str, Any] = {
            "device": name,
            "state": "alarm",
            "priority": "medium",
            "time": "2026-11-21T12:00:00.000Z",
            "alarms": [opened] * draw.choice([0, 1, 1, 1, 2, 50]),
            "anomalous": "." * draw.choice([0, 5, 999]) + draw.choice(["x", "v", ""]),
            "poor": "." * draw.choice([0, 5, 1000]),
            "seq": draw.choice([None, 0, 7]),
            "counted": [f"{draw.getrandbits(64):016x}"] * draw.choice([0, 1, 16, 16, 1001]),
            "changes": 1,
        }
        for _ in range(draw.randint(0, 2)):
            where = draw.choice([alarm, alarm, opened])
            where[draw.choice([*where, "rhythm_ended", "acknowledged"])] = draw.choice(
                [*NUMBERS, *TIMES]
            )
        if draw.random() < 0.2:
            shelf = {"by": draw.choice(ODD_NAMES), "since": draw.choice(TIMES)}
            alarm["shelved"] = shelf | {"until": draw.choice(TIMES)}
        return self._spoil(self._dump(alarm))

    def _request(self) -> bytes:
        draw = self._random
        request: dict[str, Any] = {"by": draw.choice([*ODD_NAMES, "Anna", "", "a" * 101])}
        request["id"] = draw.choice([f"{draw.getrandbits(128):032x}", *NUMBERS, *ODD_NAMES])
        request["minutes"] = draw.choice([0, 0.001, 5, 1440, 1441, *NUMBERS])
        for name, value in {
            "verdict": True,
            "keep_model": True,
            "model": "new",
            "note": "",
        }.items():
            request[name] = draw.choice([value, value, draw.choice(NUMBERS)])
        if draw.random() < 0.5:
            request["kinds"] = draw.choice([["anomaly"], ["asystole"] * 101, ["x"], *NUMBERS])
        for _ in range(draw.choice([0, 0, 1, 4])):
            del request[draw.choice(list(request))]
        return self._spoil(self._dump(request))

    # -- raw samples

    def _chunk(self, name: str, odd: bool) -> bytes:
        draw = self._random
        rate = 250
        at = self._next_sample.get(name, 0)
        length = rate
        samples: list[Any] = np.resize(draw.choice(self._beats), length).tolist()
        message: dict[str, Any] = {"samples": samples, "rate": rate, "seq": at}
        self._next_sample[name] = at + length
        for _ in range(draw.randint(1, 2) if odd else 0):
            match draw.randrange(8):
                case 0:
                    message["rate"] = draw.choice([*NUMBERS, 100, 99.9, 128, 360, 500, 20_000])
                case 1:
                    message["seq"] = draw.choice([*NUMBERS, at + 10 * rate, at + 10**6, 0])
                case 2:
                    message["time"] = draw.choice(TIMES)
                case 3:
                    names = draw.choice(
                        [["II"], ["II", "V1"], ODD_NAMES[:12], range(17), range(300)]
                    )
                    message.pop("samples", None)
                    message["leads"] = {str(each): samples for each in names}
                case 4:
                    samples.insert(draw.randrange(len(samples) + 1), draw.choice(NUMBERS))
                    del samples[-1]
                case 5:
                    value = draw.choice([None, 0.0, 1e300, -1e300, float("nan")])
                    samples[:] = [value] * len(samples)
                case 6:
                    message.pop(draw.choice(["samples", "rate", "seq"]), None)
                case 7:
                    samples[:] = draw.choice([[], samples[:1], samples * 4])
                    samples[:] = samples or [0.0] * draw.randrange(2)
        return self._spoil(self._dump(message)) if odd else self._dump(message)

    # -- text, bytes and properties

    def _text(self) -> bytes:
        """Return what is no message at all."""
        draw = self._random
        match draw.randrange(7):
            case 0:
                return b""
            case 1:
                return draw.randbytes(draw.choice([1, 2, 7, 100, 560, 1000]))
            case 2:
                return draw.choice([b"[", b"{", b"[[", b'{"beats":', b'{"a":[']) * draw.choice(
                    [1, 10, 1000, 5000]
                )
            case 3:
                return self._dump(draw.choice(NUMBERS + TIMES + ODD_NAMES))
            case 4:
                return b'{"beats": "' + draw.randbytes(50) + b'"}'
            case 5:
                text = draw.choice([self._good_json(), b"{}", b"[]"])
                return text.decode().encode(draw.choice(["utf-16", "utf-32-be", "utf-8-sig"]))
            case _:
                return draw.choice(ODD_NAMES).encode() * draw.choice([1, 100])

    def _large(self) -> bytes:
        draw = self._random
        length = draw.randint(LARGEST // 10, LARGEST)
        match draw.randrange(6):
            case 0:
                return draw.randbytes(length)
            case 1:
                return b"[" * length
            case 2:
                return b"[[" + b"0," * (length // 2) + b"0]]"
            case 3:
                return b"[" + b"[0]," * (length // 4) + b"[0]]"
            case 4:
                return b'{"samples":[' + b"1," * (length // 2) + b'1],"rate":250}'
            case _:
                return struct.pack("<f", 0.25) * (length // 560 * 140)

    def _dump(self, value: Any) -> bytes:
        text = json.dumps(value, ensure_ascii=self._random.random() < 0.5)
        return text.encode(errors="surrogatepass")

    def _spoil(self, payload: bytes) -> bytes:
        """Return a payload as it is, or with bytes cut, changed, added or doubled."""
        draw = self._random
        at = draw.randrange(len(payload) + 1)
        match draw.randrange(12):
            case 0:
                return payload[:at]
            case 1:
                return payload[at:]
            case 2:
                return payload[:at] + draw.randbytes(1) + payload[at + 1 :]
            case 3:
                return payload[:at] + draw.randbytes(draw.randint(1, 5)) + payload[at:]
            case 4:
                return payload + payload
            case _:
                return payload

    def _properties(self) -> dict[str, Any]:
        draw = self._random
        properties: dict[str, Any] = {}
        if draw.random() < 0.7:
            properties["ContentType"] = draw.choice(TYPES)
        if draw.random() < 0.3:
            properties["UserProperty"] = [(draw.choice(TYPES), "x" * draw.randrange(100))] * 3
        if draw.random() < 0.2:
            properties["ResponseTopic"] = draw.choice(["ecg/bed-7/alarm", "x", "a/b/c"])
            properties["CorrelationData"] = draw.randbytes(20)
        if draw.random() < 0.2:
            properties["MessageExpiryInterval"] = draw.choice([1, 3600, 2**32 - 1])
        if draw.random() < 0.2:
            properties["PayloadFormatIndicator"] = draw.randrange(2)
        return properties
