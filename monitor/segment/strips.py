"""The strips of alarms: which are wanted, and the message of each once its signal is there."""

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from monitor.alarms import messages
from monitor.alarms.strips import AFTER, BEFORE, MAX_RATE, AlarmStrip, Mark
from monitor.ecg.segmenter import FUTURE, STEP
from monitor.ecg.streams import SHOWN, Stream
from monitor.segment.journal import WantedStrip
from monitor.times import from_rfc3339, rfc3339

LATE: Final = STEP + FUTURE + 0.5
"""Seconds after its end at which a strip goes out: its last beats are cut then, and with the
monitor, which says what they are."""

DIGITS: Final = 3
"""Decimals of a sample in millivolts: a hundredth of a millimetre."""

MOST_WANTED: Final = 8
"""Strips of a device that wait at the same time: one for each kind of alarm."""

MOST_KNOWN: Final = 10_000
"""Alarms that are remembered, so that none has its strip twice: a busy hour's (`journal`)."""


class Strips:
    """The strips that are wanted, by device. No network, no clock."""

    def __init__(self, known: list[WantedStrip], per_millivolt: float) -> None:
        """Go on with those that an earlier process has known."""
        self._per_millivolt = per_millivolt
        self._known = {each.alarm: None for each in known}
        self._wanted: dict[str, list[WantedStrip]] = {}
        for each in known:
            if not each.done:
                self._wanted.setdefault(each.device, []).append(each)

    def want(
        self, device: str, payload: bytes, stream: Stream | None, now: float
    ) -> WantedStrip | None:
        """Take an alert; return the strip that is wanted from now on, None if none is.

        None is wanted of an alarm that is known, or whose signal is not here.

        Raises:
            ValueError: it is not an alert.
        """
        alert = messages.decode_alert(payload)
        if alert.event != "raised" or alert.id in self._known or stream is None:
            return None
        waiting = self._wanted.setdefault(device, [])
        moment, newest = from_rfc3339(alert.time), stream.moment_of(stream.expected)
        at = stream.expected - round((newest - moment) * stream.rate)
        if not -AFTER < newest - moment < SHOWN or len(waiting) >= MOST_WANTED:
            return None
        self._known[alert.id] = None
        if len(self._known) > MOST_KNOWN:
            del self._known[next(iter(self._known))]
        wanted = WantedStrip(alert.id, device, at, now, False)
        waiting.append(wanted)
        return wanted

    def take_due(
        self, device: str, stream: Stream, ended: bool = False
    ) -> list[tuple[WantedStrip, bytes]]:
        """Return the strips of a device whose signal is there, or all if its stream has ended."""
        waiting = self._wanted.get(device)
        if not waiting:
            return []
        due = [
            each
            for each in waiting
            if ended or stream.expected >= each.at + (AFTER + LATE) * stream.rate
        ]
        self._wanted[device] = [each for each in waiting if each not in due]
        if not self._wanted[device]:
            del self._wanted[device]
        found = ((each, self._message(each, stream)) for each in due)
        return [(each, payload) for each, payload in found if payload is not None]

    def _message(self, wanted: WantedStrip, stream: Stream) -> bytes | None:
        rate = stream.rate
        first, leads, beats = stream.shown(
            wanted.at - round(BEFORE * rate), wanted.at + round(AFTER * rate)
        )
        step = math.ceil(rate / MAX_RATE)
        drawn = {name[:64]: self._drawn(own[::step]) for name, own in leads.items()}
        if not all(drawn.values()):
            return None
        strip = AlarmStrip(
            alarm=wanted.alarm,
            time=rfc3339(stream.moment_of(first)),
            rate=rate / step,
            leads=drawn,
            at=round(max(0, wanted.at - first) / rate, 3),
            beats=[Mark(seq, round((seq - first) / rate, 3)) for seq in beats],
        )
        return msgspec.json.encode(strip)

    def _drawn(self, samples: NDArray[np.float32]) -> list[float | None]:
        millivolts = np.round(samples.astype(np.float64) / self._per_millivolt, DIGITS)
        return [None if math.isnan(each) else each for each in millivolts.tolist()]
