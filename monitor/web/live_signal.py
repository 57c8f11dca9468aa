"""The last seconds of a watched device's raw signal, as a page draws them."""

import math
from typing import Final

import msgspec
import numpy as np

from monitor.alarms.strips import MAX_LEADS, MAX_RATE
from monitor.ecg import chunks
from monitor.ecg.rpeaks import Signal
from monitor.errors import Rejected

KEPT: Final = 12.0
"""Seconds of signal kept: ten on the page, and some for a page that asks late."""

MAX_CHUNK: Final = 256_000
"""Longest payload that is drawn: a second of twelve leads at 1,000 Hz has 84 kB."""

BYTES_PER_SECOND: Final = 500_000
"""Bytes that are read for a device in a second, on average: 5 ms of the loop's time."""


class ShownSignal(msgspec.Struct, frozen=True):
    """Samples to draw.

    Attributes:
        first: the number of the first sample, counted since the device has been watched.
        rate: samples a second.
        leads: in millivolts, None for lost samples.
    """

    first: int
    rate: float
    leads: dict[str, list[float | None]]


class LiveSignal:
    """Takes chunks in the loop's thread; any thread may ask for what came."""

    def __init__(self, rate: float | None, per_millivolt: float) -> None:
        """Draw chunks that carry no rate at this one."""
        self._rate, self._per_millivolt = rate, per_millivolt
        self._due: int | None = None  # the number of the next sample, as the device counts
        self._shown: tuple[int, float, dict[str, Signal]] = (0, 0.0, {})  # replaced, never changed
        self._room, self._since = float(BYTES_PER_SECOND), 0.0

    def take(self, payload: bytes, now: float) -> None:
        """Take a chunk; `now` is on the monotonic clock. What cannot be drawn is left out:
        `segment` says what is wrong with it."""
        self._room += BYTES_PER_SECOND * (now - self._since)
        self._room, self._since = min(BYTES_PER_SECOND, self._room), now
        if not 0 < len(payload) <= min(MAX_CHUNK, self._room):
            return
        self._room -= len(payload)
        try:
            chunk = chunks.decode(payload)
        except Rejected:
            return
        given = chunk.rate or self._rate
        if given is None or not 1 <= given <= 100_000:
            return
        step = math.ceil(given / MAX_RATE)
        own = {name: chunk.leads[name][::step] for name in list(chunk.leads)[:MAX_LEADS]}
        first, rate, kept = self._shown
        if rate != given / step or list(kept) != list(own):  # another signal begins
            end = first + len(next(iter(kept.values()), ()))
            first, rate, kept = end, given / step, dict.fromkeys(own, np.empty(0))
        elif chunk.seq is not None and self._due not in (None, chunk.seq):  # a gap
            own = {name: np.append(np.nan, samples) for name, samples in own.items()}
        self._due = None if chunk.seq is None else chunk.seq + len(chunk)
        joined = {name: np.concatenate([kept[name], own[name]]) for name in own}
        too_many = max(0, len(next(iter(joined.values()))) - round(KEPT * rate))
        self._shown = first + too_many, rate, {n: each[too_many:] for n, each in joined.items()}

    def since(self, number: int) -> ShownSignal | None:
        """Return the samples from this number on; None if none ever came."""
        first, rate, leads = self._shown
        if not leads:
            return None
        skipped = max(0, number - first)
        return ShownSignal(
            first + skipped,
            rate,
            {
                name: [
                    None if math.isnan(each) else each
                    for each in np.round(own[skipped:] / self._per_millivolt, 3).tolist()
                ]
                for name, own in leads.items()
            },
        )
