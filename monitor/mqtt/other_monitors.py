"""What other monitors make known of their devices, where several publish on one tree.

Whoever is alone, as usual, hears nothing but statuses. When another monitor says that it is online,
all retained alarms are asked for, and whatever changes from then on; nothing is missed by asking
late, for what is retained comes first.
"""

from typing import NamedTuple

from paho.mqtt.client import Client

from monitor.alarms.messages import RetainedAlarm, encode
from monitor.mqtt.client import qos_of_states
from monitor.mqtt.retained import read_alarm
from monitor.topics import DEVICE, topic_of

NO_MONITORS = ("-segment", "-learn", "-standby")
"""How the names end of programs that publish a status and watch no device."""


RETRY_DELAY = 5.0
"""Seconds after which a subscription that was refused is tried again: NATS refuses them while its
nodes elect a leader."""


CATCH_UP, CATCH_UP_WITHIN = 0.5, 15.0
"""Seconds after the broker has granted the subscription within which what is retained has come, and
those since we were connected after which it is not waited for: as in `retained`."""


class MadeKnown(NamedTuple):
    """The alarm of a device as another monitor has published it.

    Attributes:
        alarm: None if it was removed.
        earlier: whether it was retained when we asked, so that a newer one may have come before.
    """

    device: str
    alarm: RetainedAlarm | None
    earlier: bool


class OtherMonitors:
    """Hears of the others, over a client whose owner passes on what arrives.

    Attributes:
        present: whether there was ever one, since the start.
    """

    def __init__(self, output: str, program: str) -> None:
        """`output` is the setting `output.topic`, `program` our own client id."""
        self.present = False
        self._output, self._program = output, program
        self._own = b'"monitor":' + encode(program) + b"}"
        prefix, _, suffix = topic_of(output, DEVICE, "alarm").partition(DEVICE)
        self._prefix, self._suffix = prefix.encode(), suffix.encode()
        self._heard: list[MadeKnown] = []
        self._client: Client | None = None
        self._listening = False
        self._subscription, self._retry_at = 0, 0.0
        self._granted_at: float | None = None

    def begin(self, client: Client) -> None:
        """Begin over a connection that was just accepted."""
        self._client, self._listening, self._granted_at = client, False, None
        client.subscribe("ecg-monitor/+/status", 0)  # retained, and cheaper than at 1 (`standby`)

    def lose(self) -> None:
        """The connection is lost."""
        self._client, self._listening = None, False

    def listen(self, now: float) -> None:
        """Ask for the alarms, if there are others; called once those from before are read."""
        client = self._client
        if self.present and not self._listening and client is not None and now >= self._retry_at:
            self._listening = True
            topic = topic_of(self._output, "+", "alarm")
            self._subscription = client.subscribe(topic, qos_of_states(client))[1] or 0

    def on_subscribed(self, mid: int, refused: bool, now: float) -> None:
        """The broker has answered a subscription; if ours was refused, it is tried again."""
        if not self._listening or mid != self._subscription:
            return
        if refused:
            self._listening, self._retry_at = False, now + RETRY_DELAY
        else:
            self._granted_at = now

    def behind(self, now: float, connected: float) -> bool:
        """Return whether what others retained while we were away may still be unread.

        A device may be theirs since then, whose alarm an older one of ours must not replace.

        Args:
            now: the time.
            connected: since when we have been connected.
        """
        if not self.present or now - connected > CATCH_UP_WITHIN:
            return False
        return self._granted_at is None or now - self._granted_at < CATCH_UP

    def take(self, topic: bytes, payload: bytes, retain: bool) -> bool:
        """Take in a message; return False if it says nothing of the others."""
        if topic.startswith(b"ecg-monitor/") and topic.endswith(b"/status"):
            name = topic.split(b"/")[1].decode(errors="replace")
            other = name != self._program and not name.endswith(NO_MONITORS)
            self.present |= other and payload == b"online"
            return not name.endswith("-learn")  # others here wait for those of learners
        if not self._listening or not topic.endswith(self._suffix):
            return False
        if not payload.endswith(self._own):
            name = topic.decode(errors="replace")
            alarm = read_alarm(self._output, name, payload) if payload else None
            if alarm is not None or not payload:
                device = name[len(self._prefix) : len(name) - len(self._suffix)]
                self._heard.append(MadeKnown(device, alarm, retain))
        return True

    def take_alarms(self) -> list[MadeKnown]:
        """Return what was made known since the last call, in order."""
        heard, self._heard = self._heard, []
        return heard
