"""What other monitors make known of their devices, where several publish on one tree.

Whoever is alone, as usual, hears nothing but statuses. When another monitor says that it is online,
all retained alarms are asked for, and whatever changes from then on; nothing is missed by asking
late, for what is retained comes first.
"""

from typing import NamedTuple

from paho.mqtt.client import Client

from monitor.alarms.messages import RetainedAlarm, encode
from monitor.mqtt.retained import read_alarm
from monitor.topics import DEVICE, topic_of

NO_MONITORS = ("-segment", "-learn", "-standby")
"""How the names end of programs that publish a status and watch no device."""


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

    def begin(self, client: Client) -> None:
        """Begin over a connection that was just accepted."""
        self._client, self._listening = client, False
        client.subscribe("ecg-monitor/+/status", 0)  # retained, and cheaper than at 1 (`standby`)

    def lose(self) -> None:
        """The connection is lost."""
        self._client, self._listening = None, False

    def listen(self) -> None:
        """Ask for the alarms, if there are others; called once those from before are read."""
        if self.present and not self._listening and self._client is not None:
            self._listening = True
            self._client.subscribe(topic_of(self._output, "+", "alarm"), 1)

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
