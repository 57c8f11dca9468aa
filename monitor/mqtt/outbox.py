"""What is still to be published, and which messages wait for it. No network in here.

Alerts come first and in their order. A device's alarm as it stands comes after them, and of several
that wait for the same topic only the newest is published: so however much happens at once, there is
no more to be said than one alarm for each device and the alerts themselves.
"""

from collections import deque
from typing import Protocol


class Waiting(Protocol):
    """A message in hand; `waiting` counts the publishes that it waits for."""

    waiting: int
    arrived: float


class Publication:
    """Something to be published at QoS 1.

    Attributes:
        retain: whether it is a state, of which the newest replaces what came before.
        causes: the messages that wait for it.
        timed: whether people look at how long it took from its cause to its acknowledgement.
    """

    __slots__ = ("causes", "payload", "retain", "timed", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        retain: bool = False,
        cause: Waiting | None = None,
        timed: bool = False,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.retain = retain
        self.causes: list[Waiting] = [] if cause is None else [cause]
        self.timed = timed
        if cause is not None:
            cause.waiting += 1


class Outbox:
    """Publishes that the broker has not acknowledged: queued, under way, or refused."""

    def __init__(self) -> None:
        self._alerts: deque[Publication] = deque()
        self._states: dict[str, Publication] = {}
        self._under_way: dict[int, Publication] = {}
        self._refused: list[Publication] = []

    def __len__(self) -> int:
        return self.queued + len(self._under_way) + len(self._refused)

    @property
    def queued(self) -> int:
        """How many were not handed to the broker yet."""
        return len(self._alerts) + len(self._states)

    @property
    def under_way(self) -> int:
        """How many the broker has not answered."""
        return len(self._under_way)

    @property
    def refused(self) -> int:
        """How many the broker refused, and `retry` has not queued again."""
        return len(self._refused)

    def add(self, publication: Publication) -> None:
        """Queue a publication; a state takes the place of an older one."""
        if not publication.retain:
            self._alerts.append(publication)
            return
        topic = publication.topic
        older = [p for p in self._refused if p.retain and p.topic == topic]
        if topic in self._states:
            older.append(self._states.pop(topic))
        for one in older:
            publication.causes += one.causes
        self._refused = [p for p in self._refused if p not in older]
        self._states[topic] = publication

    def take(self) -> Publication | None:
        """The next one to hand to the broker."""
        if self._alerts:
            return self._alerts.popleft()
        if self._states:
            return self._states.pop(next(iter(self._states)))
        return None

    def handed_over(self, publication: Publication, mid: int) -> None:
        """The broker has it under this packet identifier."""
        self._under_way[mid] = publication

    def acknowledge(self, mid: int) -> Publication | None:
        """The broker has taken it: nobody waits for it any more."""
        publication = self._under_way.pop(mid, None)
        if publication is not None:
            for cause in publication.causes:
                cause.waiting -= 1
        return publication

    def refuse(self, mid: int) -> Publication | None:
        """The broker will not have it now."""
        publication = self._under_way.pop(mid, None)
        if publication is not None:
            self._refused.append(publication)
        return publication

    def retry(self) -> None:
        """Queue again what was refused."""
        refused, self._refused = self._refused, []
        self._put_back(refused)

    def lose(self) -> None:
        """The connection is gone, and nobody knows what the broker made of what was under way."""
        under_way, self._under_way = list(self._under_way.values()), {}
        self._put_back(under_way)

    def put_back(self, publication: Publication) -> None:
        """Queue one again that could not be handed over."""
        self._put_back([publication])

    def _put_back(self, publications: list[Publication]) -> None:
        for publication in reversed(publications):
            newer = self._states.get(publication.topic) if publication.retain else None
            if newer is not None:
                newer.causes += publication.causes
            elif publication.retain:
                self._states[publication.topic] = publication
            else:
                self._alerts.appendleft(publication)
