"""Who is active: the one program of a client ID that holds the session, or another one.

The lease is the broker's own rule, one connection to a client ID: whoever connects under it last
has the session, and the one before is cut off. Nothing is agreed on beside it; the rest is only
about when to connect:

- Whoever holds the session says so once a second on `ecg-monitor/<client ID>/active`, at first
  retained. So does whoever has just taken it, or lost it to nobody, until the broker lets it in.
- A standby takes the session when the active one's last will says that it is gone, or when it has
  said nothing for `SILENT_AFTER` seconds: it stands still, or its network is cut, or it went down
  together with the broker's node, which then publishes no will. The standby names itself on that
  topic first.
- Whoever has lost the session asks who is active before connecting again: if another one is, it
  steps down. So does a program that stood still and goes on.
"""

import os
import random
import secrets
import socket
import time

from paho.mqtt.client import Client as PahoClient
from paho.mqtt.client import ConnectFlags
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from monitor.mqtt.client import unique_id
from monitor.mqtt.connection import Connection
from monitor.mqtt.packets import Client, Publish
from monitor.settings import MqttSettings

SILENT_AFTER = 5.0
"""Seconds without a word of the active one after which it does not count as alive: as long as its
loop may stand still (`daemon.lifecycle.STALL_TIMEOUT`)."""

NAMED_EVERY = 1.0
"""Seconds between two messages that say who is active."""

INSIST = 30.0
"""Seconds for which who is not let in says that it is active, at most: as long as nodes of a
cluster that have lost their leader may need, on a busy machine. Then a standby may try."""

CONFIRM = (0.1, 0.3)
"""Seconds, at random between these, that a last will must stand before the session is taken: of
several standbys one comes first, and the others hear that it does."""

ECHO_TIMEOUT = 2.0
"""Seconds within which our own name must come back from the broker."""

ANSWER_WITHIN = 0.3
"""Seconds after a subscription for which a retained name is waited for. mosquitto and NATS send it
within milliseconds."""

INSTANCE = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
"""The name of this process: for people the machine, and unique."""


def active_topic(program: str) -> str:
    """Return the topic on which the active one of a client ID says who it is."""
    return f"ecg-monitor/{program}/active"


class Watcher(Connection):
    """Hears who is active, over a connection of its own without a session.

    Attributes:
        other: the name of another process that was active last; None if none is known.
        granted: whether the broker has granted the subscriptions.
        claims: whether it takes the session when that is free.
    """

    def __init__(self, mqtt: MqttSettings, program: str, claims: bool) -> None:
        """Watch the program of a client ID.

        Args:
            mqtt: the settings of our connections.
            program: its client ID.
            claims: whether to take the session when it is free. Else this only asks, and says
                nothing in the log.
        """
        super().__init__(mqtt, unique_id(mqtt, "standby"), keep_session=False)
        self.claims, self._quiet = claims, not claims
        self.other: str | None = None
        self.granted = self._refused = False
        self._topic, self._status = active_topic(program), f"ecg-monitor/{program}/status"
        self._granted_at = self._active_at = 0.0
        self._own_at: float | None = None  # when our own name came
        self._next_name = self._named_since = 0.0
        self._gone_at: float | None = None  # since when its last will stands, as we may act on it
        self._claimed_at: float | None = None

    def turn(self, now: float) -> None:
        """Connect, read and write, as far as can be done without waiting.

        Raises:
            ConfigurationError: the broker refuses the connection.
        """
        self.maintain()
        self.read()
        if self._claimed_at is None:
            if self.claims and self.granted and self._is_free(now):
                self._claim(now)
        elif self._own_at is None and now - self._claimed_at > ECHO_TIMEOUT:
            self._claimed_at, self._active_at = None, now
            self.trouble = (
                f"{self._where}: our own message on {self._topic} does not come back; to stand by, "
                "we must be allowed to write and to read there"
            )
        self.write()

    def succeeds(self) -> bool:
        """Return whether the session is ours to take: our name is the last that was given."""
        return self._claimed_at is not None and self._own_at is not None

    @property
    def named(self) -> bool:
        """Whether the broker retains, as far as it is known, that this process is active."""
        return self._own_at is not None

    def name_active(self, now: float) -> None:
        """Say once a second that this process is active, although the session's connection cannot.

        So a standby leaves us the session, which a broker may take its time to give to anybody.
        """
        client = self._client
        if client is None or not self.granted or self.other is not None or now < self._next_name:
            return
        self._named_since = self._named_since or now
        if now - self._named_since < INSIST:
            self._next_name = now + NAMED_EVERY
            client.publish(self._topic, INSTANCE.encode(), 0, not self.named)

    def answer(self, now: float) -> bool | None:
        """Return whether another one is active; None while it is not known.

        Where the broker does not let us ask, none is.
        """
        if self.other is not None:
            return True
        if (
            self._refused
            or self._own_at is not None
            or (self.granted and now - self._granted_at > ANSWER_WITHIN)
        ):
            return False
        return None

    def _is_free(self, now: float) -> bool:
        gone = self._gone_at is not None and now >= self._gone_at
        return gone or now - self._active_at > SILENT_AFTER

    def _claim(self, now: float) -> None:
        """Say who will be active."""
        client = self._client
        if client is not None:
            self._claimed_at, self._own_at = now, None
            client.publish(self._topic, INSTANCE.encode(), qos=1, retain=True)

    # -- what subclasses of Connection fill in

    def _prepare(self, client: Client) -> None:
        client.on_subscribe = self._on_subscribe

    def _on_accepted(
        self, client: PahoClient, _flags: ConnectFlags, _properties: Properties | None
    ) -> None:
        # At QoS 0, for what is said is said again. At 1 each filter costs a cluster of NATS a
        # consumer, and 5 s each while one of its nodes has just died.
        client.subscribe([(self._topic, 0), (self._status, 0)])

    def _on_subscribe(
        self,
        _client: PahoClient,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        refusal = next((str(each).lower() for each in reasons if each.is_failure), None)
        if refusal is not None:
            self._refused = True
            self._drop(f"the broker refused the subscription to {self._topic} ({refusal})")
            return
        self.granted, self.trouble = True, None
        self._granted_at = self._active_at = time.monotonic()

    def _on_lost(self) -> None:
        self.granted = False
        self._claimed_at = self._own_at = self._gone_at = None

    def _hear(self, publish: Publish, arrived: float) -> None:
        if publish.qos and self._client is not None and self._client.packets is not None:
            self._client.packets.acknowledge([publish.mid])
        said = publish.payload.decode(errors="replace")
        if publish.topic == self._topic.encode():
            self._hear_name(said, publish.retain, arrived)
        elif not publish.retain:
            within = random.uniform(*CONFIRM)  # noqa: S311 - no secret
            self._gone_at = None if said == "online" else arrived + within

    def _hear_name(self, name: str, retained: bool, arrived: float) -> None:
        if name == INSTANCE:
            self._own_at, self.other, self.trouble = arrived, None, None
            return
        self.other = name or None
        self._own_at = self._claimed_at = None
        if not retained:
            self._active_at, self._gone_at = arrived, None
