"""A broker in this process, on one end of a socket pair, that does what a test tells it to.

It speaks as much of MQTT as the two connections of a daemon need, and acts only when it is told
to, so that packets can be accepted, refused, delayed and lost in any order. It sleeps nowhere.
"""

import socket
import struct
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from monitor.mqtt import alert_sender, beat_consumer, connection, standby
from monitor.settings import Protocol

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE = 1, 2, 3, 4, 8, 9, 10
PINGREQ, DISCONNECT = 12, 14
UNSPECIFIED, NOT_AUTHORIZED = 0x80, 0x87


class Packet(NamedTuple):
    """A packet as it was read: its type, the flags of its first byte, and the rest."""

    kind: int
    flags: int
    body: bytes


class Published(NamedTuple):
    """A publish of a client that the broker has not answered."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    mid: int


class Line:
    """The broker's end of one connection.

    Attributes:
        client_id: as the client gave it; empty before its CONNECT.
        publishes: those at QoS 1 that are to be answered.
        unassured: those at QoS 0.
        acknowledged: the packet identifiers of the client's PUBACKs, in order.
        filters: what it subscribed to.
        asked_qos: the QoS of each filter of its last SUBSCRIBE.
        will_retained: whether its last will is to be retained.
        accepted: whether its CONNECT was answered.
        lost: whether `cut` was called.
    """

    def __init__(self, end: socket.socket, protocol: Protocol) -> None:
        self._socket, self._mqtt5 = end, protocol == "5"
        end.setblocking(False)
        self._in = bytearray()
        self.accepted = self.lost = False
        self.client_id = ""
        self.clean = self.will_retained = False
        self.publishes: list[Published] = []
        self.unassured: list[Published] = []
        self.acknowledged: list[int] = []
        self.filters: list[str] = []
        self.asked_qos: list[int] = []
        self.subscribes: list[int] = []
        self.pings = 0
        self.disconnected = False

    def read(self) -> None:
        """Read all that the client has written."""
        while not self.lost:
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                break
            if not data:
                break
            self._in += data
        while (packet := self._next()) is not None:
            self._take(packet)

    def _next(self) -> Packet | None:
        data, at, length, shift = self._in, 1, 0, 0
        while True:
            if at >= len(data):
                return None
            length |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if data[at - 1] < 0x80:
                break
        if len(data) < at + length:
            return None
        packet = Packet(data[0] >> 4, data[0] & 15, bytes(data[at : at + length]))
        del data[: at + length]
        return packet

    def _take(self, packet: Packet) -> None:
        kind, flags, body = packet
        if kind == CONNECT:
            self.clean, self.will_retained = bool(body[7] & 2), bool(body[7] & 0x20)
            at = 10 + (1 + body[10] if self._mqtt5 else 0)
            self.client_id = body[at + 2 : at + 2 + struct.unpack_from("!H", body, at)[0]].decode()
        elif kind == PUBLISH:
            qos, length = flags >> 1 & 3, struct.unpack_from("!H", body)[0]
            topic, at, mid = body[2 : 2 + length].decode(), 2 + length, 0
            if qos:
                mid, at = struct.unpack_from("!H", body, at)[0], at + 2
            at += 1 + body[at] if self._mqtt5 else 0
            published = Published(topic, body[at:], qos, bool(flags & 1), mid)
            (self.publishes if qos else self.unassured).append(published)
        elif kind == PUBACK:
            self.acknowledged.append(struct.unpack_from("!H", body)[0])
        elif kind in (SUBSCRIBE, UNSUBSCRIBE):
            at = 2 + (1 + body[2] if self._mqtt5 else 0)
            filters: list[str] = []
            asked_qos: list[int] = []
            while at < len(body):
                length = struct.unpack_from("!H", body, at)[0]
                filters.append(body[at + 2 : at + 2 + length].decode())
                at += 2 + length
                if kind == SUBSCRIBE:
                    asked_qos.append(body[at] & 3)
                    at += 1
            if kind == SUBSCRIBE:
                self.filters += filters
                self.asked_qos = asked_qos
                self.subscribes.append(struct.unpack_from("!H", body)[0])
            else:
                self.filters = [each for each in self.filters if each not in filters]
        elif kind == PINGREQ:
            self.pings += 1
            self._write(0xD0, b"")
        elif kind == DISCONNECT:
            self.disconnected = True

    def accept(
        self,
        session_present: bool = False,
        receive_maximum: int | None = None,
        retain_available: bool = True,
        limits: bytes = b"",
    ) -> None:
        """Answer the CONNECT, with further properties of MQTT 5 as they stand on the wire."""
        self.accepted = True
        properties = b"" if receive_maximum is None else struct.pack("!BH", 0x21, receive_maximum)
        properties += b"" if retain_available else bytes([0x25, 0])
        properties += limits
        tail = bytes([len(properties)]) + properties if self._mqtt5 else b""
        self._write(0x20, bytes([session_present, 0]) + tail)

    def reject(self, reason: int) -> None:
        """Refuse the CONNECT."""
        self._write(0x20, bytes([0, reason]) + (b"\0" if self._mqtt5 else b""))

    def disconnect(self, reason: int, text: str = "") -> None:
        """Send a DISCONNECT of MQTT 5, with words of the broker's own."""
        said = text.encode()
        properties = bytes([0x1F]) + struct.pack("!H", len(said)) + said if said else b""
        self._write(0xE0, bytes([reason, len(properties)]) + properties)

    def grant(self, reason: int = 1) -> None:
        """Answer the SUBSCRIBEs, each filter with the same reason."""
        for mid in self.subscribes:
            codes = bytes([reason]) * len(self.filters)
            self._write(0x90, struct.pack("!H", mid) + (b"\0" if self._mqtt5 else b"") + codes)
        self.subscribes.clear()

    def answer(self, published: Published, reason: int = 0) -> None:
        """Answer a publish, with a failure where the reason is 0x80 or above."""
        self.publishes.remove(published)
        tail = bytes([reason]) if reason else b""
        self._write(0x40, struct.pack("!H", published.mid) + tail)

    def deliver(
        self,
        topic: str,
        payload: bytes,
        *,
        mid: int = 0,
        dup: bool = False,
        retain: bool = False,
    ) -> None:
        """Send a message, at QoS 1 if it has a packet identifier."""
        name = topic.encode()
        body = struct.pack("!H", len(name)) + name
        body += struct.pack("!H", mid) if mid else b""
        body += b"\0" if self._mqtt5 else b""
        self._write(0x30 | dup << 3 | bool(mid) << 1 | retain, body + payload)

    def _write(self, header: int, body: bytes) -> None:
        length, digits = len(body), bytearray()
        while True:
            length, digit = length >> 7, length & 0x7F
            digits.append(digit | 0x80 * bool(length))
            if not length:
                break
        with suppress(BrokenPipeError):  # the client has gone
            self._socket.sendall(bytes([header]) + digits + body)

    def cut(self) -> None:
        """Lose the connection, and what is on its way in either direction."""
        self.lost = True
        self._socket.close()


class Clock:
    """Time that passes when it is told to, in the place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


class FakeBroker:
    """Takes the place of the network: every connection of paho becomes a `Line`.

    Attributes:
        lines: in the order of their connecting.
        reachable: whether a connection can be made.
        resolves: whether its name is resolved.
    """

    def __init__(self, patch: pytest.MonkeyPatch, protocol: Protocol = "5") -> None:
        self.lines: list[Line] = []
        self.reachable = self.resolves = True
        self.clock = Clock()
        self._protocol = protocol
        self._ends: list[socket.socket] = []
        patch.setattr(connection, "dial", lambda *_: self._dial())
        for module in (connection, alert_sender, beat_consumer, standby):
            patch.setattr(module, "time", self.clock)
        patch.setattr(connection, "random", SimpleNamespace(uniform=lambda _low, high: high))

    def _dial(self) -> Future[socket.socket]:
        dialled: Future[socket.socket] = Future()
        if self.resolves and not self.reachable:
            dialled.set_exception(ConnectionRefusedError("refused"))
        elif self.resolves:
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            self.lines.append(Line(ours, self._protocol))
            self._ends.append(theirs)
            dialled.set_result(theirs)
        return dialled

    def line(self, own: Callable[[Line], bool] = lambda _: True) -> Line:
        """The newest connection that fits."""
        return next(line for line in reversed(self.lines) if own(line))

    def close(self) -> None:
        """Close both ends of all connections."""
        for line in self.lines:
            line.cut()
        for end in self._ends:
            end.close()
