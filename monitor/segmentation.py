"""Cuts beats from a raw ECG as it comes, whatever its sampling rate and whichever way up its lead.

The same object cuts a record for the trainer, for `replay` and for `segment`. It decides in steps
that lie at fixed sample numbers, each with the same seconds around it, so the beats are the same
to the last bit however the signal was cut into chunks.

R peaks are found by sleepecg (https://doi.org/10.21105/joss.05411, after Pan and Tompkins,
https://doi.org/10.1109/TBME.1985.325532), which looks for upright ones. Here it sees the signal
both ways up, and once more with its amplitude limited, where wide and low ventricular beats show.
Windows and bands were chosen on the records of DS1 of the MIT-BIH Arrhythmia Database
(https://doi.org/10.13026/C2F305): see docs/detector.md.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monitor import quality
from monitor.program import ConfigurationError, Failure
from monitor.wire import SAMPLES

BEFORE: Final = 0.2
AFTER: Final = 0.3
"""Seconds of a beat before and after its R peak: QRS and the begin of T, no neighbouring beat."""

BAND: Final = (0.5, 40.0)
"""Hz; what lies outside is the wandering of the baseline, the mains and the muscles."""

NOISE_BAND: Final = (20.0, 60.0)
"""Hz; a heart is quiet here but for its QRS complexes, noise is there all the time."""

SHOWN_BAND: Final = (30.0, 60.0)
"""Hz; of a beat that drowns in noise, what is given: so fast that `quality.assess` must see it."""

NOISY, NOISY_BESIDE = 0.35, 0.5
"""The usual 50 ms of noise, in sizes of the signal around the beat, beyond which it drowns in it.

The second is for either side alone, where noise begins or ends.

White noise has 0.9; of the beats annotated in DS1 one in a thousand has more, most of 108 and 203.
"""

HISSING, RESTLESS, REPEATING = 0.06, 0.6, 0.45
"""Where the signal hisses so much, never rests and does not repeat itself, it is noise, too.

The first is measured as `NOISY`; the second is the usual 50 ms of QRS energy, in sizes of it all;
the third how like itself the signal comes again. QRS complexes are short and rare, so what lies
between them is small; ventricular flutter, which never rests, hisses less or repeats itself. Noise
whose power falls with the frequency does neither.
"""

LOWEST_RATE: Final = 100.0
"""Hz; below it the band does not fit and QRS complexes lose their shape."""

HIGHEST_RATE: Final = 20_000.0
"""Hz; above it is no ECG but a mistake, for which seconds of samples would be kept in vain."""

DESCRIPTION: Final[dict[str, Any]] = {
    "before_s": BEFORE,
    "after_s": AFTER,
    "samples": SAMPLES,
    "band_hz": list(BAND),
    "centre": "centre of the QRS energy, 3 to 25 Hz",
}
"""What a model's card says of the cut."""

STEP = 2.0  # seconds that are decided at once
PAST, FUTURE = 8.0, 1.5  # seconds of signal on either side that the decision sees
PAUSE = 3.0  # after so many seconds without a beat, a window is cut all the same
REFRACTORY = 0.25  # seconds; of two peaks closer than this the smaller one is none
GAP = 1.5  # RR intervals; where a gap is longer, the limited signal is asked
FAINTEST = 0.3  # of the usual QRS complex' size; a T wave in a pause is smaller

Signal = NDArray[np.float64]
Positions = NDArray[np.int64]


class Beat(NamedTuple):
    """A beat of a signal.

    Attributes:
        samples: float32 [140], in the signal's units.
        seq: the R peak's sample number.
        rr_ms: the RR interval before it; None for the first beat and after a pause.
    """

    samples: NDArray[np.float32]
    seq: int
    rr_ms: float | None


class Segmenter:
    """Takes in a signal chunk by chunk and gives its beats, 1.5 to 3.5 s after they were."""

    def __init__(self, rate: float, first: int = 0) -> None:
        """Begin at the sample number `first` of a signal of `rate` samples a second.

        Raises ConfigurationError for a rate under 100 Hz, Failure where SciPy or sleepecg is not
        installed.
        """
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise ConfigurationError(
                f"sampling rate {rate:g} Hz: at least {LOWEST_RATE:g} Hz, "
                f"at most {HIGHEST_RATE:g} Hz"
            )
        self.rate = float(rate)
        self._finder = _Finder(self.rate)
        self._signal: Signal = np.empty(0)
        self._begin = self._decided = first  # sample numbers: of what is kept, of what is to decide
        self._last: int | None = None  # the last beat
        self._paused = first  # where the last beat or the last window of a pause was

    def feed(self, samples: NDArray[Any]) -> list[Beat]:
        """Take in the next samples, [n], finite, and give the beats that they decide."""
        self._signal = np.concatenate([self._signal, np.asarray(samples, np.float64)])
        beats: list[Beat] = []
        step = round(STEP * self.rate)
        while True:
            # Steps end at multiples of their length, wherever the signal began.
            end = (self._decided // step + 1) * step
            if self._begin + len(self._signal) < end + round(FUTURE * self.rate):
                return beats
            beats += self._decide(end)

    def finish(self) -> list[Beat]:
        """Give the beats that are left when no more samples come."""
        return self._decide(self._begin + len(self._signal))

    def _decide(self, end: int) -> list[Beat]:
        seen = self._signal[: end + round(FUTURE * self.rate) - self._begin]
        peaks = self._finder.peaks(seen) + self._begin
        beats: list[Beat] = []
        centres: list[tuple[int, float | None]] = []
        for peak in peaks[(peaks >= self._decided) & (peaks < end)].tolist():
            since = None if self._last is None else (peak - self._last) / self.rate
            if since is not None and since < REFRACTORY:
                continue  # found on the other side of the border already
            centres += [(place, None) for place in self._pause(peak)]
            centres.append((peak, since and 1000 * since if since and since < 2 * PAUSE else None))
            self._last = self._paused = peak
        centres += [(place, None) for place in self._pause(end)]
        if centres:
            cut = self._finder.cut(seen, np.array([at for at, _ in centres]) - self._begin)
            beats = [Beat(*row) for row in zip(cut, *zip(*centres, strict=True), strict=True)]
        self._decided = end
        keep = max(self._begin, end - round(PAST * self.rate))
        self._signal, self._begin = self._signal[keep - self._begin :], keep
        return beats

    def _pause(self, until: int) -> list[int]:
        """Where to cut although there is no beat: a lead that is off must not go unnoticed."""
        places = []
        while until - self._paused > PAUSE * self.rate:
            self._paused += round(PAUSE * self.rate / 2)
            places.append(self._paused)
        return places


class _Finder:
    """Finds R peaks in some seconds of signal, and cuts beats from them."""

    def __init__(self, rate: float) -> None:
        try:
            from scipy.signal import butter
            from sleepecg.heartbeats import detect_heartbeats
        except ModuleNotFoundError as missing:
            raise Failure(
                f"a raw ECG needs {missing.name}: pip install 'ecg-monitor[segment]'"
            ) from None
        self._rate = rate
        self._detect = detect_heartbeats
        top = 0.45 * rate
        self._qrs, self._wide, self._sharp, self._beat, self._noise, self._shown = (
            butter(2, (low, min(high, top)), "bandpass", fs=rate, output="sos")
            for low, high in ((3, 25), (2, 25), (5, 25), BAND, NOISE_BAND, SHOWN_BAND)
        )

    def peaks(self, signal: Signal) -> Positions:
        """Find the R peaks of a signal, [n]: their sample numbers within it, in order."""
        if len(signal) < 2 * self._rate or np.ptp(signal) == 0:
            return np.empty(0, np.int64)
        from scipy.signal import sosfiltfilt

        qrs = sosfiltfilt(self._qrs, signal)
        clear = self._apart(self._both_ways_up(qrs), qrs)
        faint = self._both_ways_up(self._limited(sosfiltfilt(self._wide, signal)))
        return self._centred(self._apart(self._filled(clear, faint, qrs), qrs), qrs)

    def cut(self, signal: Signal, centres: Positions) -> NDArray[np.float32]:
        """Cut beats: float32 [N, 140], filtered.

        A filter would hide what the receiver has to see of a beat that is not to be believed: where
        the signal is flat or clipped it is given as it is, and of a beat that drowns in noise what
        is given is the noise, so that `quality.assess` calls all of them what they are.
        """
        from scipy.interpolate import CubicSpline
        from scipy.signal import sosfiltfilt

        times = np.linspace(-BEFORE, AFTER, SAMPLES) * self._rate
        places = np.clip(centres[:, None] + times, 0, len(signal) - 1)
        number = np.arange(len(signal))
        raw = np.interp(places, number, signal).astype(np.float32)
        if len(signal) < self._rate:
            return raw
        smooth = sosfiltfilt(self._beat, signal)
        beats = CubicSpline(number, smooth)(places).astype(np.float32)
        drowned = self._drowned(signal, smooth, centres)
        if drowned.any():
            fast = CubicSpline(number, sosfiltfilt(self._shown, signal))
            shown = fast(places).astype(np.float32)
            seen = drowned & (quality.assess(shown) == quality.NOISE)  # not where it just begins
            beats[seen] = shown[seen]
        return np.where((quality.assess(raw) != quality.GOOD)[:, None], raw, beats)

    def _drowned(self, signal: Signal, smooth: Signal, centres: Positions) -> NDArray[np.bool_]:
        """Say which beats have noise around them: in the 1.5 s before, those after, or both."""
        from scipy.ndimage import uniform_filter1d
        from scipy.signal import sosfiltfilt

        short = round(0.05 * self._rate)
        reach, last = 30 * short, len(signal) - 1
        middle = np.clip(centres, min(reach, last // 2), max(last - reach, last // 2))
        near = np.clip(middle[:, None] + np.arange(-reach, reach + 1, short), 0, last)
        noise, sharp = (sosfiltfilt(band, signal) for band in (self._noise, self._sharp))
        energy = [uniform_filter1d(part**2, short)[near] for part in (noise, smooth, sharp)]
        hum, _, usual = np.median(energy, axis=2)
        _, size, whole = np.mean(energy, axis=2)
        drowned = hum > NOISY**2 * size
        for side in (slice(None, 31), slice(30, None)):
            noisy, all_of = energy[0][:, side], energy[1][:, side]
            drowned |= np.median(noisy, axis=1) > NOISY_BESIDE**2 * np.mean(all_of, axis=1)
        doubtful = (hum > HISSING**2 * size) & (usual > RESTLESS**2 * whole)
        for i in np.flatnonzero(doubtful & ~drowned):
            drowned[i] = self._repeats(sharp[near[i, 0] : near[i, -1]]) < REPEATING
        return np.asarray(drowned)

    def _repeats(self, signal: Signal) -> float:
        """How like itself a signal is a beat of 100 to 500 a minute later: 1 for exactly like."""
        from scipy.signal import correlate

        alike = correlate(signal, signal)[len(signal) - 1 :]
        overlap = np.arange(len(signal), 0, -1) / len(signal)
        likely = slice(round(0.12 * self._rate), round(0.6 * self._rate))
        later = (alike / overlap)[likely]
        return float(later.max(initial=0) / max(alike[0], 1e-30))

    def _both_ways_up(self, signal: Signal) -> Positions:
        return np.union1d(self._detect(signal, self._rate), self._detect(-signal, self._rate))

    def _limited(self, signal: Signal) -> Signal:
        """Bring peaks of all heights within 2 s near to the same height."""
        from scipy.ndimage import maximum_filter1d, uniform_filter1d

        length = round(2 * self._rate)
        height = uniform_filter1d(maximum_filter1d(np.abs(signal), length), length)
        limited: Signal = np.tanh(signal / (0.2 * height + 1e-9 + 1e-6 * np.ptp(signal)))
        return limited

    def _apart(self, peaks: Positions, qrs: Signal) -> Positions:
        """Keep the larger of two peaks that lie too close to be two."""
        size = self._sizes(peaks, qrs)
        kept: list[int] = []
        for i, peak in enumerate(peaks):
            if kept and peak - peaks[kept[-1]] < REFRACTORY * self._rate:
                if size[i] > size[kept[-1]]:
                    kept[-1] = i
            else:
                kept.append(i)
        return peaks[kept].astype(np.int64)

    def _sizes(self, peaks: Positions, qrs: Signal) -> Signal:
        """Give the span of the signal around each peak."""
        near = round(0.05 * self._rate)
        return np.array([np.ptp(qrs[max(0, peak - near) : peak + near + 1]) for peak in peaks])

    def _filled(self, peaks: Positions, faint: Positions, qrs: Signal) -> Positions:
        """Add those of the faint peaks that lie in a gap between the others."""
        if len(peaks) < 2:
            return np.union1d(peaks, faint)
        intervals = np.diff(peaks)
        long = intervals > min(GAP * float(np.median(intervals)), 1.6 * self._rate)
        i = np.clip(np.searchsorted(peaks, faint, "right") - 1, 0, len(intervals) - 1)
        away = 0.3 * self._rate
        inside = (faint > peaks[i] + away) & (faint < peaks[i + 1] - away)
        fits = self._sizes(faint, qrs) > FAINTEST * np.median(self._sizes(peaks, qrs))
        return np.union1d(peaks, faint[long[i] & inside & fits])

    def _centred(self, peaks: Positions, qrs: Signal) -> Positions:
        """Move each peak to the centre of its complex' energy, the same on either side up."""
        reach = round(0.1 * self._rate)
        offsets = np.arange(-reach, reach + 1)
        energy = qrs[np.clip(peaks[:, None] + offsets, 0, len(qrs) - 1)] ** 2
        shift = (energy * offsets).sum(axis=1) / np.maximum(energy.sum(axis=1), 1e-30)
        return np.unique(peaks + np.rint(shift).astype(np.int64))
