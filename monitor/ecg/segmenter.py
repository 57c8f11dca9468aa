"""Cut beats from a raw ECG as it arrives, at any sampling rate and with either polarity.

The trainer, `replay` and `segment` use the same class. It decides in steps at fixed sample numbers,
each with the same seconds around it, so the beats are identical to the last bit however the signal
is divided into chunks.

`monitor.ecg.rpeaks` finds the R peaks. Windows and bands were chosen on the records of DS1 of the
MIT-BIH Arrhythmia Database (https://doi.org/10.13026/C2F305): see docs/detector.md.
"""

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor.ecg import quality
from monitor.ecg.beat import SAMPLES
from monitor.ecg.rpeaks import REFRACTORY, STILL, Band, Finder, Positions, Signal, alive, still
from monitor.errors import ConfigurationError

BEFORE: Final = 0.2
AFTER: Final = 0.3
"""Seconds of a beat before and after its R peak: the QRS complex and the start of the T wave, but
no neighbouring beat."""

BAND: Final = (0.5, 40.0)
"""Hz; outside it are baseline wander, mains hum and muscle noise."""

NOISE_BAND: Final = (20.0, 60.0)
"""Hz; here a heart has only its QRS complexes, while noise is continuous."""

SHOWN_BAND: Final = (30.0, 60.0)
"""Hz; the band returned for a beat drowned in noise: so fast that `quality.assess` detects it."""

SHARP_BAND: Final = (5.0, 25.0)
"""Hz; contains little of a beat but its QRS complex."""

AROUND: Final = 1.5
"""Seconds before and after a beat in which noise is measured: at most `FUTURE`."""

NOISY, NOISY_BESIDE = 0.35, 0.5
"""Median noise of 50 ms, relative to the signal around the beat, above which the beat is drowned.

The second is for either side alone, where noise begins or ends.

White noise has 0.9; one in a thousand of the beats annotated in DS1 has more than the limit, most
of them in records 108 and 203.
"""

HISSING, RESTLESS, REPEATING = 0.06, 0.6, 0.45
"""A signal with this much hiss that never rests and does not repeat itself is noise, too.

The first is measured like `NOISY`; the second is the median QRS energy of 50 ms, relative to the
mean; the third is the autocorrelation one beat later. QRS complexes are short and rare, so there is
little energy between them; ventricular flutter, which never rests, hisses less or repeats itself.
Noise whose power falls with the frequency does neither.
"""

LOWEST_RATE: Final = 100.0
"""Hz; at lower rates the band does not fit and QRS complexes lose their shape."""

HIGHEST_RATE: Final = 20_000.0
"""Hz; a higher rate is a mistake, and would only cost memory for the seconds that are kept."""

RATES: Final = 64
"""Sampling rates whose filters are kept: to design them takes 2 ms, as to cut 6 s of a signal."""

DESCRIPTION: Final[dict[str, Any]] = {
    "before_s": BEFORE,
    "after_s": AFTER,
    "samples": SAMPLES,
    "band_hz": list(BAND),
    "centre": "centre of the QRS energy, 3 to 25 Hz",
}
"""How beats are cut, as a model's card states it."""

REPAIRED: Final = 0.02
"""Longest gap that is replaced by a straight line, in seconds: no wave is so short."""

SPLINE_REACH: Final = 64
"""Samples on either side that a cubic spline is laid through. What is farther away counts for less
than 4e-37 there: each sample adds a factor of 0.27."""

STEP = 2.0  # seconds that are decided at once
PAST, FUTURE = 8.0, 1.5  # seconds of signal on either side that the decision sees
LONGEST_RR: Final = 6.0
"""Seconds; a longer pause is no interval between two beats."""

PAUSE, PAUSE_STEP = 2.4, 0.8
"""After so many seconds without a beat windows are cut all the same, so many seconds apart.

So that six of them, which raise an alarm of the signal's quality, are there within 10 s: a window
is decided up to 3.5 s late.
"""


class CutBeat(NamedTuple):
    """A beat of a signal.

    Attributes:
        samples: float32 [140], in the signal's units.
        seq: the R peak's sample number.
        rr_ms: the RR interval before it; None for the first beat, after a pause and after a gap.
    """

    samples: NDArray[np.float32]
    seq: int
    rr_ms: float | None


class Segmenter:
    """Takes a signal chunk by chunk and returns its beats, 1.5 to 3.5 s after they occur."""

    def __init__(self, rate: float, first: int = 0) -> None:
        """Start at sample number `first` of a signal with `rate` samples a second.

        Raises:
            ConfigurationError: the rate is not in 100 … 20,000 Hz.
            Failure: SciPy or sleepecg is not installed.
        """
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise ConfigurationError(
                f"sampling rate {rate:g} Hz: allowed is at least {LOWEST_RATE:g} Hz and "
                f"at most {HIGHEST_RATE:g} Hz"
            )
        self.rate = float(rate)
        self._finder, self._cutter = _prepared(self.rate)
        self._signal: Signal = np.empty(0)
        self._begin = self._decided = first  # first sample kept, first one to decide
        self._last: int | None = None  # the last beat
        self._paused = first  # where the last beat or the last window of a pause was

    def feed(self, samples: NDArray[Any]) -> list[CutBeat]:
        """Take the next samples, [n], NaN for lost ones; return the beats that they complete."""
        self._signal = np.concatenate([self._signal, np.asarray(samples, np.float64)])
        beats: list[CutBeat] = []
        step = round(STEP * self.rate)
        while True:
            # Steps end at multiples of their length, wherever the signal began.
            end = (self._decided // step + 1) * step
            if self._begin + len(self._signal) < end + round(FUTURE * self.rate):
                return beats
            beats += self._decide(end)

    def finish(self) -> list[CutBeat]:
        """Return the remaining beats when no more samples will come."""
        return self._decide(self._begin + len(self._signal))

    def _decide(self, end: int) -> list[CutBeat]:
        seen, lost = _filled(
            self._signal[: end + round(FUTURE * self.rate) - self._begin], self.rate
        )
        peaks = self._finder.peaks(seen) + self._begin

        def holes(first: int, last: int) -> bool:
            return bool(lost[max(first - self._begin, 0) : max(last - self._begin, 0)].any())

        beats: list[CutBeat] = []
        centres: list[tuple[int, float | None]] = []
        found: set[int] = set()
        for peak in peaks[(peaks >= self._decided) & (peaks < end)].tolist():
            since = None if self._last is None else (peak - self._last) / self.rate
            if since is not None and since < REFRACTORY:
                continue  # already found at the end of the previous step
            if holes(peak, peak + 1):
                continue  # the edge of a hole
            if self._last is not None and holes(self._last, peak):
                since = None
            centres += [(place, None) for place in self._pause(peak)]
            centres.append((peak, since and 1000 * since if since and since < LONGEST_RR else None))
            found.add(peak)
            self._last = self._paused = peak
        centres += [(place, None) for place in self._pause(end)]
        if centres:
            cut = self._cutter.cut(seen, np.array([at for at, _ in centres]) - self._begin)
            before, after = round(BEFORE * self.rate), round(AFTER * self.rate)
            cut[[holes(at - before, at + after) for at, _ in centres]] = (
                0.0  # as a lead that is off
            )
            told = np.array([at in found for at, _ in centres])
            if not told.all():
                # A window in a pause only reports that the lead is off: a good signal without QRS
                # complexes is a matter of rhythm.
                told |= quality.assess(cut) != quality.GOOD
            rows = zip(cut, *zip(*centres, strict=True), told.tolist(), strict=True)
            beats = [CutBeat(samples, at, rr) for samples, at, rr, kept in rows if kept]
        self._decided = end
        keep = max(self._begin, end - round(PAST * self.rate))
        self._signal, self._begin = self._signal[keep - self._begin :], keep
        return beats

    def _pause(self, until: int) -> list[int]:
        """Return where to cut without a beat: a lead that is off must not go unnoticed."""
        places = []
        while until - self._paused > PAUSE * self.rate:
            self._paused += round(PAUSE_STEP * self.rate)
            places.append(self._paused)
        return places


@lru_cache(maxsize=RATES)
def _prepared(rate: float) -> tuple[Finder, "_Cutter"]:
    """Return what finds and what cuts beats; neither keeps anything of a signal."""
    return Finder(rate), _Cutter(rate)


def _filled(signal: Signal, rate: float) -> tuple[Signal, NDArray[np.bool_]]:
    """Return a signal without NaN, and which of its samples remain lost: [n], [n].

    Short gaps are replaced by a straight line; those of `STILL` seconds or more by a flat one, like
    a lead that is off.
    """
    lost = np.isnan(signal)
    if not lost.any():
        return signal, lost
    known = np.flatnonzero(~lost)
    if not len(known):
        return np.zeros_like(signal), lost
    filled = np.interp(np.arange(len(signal)), known, signal[known])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], lost, [False]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        if last - first <= REPAIRED * rate:
            lost[first:last] = False
        elif last - first >= STILL * rate:
            filled[first:last] = filled[max(first - 1, 0)]
    return filled, lost


def _between(signal: Signal, places: Signal) -> Signal:
    """Return a signal at these places between its samples, by a cubic spline, [N, 140]."""
    first, last = int(places.min()) - SPLINE_REACH, int(places.max()) + SPLINE_REACH
    if first < 0 or last > len(signal):  # where a stream begins or ends, its end counts
        from scipy.interpolate import CubicSpline

        return np.asarray(CubicSpline(np.arange(len(signal)), signal)(places))
    from scipy.ndimage import map_coordinates

    # The same spline; it takes 15 instead of 105 µs.
    return np.asarray(map_coordinates(signal[first:last], [places - first], mode="mirror"))


def _median(rows: Signal) -> Signal:
    """Return the median of each row; they have an odd number of values, [N, 2 * k + 1].

    It takes a fifth of the time of NumPy's, which allows for NaN and for even numbers.
    """
    middle = rows.shape[1] // 2
    return np.asarray(np.partition(rows, middle, axis=1)[:, middle])


class _Cutter:
    """Cuts beats from several seconds of signal."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._beat, self._noise, self._shown, self._sharp = (
            Band(rate, *band) for band in (BAND, NOISE_BAND, SHOWN_BAND, SHARP_BAND)
        )

    def cut(self, signal: Signal, centres: Positions) -> NDArray[np.float32]:
        """Return the beats at these centres: float32 [N, 140], filtered.

        A filter would hide from the receiver that a beat cannot be trusted. So a flat or clipped
        signal is returned unfiltered, a beat next to a lead that is off as a flat line, and a beat
        drowned in noise as the noise; `quality.assess` then recognises each of them.
        """
        times = np.linspace(-BEFORE, AFTER, SAMPLES) * self._rate
        places = np.clip(centres[:, None] + times, 0, len(signal) - 1)
        raw = np.interp(places, np.arange(len(signal)), signal).astype(np.float32)
        smooth = np.zeros_like(signal)
        for part in alive(signal, self._rate):  # without the steps beside it
            smooth[part] = self._beat(signal[part])
        beats = _between(smooth, places).astype(np.float32)
        drowned = self._drowned(signal, smooth, centres)
        if drowned.any():
            shown = _between(self._shown(signal), places).astype(np.float32)
            # Not where the noise only just begins.
            seen = drowned & (quality.assess(shown) == quality.NOISE)
            beats[seen] = shown[seen]
        beats[self._beside_still(signal, centres)] = 0.0
        return np.where((quality.assess(raw) != quality.GOOD)[:, None], raw, beats)

    def _drowned(self, signal: Signal, smooth: Signal, centres: Positions) -> NDArray[np.bool_]:
        """Return which beats have noise before them, after them, or both: [N]."""
        from scipy.ndimage import uniform_filter1d

        short, last = round(0.05 * self._rate), len(signal) - 1
        reach = round(AROUND / 0.05) * short
        middle = np.clip(centres, min(reach, last // 2), max(last - reach, last // 2))
        near = np.clip(middle[:, None] + np.arange(-reach, reach + 1, short), 0, last)

        def energy(part: Signal) -> Signal:
            return np.asarray(uniform_filter1d(part**2, short)[near])

        noise, beat = energy(self._noise(signal)), energy(smooth)
        hum, size = _median(noise), beat.mean(axis=1)
        drowned = hum > NOISY**2 * size
        for side in (slice(None, 31), slice(30, None)):
            drowned |= _median(noise[:, side]) > NOISY_BESIDE**2 * beat[:, side].mean(axis=1)
        hissing = ~drowned & (hum > HISSING**2 * size)
        if hissing.any():  # a third of the steps of recordings
            sharp = self._sharp(signal)
            qrs = energy(sharp)
            for i in np.flatnonzero(hissing & (_median(qrs) > RESTLESS**2 * qrs.mean(axis=1))):
                drowned[i] = self._repeats(sharp[near[i, 0] : near[i, -1]]) < REPEATING
        return np.asarray(drowned)

    def _beside_still(self, signal: Signal, centres: Positions) -> NDArray[np.bool_]:
        """Return which beats have a lead that is off just before or after them: [N]."""
        begins, ends = still(signal, self._rate)
        first, last = (centres[:, None] + side * AROUND * self._rate for side in (-1, 1))
        within = np.minimum(ends, last) - np.maximum(begins, first)
        return np.asarray((within >= STILL * self._rate).any(axis=1))

    def _repeats(self, signal: Signal) -> float:
        """Return the largest autocorrelation of a signal at lags of 100 to 500 beats a minute."""
        from scipy.signal import correlate

        alike = correlate(signal, signal)[len(signal) - 1 :]
        overlap = np.arange(len(signal), 0, -1) / len(signal)
        likely = slice(round(0.12 * self._rate), round(0.6 * self._rate))
        later = (alike / overlap)[likely]
        return float(later.max(initial=0) / max(alike[0], 1e-30))
