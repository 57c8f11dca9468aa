"""Topics and topic filters, and the device IDs in them."""

import re
from fnmatch import fnmatchcase
from itertools import product, zip_longest

from monitor.errors import Rejected, UsageError

LONGEST_NAME = 256
"""Bytes of the longest device ID that is accepted."""


class Topics:
    """Finds the device in the topic of a message.

    >>> Topics(["ecg/{device}/beats"]).device(b"ecg/bed-7/beats")
    'bed-7'
    """

    def __init__(self, filters: list[str]) -> None:
        """Take filters in which one level is `{device}`; others may be `+`, the last one `#`."""
        self._filters: list[tuple[list[bytes], int]] = []
        for text in filters:
            levels = text.split("/")
            if levels[0] == "$share":
                levels = levels[2:]
            at = levels.index("{device}")
            self._filters.append(([level.encode() for level in levels], at))
        self._only = self._filters[0][1] if len(filters) == 1 else None

    def device(self, topic: bytes) -> str:
        """Return the device in a topic, which must match one of the filters.

        Raises:
            Rejected: the device ID is not valid.
        """
        levels = topic.split(b"/")
        at = self._only
        if at is None:
            at = next((at for own, at in self._filters if _fits(levels, own, at)), None)
        name = levels[at] if at is not None and at < len(levels) else b""
        try:
            text = name.decode()
        except UnicodeDecodeError:
            text = "\0"  # which is not printable
        if not text.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise Rejected("topic", f"{name[:40]!r} is not a valid device ID")
        return text


def _fits(levels: list[bytes], own: list[bytes], at: int) -> bool:
    if own[-1] == b"#":
        own = own[:-1] + levels[len(own) - 1 :]
    return len(levels) == len(own) and all(
        i == at or mine in (b"+", level)
        for i, (mine, level) in enumerate(zip(own, levels, strict=True))
    )


def fits(device: str, pattern: str) -> bool:
    """Return whether a pattern of the settings fits a device: * and ? are its only wildcards.

    >>> fits("bed[7]", "bed[7]"), fits("bed7", "bed[7]"), fits("bed[7]", "bed*")
    (True, False, True)
    """
    return fnmatchcase(device, pattern.replace("[", "[[]"))


DEVICE = "{device}"


def check_filter(topic: str) -> None:
    """Check that this is a topic filter in which one level is `{device}`.

    Raises:
        ValueError: it is not; the text says what is allowed.
    """
    levels = topic.split("/")
    if levels.count(DEVICE) != 1 or topic.count("{") != 1 or topic.count("}") != 1:
        raise ValueError(f"{topic}: one level must be {DEVICE}, as in ecg/{DEVICE}/beats")
    if levels[0] == "$share" and (len(levels) < 3 or not levels[1]):
        raise ValueError(f"{topic}: a shared subscription is $share/GROUP/FILTER")
    if "#" in levels[:-1] or any(len(x) > 1 and set("+#") & set(x) for x in levels):
        raise ValueError(f"{topic}: + and # stand for whole levels, # for the last ones")


def overlap(one: str, other: str) -> bool:
    """Return whether any topic matches both filters (MQTT 5, section 4.7.1).

    >>> overlap("ecg/+/beats", "ecg/bed-7/#")
    True
    >>> overlap("ecg/+/beats", "ecg/+/beats/raw")
    False
    """
    for mine, its in zip_longest(one.split("/"), other.split("/")):
        if "#" in (mine, its):  # stands for the level above it as well
            return True
        if mine is None or its is None or (mine != its and "+" not in (mine, its)):
            return False
    return True


def disjoint(filters: list[str]) -> list[str]:
    """Return filters of which no two match the same topic, and that match all that these do.

    A broker may deliver a message once for each filter that matches. Shared subscriptions stay as
    they are.

    >>> disjoint(["ecg/+/beats", "ward/+/+/beats", "ecg/#"])
    ['ward/+/+/beats', 'ecg/#']
    """
    found: list[str] = []
    for topic in filters:
        shared = topic.startswith("$share/")
        while other := next((x for x in found if not shared and overlap(x, topic)), None):
            found.remove(other)
            topic = _union(other, topic)
        found.append(topic)
    return found


def _union(one: str, other: str) -> str:
    """Return a filter that matches all that two filters match, which overlap."""
    levels: list[str] = []
    for mine, its in zip_longest(one.split("/"), other.split("/")):
        if "#" in (mine, its):
            return "/".join([*levels, "#"])
        levels.append(mine if mine == its else "+")
    return "/".join(levels)


def matcher(filters: list[str]) -> re.Pattern[bytes]:
    """Return what fully matches the topics that any of these filters matches.

    >>> bool(matcher(["ecg/+/beats"]).fullmatch(b"ecg/bed-7/beats"))
    True
    """
    patterns = []
    for topic in filters:
        levels = [
            "[^/]*" if level == "+" else re.escape(level)
            for level in subscription(topic, bare=True).split("/")
        ]
        text = "/".join(levels)
        patterns.append(f"{text[:-3]}(/.*)?" if text.endswith("/\\#") else text)
    return re.compile("|".join(patterns).encode(), re.DOTALL)


def filters_of(topic: str) -> list[str]:
    """Return every filter that matches a topic, shared subscriptions left out.

    >>> filters_of("a/b")
    ['a/b', 'a/+', '+/b', '+/+', 'a/b/#', 'a/+/#', '+/b/#', '+/+/#', 'a/#', '+/#', '#']
    """
    levels = topic.split("/")
    found = ["/".join(each) for each in product(*((level, "+") for level in levels))]
    for end in range(len(levels), -1, -1):
        heads = product(*((level, "+") for level in levels[:end]))
        found += ["/".join([*each, "#"]) for each in heads]
    return found


def subscription(topic: str, bare: bool = False, device: str = "+") -> str:
    """Return the filter for one device or all; with `bare`, without the `$share` prefix.

    >>> subscription("$share/ward/ecg/{device}/beats")
    '$share/ward/ecg/+/beats'
    """
    topic = topic.replace(DEVICE, device)
    return topic.split("/", 2)[2] if bare and topic.startswith("$share/") else topic


def topic_to_publish(topic: str, device: str) -> str:
    """Return the topic on which a device publishes, so that a filter matches it.

    Raises:
        UsageError: no device can have that name, or the filter has wildcards.
    """
    if not device.isprintable() or not device or set("/+#") & set(device):
        raise UsageError(f"device {device!r}: a device ID must not be empty or contain /, + or #")
    published = subscription(topic, bare=True, device=device)
    if set("+#") & set(published):
        raise UsageError(f"topic {topic}: to publish there, {DEVICE} must be its only wildcard")
    return published


def topic_of(output: str, device: str, end: str) -> str:
    """Return the topic for a device's alerts, alarm or scores."""
    return f"{output.replace(DEVICE, device)}/{end}"
