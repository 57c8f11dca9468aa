"""The fast path beside paho: PUBLISH packets in and PUBACK packets out.

paho calls `recv` four times for a packet, builds a `Properties` object of 27 entries for each
PUBLISH of MQTT 5, and writes each packet by itself. `PacketSocket` stands between paho and the real
socket: it reads all there is at once, takes the PUBLISH packets out of the stream, hands paho
everything else one whole packet at a time, and gathers what is written until `flush`. `Client` puts
it in place. paho keeps the protocol: connecting, keep-alive, subscribing, publishing.
"""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress

import msgspec
from paho.mqtt import client as paho

PUBLISH = 0x30
READ_SIZE = 256 * 1024
"""Bytes read from the network before what is there is worked on, where nothing else is said."""

RECORD = 16 * 1024
"""Bytes of the longest TLS record. A poll does not see what is left of one that was half read."""

QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux knows it

CONTENT_TYPE = 0x03
# What may stand in a PUBLISH (MQTT 5, table 2-4), by the length of its value; None: a string.
_PROPERTIES: dict[int, int | None] = {0x01: 1, 0x02: 4, 0x03: None, 0x08: None, 0x09: None, 0x23: 2}
_SUBSCRIPTION_IDENTIFIER, _USER_PROPERTY = 0x0B, 0x26

_PUBACK = struct.Struct("!BBH").pack


Packet = tuple[int, bytes]
"""A packet: its first byte, and all behind its remaining length."""


class Publish(msgspec.Struct, frozen=True, gc=False):
    """A PUBLISH packet that came in; `topic` and `content_type` as bytes, unchecked."""

    topic: bytes
    payload: bytes
    qos: int
    mid: int
    dup: bool
    retain: bool
    content_type: bytes | None


def parse_publish(header: int, body: bytes, mqtt5: bool) -> Publish:
    """Take a PUBLISH packet apart.

    Args:
        header: the first byte of the packet.
        body: all behind the remaining length.
        mqtt5: whether the packet has properties.

    Raises:
        ValueError: the packet is malformed.
    """
    try:
        qos = (header >> 1) & 3
        end = 2 + (body[0] << 8 | body[1])
        topic = body[2:end]
        mid = 0
        if qos:
            mid = body[end] << 8 | body[end + 1]
            end += 2
        content_type = None
        if mqtt5:
            if body[end]:
                length, end = _varint(body, end)
                content_type = _content_type(body[end : end + length])
                end += length
            else:
                end += 1
    except (IndexError, KeyError) as error:
        raise ValueError(f"malformed PUBLISH: {error!r}") from None
    if end > len(body) or qos == 3 or (qos and not mid):
        raise ValueError("malformed PUBLISH")
    return Publish(topic, body[end:], qos, mid, header & 8 != 0, header & 1 != 0, content_type)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A variable byte integer and where it ends."""
    if data[at] < 0x80:
        return data[at], at + 1
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 21:
            raise ValueError("malformed variable byte integer")


def _content_type(properties: bytes) -> bytes | None:
    found = None
    at = 0
    while at < len(properties):
        identifier = properties[at]
        at += 1
        if identifier == _SUBSCRIPTION_IDENTIFIER:
            _, at = _varint(properties, at)
            continue
        for _ in range(2 if identifier == _USER_PROPERTY else 1):
            length = None if identifier == _USER_PROPERTY else _PROPERTIES[identifier]
            if length is None:
                length = properties[at] << 8 | properties[at + 1]
                at += 2
            if identifier == CONTENT_TYPE:
                found = properties[at : at + length]
            at += length
    if at > len(properties):
        raise IndexError("a property ends behind the properties")
    return found


class PacketSocket:
    """A non-blocking socket that knows where MQTT's packets begin and end.

    Attributes:
        failure: what ended it, where it did not end in order.
    """

    def __init__(self, sock: paho.SocketLike) -> None:
        self._sock = sock
        self._in = b""
        self._at = 0  # what of `_in` was handed out
        self._behind: list[bytes] = []  # `_in`, until its packet is complete
        self._came = self._needed = 0  # bytes of both, and of them for the packet to be complete
        self._for_paho = 0  # bytes of the packet that paho may read now
        self._ended = False
        self._confirmed = True  # whether the other side knows that we have read what it sent
        self.failure: OSError | None = None
        self._out = bytearray()

    def fill(self, most: int = READ_SIZE) -> bool:
        """Read what the network has, at most about so many bytes; return whether it had any."""
        room = most
        while room > 0 and not self._ended:
            try:
                data = self._sock.recv(max(room, RECORD))
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError as error:
                data = b""  # paho finds the end of the stream and says that the connection is lost
                self.failure = error
            self._ended = not data
            self._behind.append(data)
            self._came += len(data)
            room -= len(data)
            if len(data) < room and not isinstance(self._sock, ssl.SSLSocket):
                break  # a short read is all there was; TLS hands out record by record
        if self._came >= self._needed or self._ended:
            self._join()
        self._confirmed = self._confirmed and room == most
        return room < most

    def _join(self) -> None:
        """Put what was read behind what is not handed out."""
        left = self._in[self._at :]
        self._in = b"".join([left, *self._behind] if left else self._behind)
        self._at, self._came, self._needed = 0, len(self._in), 0
        self._behind.clear()

    def _confirm(self) -> None:
        """Have what came confirmed at once: a broker that gathers small packets waits for it."""
        self._confirmed = True
        sock = self._sock
        if QUICKACK is None or self._ended or not isinstance(sock, socket.socket):
            return
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def publishes(self, most: int) -> list[Packet]:
        """Return the PUBLISH packets that are next, `most` of them at most."""
        data, at = self._in, self._at
        found: list[Packet] = []
        with suppress(IndexError, ValueError):  # the packet is not complete, or paho refuses it
            while len(found) < most and data[at] & 0xF0 == PUBLISH:
                length, start = _varint(data, at + 1)
                end = start + length
                if len(data) < end:
                    break
                found.append((data[at], data[start:end]))
                at = end
        self._at = at
        return found

    def next_packet(self) -> bool | None:
        """Return whether the next packet is paho's; False: none is complete; None: a PUBLISH."""
        data, at = self._in, self._at
        try:
            length, start = _varint(data, at + 1)
        except IndexError:
            return self._ended
        except ValueError:  # paho refuses it
            self._for_paho = len(data) - at
            return True
        end = start + length
        if len(data) < end:
            self._needed = end
            return self._ended
        if data[at] & 0xF0 == PUBLISH:
            return None
        self._for_paho = end - at
        return True

    def recv(self, size: int) -> bytes:
        """For paho: bytes of the packet that is its turn."""
        if not self._for_paho:
            if self._ended:
                return b""
            raise BlockingIOError
        size = min(size, self._for_paho)
        data = self._in[self._at : self._at + size]
        self._at += size
        self._for_paho -= size
        return data

    def send(self, data: bytes | bytearray) -> int:
        """Take bytes to be written by `flush`."""
        self._out += data
        return len(data)

    def acknowledge(self, mids: list[int]) -> None:
        """Send a PUBACK for each packet identifier, in order."""
        self._out += b"".join([_PUBACK(0x40, 2, mid) for mid in mids])

    @property
    def unsent(self) -> int:
        """Bytes that wait for `flush`."""
        return len(self._out)

    def flush(self) -> None:
        """Write as much as the network takes; what was read is confirmed with that, or else now."""
        if not self._out and not self._confirmed:
            self._confirm()
        while self._out:
            try:
                sent = self._sock.send(self._out)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError:
                self._out.clear()
                self._ended = True
                return
            del self._out[:sent]
            self._confirmed = True

    def close(self) -> None:
        """Write what can be written, and close."""
        self.flush()
        self._sock.close()

    def fileno(self) -> int:
        """The file descriptor, for a poll."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Set the socket's mode."""
        self._sock.setblocking(flag)

    def pending(self) -> int:
        """Bytes that were read and not handed out."""
        return self._came - self._at


class Client(paho.Client):
    """paho's client over a socket that was made before, with a `PacketSocket` around it."""

    dialled: socket.socket | None = None
    packets: PacketSocket | None = None

    def _create_socket(self) -> paho.SocketLike:
        # The one place where paho makes its socket; tests/mqtt/test_packets.py holds it to that.
        self.packets = PacketSocket(self.dialled or super()._create_socket())
        return self.packets
