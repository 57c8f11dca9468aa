"""Find R peaks in several seconds of ECG, at any sampling rate and with either polarity.

sleepecg (https://doi.org/10.21105/joss.05411, after Pan and Tompkins,
https://doi.org/10.1109/TBME.1985.325532) looks for upright peaks. Here it is run on the signal with
both polarities and, in long gaps, once more with limited amplitude, which brings out wide and low
ventricular beats. T waves are dropped by their slope, as Pan and Tompkins do. One of two close
peaks is dropped, unless the heart is so fast that both are QRS complexes.
"""

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.errors import Failure

REFRACTORY: Final = 0.2
"""Shortest interval between two QRS complexes, in seconds: 300 beats a minute."""

CLOSE: Final = 0.25
"""Seconds; of two peaks closer than this the smaller one is dropped, unless the heart is that fast.

P waves precede a QRS complex (MIT-BIH record 108) as closely as the complexes of a heart at 250 a
minute (svdb 848) follow each other.
"""

FAST, STEEP = 0.8, 0.6
"""Between peaks at most so many seconds apart, a peak with this share of the usual slope is a QRS
complex."""

GAP = 1.35  # RR intervals; in longer gaps, the limited signal is searched
FAINTEST = 0.3  # of the usual size of a QRS complex; a T wave in a pause is smaller
SMALLEST = 0.2  # of the same; after a flat stretch the finder accepts anything

USUAL: Final = 0.75
"""Quantile of the peaks' sizes that is the usual size of a QRS complex.

It is not the median because slow beats may have more P and T waves than beats among the peaks.
"""

SLOPES: Final = ((0.36, 0.33), (0.5, 0.2))
"""A peak within so many seconds after another, with less than this share of its slope, is a T wave.

Pan and Tompkins use half the slope within 0.36 s. On DS1 that drops ventricular beats, which are
flat, too, and a third drops as many T waves. T waves of slow hearts come later.
"""

STILL: Final = 1.0
"""Seconds without any change after which a lead is off.

Between the beats of a heart at 40 a minute a coarse converter is unchanged for less than that.
"""

SHORTEST: Final = 2.0
"""Shortest signal that is searched for R peaks, in seconds."""

_FIVE_POINTS = np.array([-1, -2, 0, 2, 1])
"""The derivative of Pan and Tompkins."""

Signal = NDArray[np.float64]
Positions = NDArray[np.int64]


class Band:
    """A Butterworth filter run forwards and backwards, so that it causes no delay.

    It returns what SciPy's `sosfiltfilt` does, but computes its initial state only once.
    """

    EDGE = 15  # samples by which the signal is extended on either side

    def __init__(self, rate: float, low: float, high: float) -> None:
        """Pass `low` to `high` Hz, as far as the sampling rate `rate` allows."""
        from scipy.signal import butter, sosfilt_zi

        band = (low, min(high, 0.45 * rate))
        self._sections = butter(2, band, "bandpass", fs=rate, output="sos")
        self._state = sosfilt_zi(self._sections)

    def __call__(self, signal: Signal) -> Signal:
        """Return the filtered signal, [n]; it must have more than `EDGE` samples."""
        edge = self.EDGE
        before = 2 * signal[0] - signal[edge:0:-1]
        after = 2 * signal[-1] - signal[-2 : -edge - 2 : -1]
        there = self._run(np.concatenate([before, signal, after]))
        return self._run(there[::-1])[::-1][edge:-edge]

    def _run(self, signal: Signal) -> Signal:
        from scipy.signal import sosfilt

        filtered: Signal = sosfilt(self._sections, signal, zi=self._state * signal[0])[0]
        return filtered


def still(signal: Signal, rate: float) -> tuple[Positions, Positions]:
    """Return where each stretch of at least `STILL` seconds without change begins and ends: [M]."""
    some = signal[:: int(STILL * rate / 2)]
    if not (some[1:] == some[:-1]).any():  # a still stretch has at least two of them
        return np.empty(0, np.int64), np.empty(0, np.int64)
    begins = np.flatnonzero(np.diff(signal, prepend=np.nan) != 0)
    ends = np.append(begins[1:], len(signal))
    long = ends - begins >= STILL * rate
    return begins[long], ends[long]


def alive(signal: Signal, rate: float) -> list[slice]:
    """Return the parts of a signal between still stretches that are at least `SHORTEST` long."""
    begins, ends = still(signal, rate)
    parts = zip([0, *ends.tolist()], [*begins.tolist(), len(signal)], strict=True)
    return [slice(first, last) for first, last in parts if last - first >= SHORTEST * rate]


class Finder:
    """Finds the R peaks of signals of one sampling rate."""

    def __init__(self, rate: float) -> None:
        """Prepare for a sampling rate in Hz.

        Raises:
            Failure: SciPy or sleepecg is not installed.
        """
        try:
            # What `detect_heartbeats` calls once it has filtered the signal: the filter is the most
            # of its work, and need not run once for each polarity. A test holds both together.
            from sleepecg._heartbeat_detection import _squared_moving_integration, _thresholding
        except ModuleNotFoundError as missing:
            raise Failure(
                f"a raw ECG needs {missing.name}: pip install 'ecg-monitor[segment]'"
            ) from None
        self._rate = rate
        self._integrated, self._threshold = _squared_moving_integration, _thresholding
        self._qrs, self._wide = (Band(rate, low, 25) for low in (3, 2))
        self._pan_tompkins = Band(rate, 5, 30)

    def peaks(self, signal: Signal) -> Positions:
        """Return the sample numbers of the R peaks in a signal, [n], in ascending order.

        The parts between still stretches are searched separately: the finder learns from the first
        two seconds what a beat is, and accepts anything if they are flat.
        """
        found = [self._within(signal[part]) + part.start for part in alive(signal, self._rate)]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _within(self, signal: Signal) -> Positions:
        qrs = self._qrs(signal)
        clear = self._apart(self._both_ways_up(qrs), qrs)
        found = self._apart(self._filled(clear, signal, qrs), qrs)
        return self._complexes(self._apart(self._centred(found, qrs), qrs), qrs)

    def _both_ways_up(self, signal: Signal) -> Positions:
        """Return the peaks that `sleepecg.detect_heartbeats` finds, whichever way is up."""
        start = int(np.argmax(signal != signal[0])) if signal[1] == signal[0] else 0
        filtered = np.ascontiguousarray(self._pan_tompkins(signal[start:]))
        slope = np.correlate(filtered, _FIVE_POINTS, mode="same")
        energy = self._integrated(slope, int(0.15 * self._rate))  # the same for either polarity
        found = self._threshold(filtered, energy, self._rate)
        found = np.logical_or(found, self._threshold(-filtered, energy, self._rate))
        return np.flatnonzero(found) + start

    def _limited(self, signal: Signal) -> Signal:
        """Return the signal with all peaks within 2 s brought to a similar height."""
        from scipy.ndimage import maximum_filter1d, uniform_filter1d

        length = round(2 * self._rate)
        height = uniform_filter1d(maximum_filter1d(np.abs(signal), length), length)
        limited: Signal = np.tanh(signal / (0.2 * height + 1e-9 + 1e-6 * np.ptp(signal)))
        return limited

    def _apart(self, peaks: Positions, qrs: Signal) -> Positions:
        """Return the peaks without those too close to a larger one."""
        if len(peaks) < 2 or np.min(peaks[1:] - peaks[:-1]) >= CLOSE * self._rate:
            return peaks.astype(np.int64)
        close = np.abs(peaks[:, None] - peaks) < CLOSE * self._rate
        free = np.ones(len(peaks), bool)
        kept: list[int] = []
        for i in np.argsort(-self._sizes(peaks, qrs), kind="stable").tolist():
            if free[i]:
                kept.append(i)
                free[close[i]] = False
        kept.sort()
        return peaks[self._fast(peaks, qrs, kept)].astype(np.int64)

    def _fast(self, peaks: Positions, qrs: Signal, kept: list[int]) -> list[int]:
        """Return the kept peaks, [N], and those between them that belong to a fast heart."""
        if not kept:
            return kept
        slopes = self._slopes(peaks, qrs)
        steep = STEEP * float(np.median(slopes[kept]))
        at, slope = peaks.tolist(), slopes.tolist()
        all_of = list(kept)
        for before, after in pairwise(kept):
            if at[after] - at[before] > FAST * self._rate:
                continue
            there = [before, after]
            for i in sorted(range(before + 1, after), key=lambda i: -slope[i]):
                nearest = min(abs(at[each] - at[i]) for each in there)
                if slope[i] > steep and nearest >= REFRACTORY * self._rate:
                    there.append(i)
            all_of += there[2:]
        return sorted(all_of)

    def _near(self, peaks: Positions, signal: Signal) -> Signal:
        """Return the signal within 50 ms of each peak: [N, samples]."""
        reach = round(0.05 * self._rate)
        places = peaks[:, None] + np.arange(-reach, reach + 1)
        return signal.take(places, mode="clip")

    def _sizes(self, peaks: Positions, qrs: Signal) -> Signal:
        """Return the span of the signal around each peak: [N]."""
        spans: Signal = np.ptp(self._near(peaks, qrs), axis=1)
        return spans

    def _slopes(self, peaks: Positions, qrs: Signal) -> Signal:
        """Return the steepest slope around each peak: [N]."""
        slopes: Signal = np.abs(np.diff(self._near(peaks, qrs), axis=1)).max(axis=1)
        return slopes

    def _filled(self, peaks: Positions, signal: Signal, qrs: Signal) -> Positions:
        """Return the peaks, and those of the limited signal in long gaps between them."""
        intervals = np.diff(peaks)
        usual = float(np.median(intervals)) if len(intervals) else 0.0
        long = intervals > min(GAP * usual, 1.6 * self._rate)
        if len(intervals) and not long.any():
            return peaks
        faint = self._both_ways_up(self._limited(self._wide(signal)))
        if not len(intervals):
            return np.union1d(peaks, faint)
        i = np.clip(np.searchsorted(peaks, faint, "right") - 1, 0, len(intervals) - 1)
        away = 0.3 * self._rate
        inside = (faint > peaks[i] + away) & (faint < peaks[i + 1] - away)
        usual_size = np.quantile(self._sizes(peaks, qrs), USUAL)
        fits = self._sizes(faint, qrs) > FAINTEST * usual_size
        return np.union1d(peaks, faint[long[i] & inside & fits])

    def _complexes(self, peaks: Positions, qrs: Signal) -> Positions:
        """Return the peaks without those too small for a QRS complex, and without T waves."""
        if not len(peaks):
            return peaks
        size = self._sizes(peaks, qrs)
        peaks = peaks[size > SMALLEST * np.quantile(size, USUAL)]
        at, slope = peaks.tolist(), self._slopes(peaks, qrs).tolist()
        kept: list[int] = []
        for i, peak in enumerate(at):
            since = (peak - at[kept[-1]]) / self._rate if kept else np.inf
            if all(since >= within or slope[i] >= share * slope[kept[-1]]
                   for within, share in SLOPES):  # fmt: skip
                kept.append(i)
        return peaks[kept]

    def _centred(self, peaks: Positions, qrs: Signal) -> Positions:
        """Move each peak to the centre of its energy, which does not depend on polarity."""
        reach = round(0.1 * self._rate)
        offsets = np.arange(-reach, reach + 1)
        energy = qrs.take(peaks[:, None] + offsets, mode="clip") ** 2
        shift = (energy * offsets).sum(axis=1) / np.maximum(energy.sum(axis=1), 1e-30)
        return np.unique(peaks + np.rint(shift).astype(np.int64))
