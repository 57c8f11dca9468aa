"""What is still to be published, and which messages wait for it. No network in here.

Publications whose topics differ in the last level only, such as a device's alerts and its retained
alarm, form a lane; one that is apart has a lane of its own. Three rules hold whatever the broker
accepts, refuses or loses:

- Within a lane, alerts go out one after the other, the next when the broker has accepted the last:
  an alarm is never cleared before it was raised.
- A retained state goes out when its lane has no alert left: whoever finds an alarm retained can
  rely on its alert, also after a crash, when the beats of a retained alarm are not decided again.
- Of the states for a topic only the newest is kept, and one is under way at a time: a state that
  was refused, or lost with the connection, never follows a newer one.

A refusal holds up its own lane alone. Alerts of all lanes come before states of all lanes.
"""

from collections import deque
from typing import Protocol


class Waiting(Protocol):
    """A message or request in hand; `waiting` counts the publications that it waits for."""

    waiting: int
    arrived: float


class Publication:
    """Something to be published at QoS 1.

    Attributes:
        retain: whether it is a state, of which the newest replaces what came before.
        causes: the messages that wait for it.
        timed: whether to measure the time from the arrival of the cause to the acknowledgement.
        losses: how many connections were lost while it was under way.
        refusals: how often the broker refused it for what may have been its size.
        lane: what is published one after the other.
    """

    __slots__ = ("causes", "lane", "losses", "payload", "refusals", "retain", "timed", "topic")

    def __init__(
        self,
        topic: str,
        payload: bytes,
        retain: bool = False,
        cause: Waiting | None = None,
        timed: bool = False,
        apart: bool = False,
    ) -> None:
        self.topic = topic
        self.lane = topic if apart else topic.rpartition("/")[0]
        self.payload = payload
        self.retain = retain
        self.causes: list[Waiting] = [] if cause is None else [cause]
        self.timed = timed
        self.losses = self.refusals = 0
        if cause is not None:
            cause.waiting += 1


class _Lane:
    """The publications of one lane: `alerts` and `states` are queued, the others under way."""

    __slots__ = ("alert_under_way", "alerts", "refused", "state_under_way", "states")

    def __init__(self) -> None:
        self.alerts: deque[Publication] = deque()
        self.states: dict[str, Publication] = {}
        self.alert_under_way = self.state_under_way = False
        self.refused = False

    @property
    def alert_is_next(self) -> bool:
        return bool(self.alerts) and not self.alert_under_way and not self.refused

    @property
    def state_is_next(self) -> bool:
        alerted = not self.alerts and not self.alert_under_way
        return bool(self.states) and alerted and not self.state_under_way and not self.refused

    @property
    def empty(self) -> bool:
        under_way = self.alert_under_way or self.state_under_way
        return not (self.alerts or self.states or under_way)


class Outbox:
    """Publications that the broker has not acknowledged: queued, under way, or refused.

    Attributes:
        size: bytes of their payloads.
    """

    def __init__(self) -> None:
        self.size = 0
        self._queued = 0
        self._lanes: dict[str, _Lane] = {}
        # Lanes whose next publication is an alert or a state: dicts, for their order and speed.
        self._with_alert: dict[str, None] = {}
        self._with_state: dict[str, None] = {}
        self._refused: set[str] = set()
        self._under_way: dict[int, Publication] = {}

    def __len__(self) -> int:
        return self._queued + len(self._under_way)

    @property
    def under_way(self) -> int:
        """How many the broker has not answered."""
        return len(self._under_way)

    @property
    def refused(self) -> int:
        """How many lanes wait for `retry`, for the broker has refused a publication of theirs."""
        return len(self._refused)

    def add(self, publication: Publication) -> None:
        """Queue a publication; a state takes the place of an older one that is queued."""
        lane = self._lanes.setdefault(publication.lane, _Lane())
        if publication.retain:
            older = lane.states.pop(publication.topic, None)
            if older is not None:
                publication.causes += older.causes
                self._queued -= 1
                self.size -= len(older.payload)
            lane.states[publication.topic] = publication
        else:
            lane.alerts.append(publication)
        self._queued += 1
        self.size += len(publication.payload)
        self._schedule(publication.lane)

    def withdraw(self, topic: str) -> None:
        """Drop the state for a topic that is queued, if there is one: it is another's now."""
        name = topic.rpartition("/")[0]
        state = self._lanes[name].states.pop(topic, None) if name in self._lanes else None
        if state is not None:
            self._queued -= 1
            self.size -= len(state.payload)
            for cause in state.causes:
                cause.waiting -= 1
            self._schedule(name)

    def take(self, held_except: str | None = None) -> Publication | None:
        """Return the next one to hand to the broker, None where all wait for its answers.

        It must go to `hand_over` or `put_back` before anything else is done. Where `held_except`
        is given, states of this lane alone are taken.
        """
        name = next(iter(self._with_alert), None)
        if name is not None:
            lane = self._lanes[name]
            lane.alert_under_way = True
            publication = lane.alerts.popleft()
        else:
            if held_except is None:
                name = next(iter(self._with_state), None)
            elif held_except in self._with_state:
                name = held_except
            if name is None:
                return None
            lane = self._lanes[name]
            lane.state_under_way = True
            publication = lane.states.pop(next(iter(lane.states)))
        self._queued -= 1
        self._schedule(name)
        return publication

    def hand_over(self, publication: Publication, mid: int) -> None:
        """Note that the broker gets a publication under this packet identifier."""
        self._under_way[mid] = publication

    def acknowledge(self, mid: int) -> Publication | None:
        """Note that the broker has accepted a publication: no message waits for it any more."""
        publication = self._under_way.pop(mid, None)
        if publication is not None:
            self.size -= len(publication.payload)
            for cause in publication.causes:
                cause.waiting -= 1
            lane = self._lanes[publication.lane]
            self._land(lane, publication)
            self._schedule(publication.lane)
        return publication

    def refuse(self, mid: int) -> Publication | None:
        """Note that the broker has refused a publication; its lane waits for `retry`."""
        publication = self._under_way.pop(mid, None)
        if publication is not None:
            self._refused.add(publication.lane)
            self._lanes[publication.lane].refused = True
            self.put_back(publication)
        return publication

    def retry(self) -> None:
        """Let go on what was refused."""
        refused, self._refused = self._refused, set()
        for name in refused:
            self._lanes[name].refused = False
            self._schedule(name)

    def lose(self) -> None:
        """Queue again what was under way: the connection is gone, and with it the answers."""
        under_way, self._under_way = list(self._under_way.values()), {}
        for publication in under_way:
            publication.losses += 1
            self.put_back(publication)

    def put_back(self, publication: Publication) -> None:
        """Queue one again, where it was, that was taken and not accepted."""
        lane = self._lanes[publication.lane]
        self._land(lane, publication)
        newer = lane.states.get(publication.topic) if publication.retain else None
        if newer is not None:
            newer.causes += publication.causes
            self.size -= len(publication.payload)
        elif publication.retain:
            lane.states[publication.topic] = publication
            self._queued += 1
        else:
            lane.alerts.appendleft(publication)
            self._queued += 1
        self._schedule(publication.lane)

    def _land(self, lane: _Lane, publication: Publication) -> None:
        """Note that a publication is not under way any more."""
        if publication.retain:
            lane.state_under_way = False
        else:
            lane.alert_under_way = False

    def _schedule(self, name: str) -> None:
        """Put a lane where `take` finds it, or forget it if nothing is left in it."""
        lane = self._lanes[name]
        for lanes, is_next in (
            (self._with_alert, lane.alert_is_next),
            (self._with_state, lane.state_is_next),
        ):
            if is_next:
                lanes.setdefault(name)
            else:
                lanes.pop(name, None)
        if lane.empty:
            del self._lanes[name]
            self._refused.discard(name)
