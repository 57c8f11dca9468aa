"""The burden of alarms on the people who answer them, after ANSI/ISA-18.2 and IEC 62682. Pure.

One monitor is one operator position: everybody who answers its alarms hears all of them. Where
people share the devices, each share is measured by itself.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from monitor.alarms.messages import Kind, Priority
from monitor.times import rfc3339

INTERVAL: Final = 600.0
"""Seconds over which announced alarms are counted: the ten minutes of ISA-18.2, clause 16."""

FLOOD_ABOVE, FLOOD_BELOW = 10, 5
"""A flood begins with more alarms in ten minutes, and ends with fewer (ISA-18.2, clause 16)."""

CHATTER: Final = (3, 60.0)
"""So many times in so many seconds is an alarm raised that chatters (ISA-TR18.2.5)."""

STALE: Final = 86_400.0
"""Seconds beyond which an alarm that is still active is stale: 24 h (ISA-18.2, clause 16)."""

WORST: Final = 10
"""Devices whose share is told, as ISA-18.2 tells that of the ten most frequent alarms."""


class Episode(NamedTuple):
    """An alarm as people met it; times in seconds since 1970.

    Attributes:
        raised: when it was raised, even if nobody was alerted.
        announced: when an alert was published, and with which priority: of its raising, and again
            of its escalation. Empty if the device was shelved all the time.
        cleared: None while it is active.
        acknowledged: whenever somebody acknowledged it, in order.
        verdict: whether people judged it true; None if nobody has.
    """

    device: str
    kind: Kind
    raised: float
    announced: Sequence[tuple[float, Priority]]
    cleared: float | None = None
    acknowledged: Sequence[float] = ()
    verdict: bool | None = None


class DeviceShare(msgspec.Struct, frozen=True):
    """How many alarms a device announced, and which share of all; also of several devices."""

    device: str
    alarms: int
    share: float


class Burden(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a period; shares are 0 to 1, durations in seconds, None where there is nothing.

    Attributes:
        since, until: the period; RFC 3339.
        alarms: alarms announced. One that escalates is announced twice, as it has to be
            acknowledged again.
        withheld: alarms that were raised, but never announced.
        per_ten_minutes: alarms announced in ten minutes, on average.
        most_in_ten_minutes: in any ten minutes.
        floods: how many there were.
        flood_share: of the period, the share in flood.
        priorities: of the alarms announced, the share of each priority.
        chattering: alarms that were raised as one of three or more in a minute, of one device and
            kind; `chattering_share` of all that were raised.
        stale: alarms that were active for more than 24 h; `stale_active` still are.
        worst: the ten devices with the most alarms, and `worst_share`, that of all ten.
        unacknowledged_share: of the alarms announced, those that nobody acknowledged.
        acknowledged_median, acknowledged_90: seconds within which half and nine tenths of the
            acknowledgements came.
        judged: alarms that people judged, and `false_share`, the share that they called false.
    """

    since: str
    until: str
    alarms: int
    withheld: int
    per_ten_minutes: float
    most_in_ten_minutes: int
    floods: int
    flood_share: float
    priorities: dict[Priority, float]
    chattering: int
    chattering_share: float | None
    stale: int
    stale_active: int
    worst: list[DeviceShare]
    worst_share: float | None
    unacknowledged_share: float | None
    acknowledged_median: float | None
    acknowledged_90: float | None
    judged: int
    false_share: float | None

    @property
    def empty(self) -> bool:
        """Whether nobody was alerted, nothing was withheld, and nothing is stale."""
        return not (self.alarms or self.withheld or self.stale)


class _Announcement(NamedTuple):
    """An alert that people heard.

    Attributes:
        wait: seconds until it was acknowledged; None if it was not.
        again: whether the alarm had been announced before.
    """

    episode: Episode
    time: float
    priority: Priority
    wait: float | None
    again: bool


def measure(episodes: Iterable[Episode], since: float, until: float) -> Burden:
    """Return the burden of a period.

    What was announced before it or after it does not count, and an alarm that was announced before
    counts only as one that is stale. A judgement counts with the alarm that was announced in it.

    Args:
        episodes: in any order.
        since, until: the period, in seconds since 1970.
    """
    every = list(episodes)
    heard = [
        each for episode in every for each in _announcements(episode) if since <= each.time <= until
    ]
    stale = [each for each in every if each.announced and _is_stale(each, since, until)]
    judged = [
        each.verdict
        for each in every
        if each.verdict is not None and any(since <= time <= until for time, _ in each.announced)
    ]
    raised: dict[tuple[str, Kind], list[float]] = {}
    for each in heard:
        if not each.again:
            source = each.episode.device, each.episode.kind
            raised.setdefault(source, []).append(each.time)
    chattering = sum(_chattering(sorted(times)) for times in raised.values())
    most, floods = _floods(sorted(each.time for each in heard), until)
    priorities = Counter(each.priority for each in heard)
    devices = Counter(each.episode.device for each in heard)
    worst = [
        DeviceShare(device, alarms, alarms / len(heard))
        for device, alarms in devices.most_common(WORST)
    ]
    answered = sorted(each.wait for each in heard if each.wait is not None)
    return Burden(
        since=rfc3339(since),
        until=rfc3339(until),
        alarms=len(heard),
        withheld=sum(not each.announced and since <= each.raised <= until for each in every),
        # Of a period shorter than ten minutes nothing is extrapolated.
        per_ten_minutes=len(heard) / max((until - since) / INTERVAL, 1.0),
        most_in_ten_minutes=most,
        floods=len(floods),
        flood_share=sum(end - begin for begin, end in floods) / max(until - since, 1.0),
        priorities={
            priority: priorities[priority] / max(len(heard), 1)
            for priority in ("low", "medium", "high")
        },
        chattering=chattering,
        chattering_share=_share(chattering, sum(len(times) for times in raised.values())),
        stale=len(stale),
        stale_active=sum(each.cleared is None or each.cleared >= until for each in stale),
        worst=worst,
        worst_share=_share(sum(each.alarms for each in worst), len(heard)),
        unacknowledged_share=_share(len(heard) - len(answered), len(heard)),
        acknowledged_median=_quantile(answered, 0.5),
        acknowledged_90=_quantile(answered, 0.9),
        judged=len(judged),
        false_share=_share(judged.count(False), len(judged)),
    )


def lines(measured: Burden) -> list[tuple[str, str, str]]:
    """Return each figure's name, its value, and what ISA-18.2 calls acceptable, else "".

    The limits are those of ANSI/ISA-18.2-2009 and IEC 62682, clause 16, for one operator position.
    """
    shares = measured.priorities
    mix = " / ".join(f"{100 * shares[name]:.0f}" for name in ("low", "medium", "high"))
    return [
        ("alarms", f"{measured.alarms}", ""),
        ("withheld by shelving", f"{measured.withheld}", ""),
        ("alarms in ten minutes", f"{measured.per_ten_minutes:.2f}", "1, at most 2"),
        ("most in any ten minutes", f"{measured.most_in_ten_minutes}", "10"),
        ("floods", f"{measured.floods}", ""),
        ("time in flood", _percent(measured.flood_share), "under 1 %"),
        ("low / medium / high, %", mix, "80 / 15 / 5"),
        ("chattering", _with_share(measured.chattering, measured.chattering_share), "0"),
        ("stale", f"{measured.stale}, {measured.stale_active} active", "under 5"),
        ("acknowledged within, median", _seconds(measured.acknowledged_median), ""),
        ("acknowledged within, 90 %", _seconds(measured.acknowledged_90), ""),
        ("never acknowledged", _percent(measured.unacknowledged_share), ""),
        ("judged false", _of(measured.false_share, measured.judged), ""),
    ]


def worst_lines(measured: Burden) -> list[tuple[str, str, str]]:
    """Return the share of the ten worst devices and that of each, in the columns of `lines`."""
    worst = [
        (f"  {each.device}", _with_share(each.alarms, each.share), "") for each in measured.worst
    ]
    return [("the ten worst devices", _percent(measured.worst_share), ""), *worst]


def _announcements(episode: Episode) -> Iterator[_Announcement]:
    """Yield the alerts of an alarm, each with how long it waited for its acknowledgement.

    An acknowledgement belongs to the last alert before it. One before the first is from a device
    whose clock is ahead, and counts as at once.
    """
    for i, (time, priority) in enumerate(episode.announced):
        begin = time if i else -math.inf
        end = episode.announced[i + 1][0] if i + 1 < len(episode.announced) else math.inf
        waits = (max(at - time, 0.0) for at in episode.acknowledged if begin <= at < end)
        yield _Announcement(episode, time, priority, next(waits, None), again=i > 0)


def _is_stale(episode: Episode, since: float, until: float) -> bool:
    """Return whether an announced alarm was active in the period, and for too long."""
    end = until if episode.cleared is None else episode.cleared
    return end >= since and min(end, until) - episode.announced[0][0] > STALE


def _floods(times: list[float], until: float) -> tuple[int, list[tuple[float, float]]]:
    """Return the most alarms in any ten minutes, and begin and end of each flood.

    The ten minutes are those before any moment, so that it does not matter where intervals on a
    grid would begin.

    Args:
        times: of alarms, sorted.
        until: when a flood that goes on is cut off.
    """
    # An alarm leaves the ten minutes before another enters them in the same moment.
    changes = sorted([(time, 1) for time in times] + [(time + INTERVAL, -1) for time in times])
    count = most = 0
    begun: float | None = None
    floods = []
    for time, change in changes:
        if time > until:
            break
        count += change
        most = max(most, count)
        if begun is None and count > FLOOD_ABOVE:
            begun = time
        elif begun is not None and count < FLOOD_BELOW:
            floods.append((begun, time))
            begun = None
    return most, floods if begun is None else [*floods, (begun, until)]


def _chattering(times: list[float]) -> int:
    """Return how many of an alarm's sorted times are among three or more in a minute."""
    number, within = CHATTER
    members: set[int] = set()
    for i in range(len(times) - number + 1):
        if times[i + number - 1] - times[i] <= within:
            members.update(range(i, i + number))
    return len(members)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _quantile(values: list[float], share: float) -> float | None:
    """Return the least of the sorted values that so large a share does not exceed."""
    return values[math.ceil(share * len(values)) - 1] if values else None


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _with_share(count: int, share: float | None) -> str:
    return f"{count}" if share is None else f"{count}, {_percent(share)}"


def _of(share: float | None, whole: int) -> str:
    return "–" if share is None else f"{_percent(share)} of {whole}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
