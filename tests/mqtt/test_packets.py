"""The fast path beside paho: the same packets as paho would see, however the stream is cut."""

import select
import socket
import ssl
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from monitor.mqtt.packets import PUBLISH, READ_SIZE, Client, PacketSocket, Publish, parse_publish
from tests.harness.brokers import program
from tests.harness.waiting import WITHIN

VERSIONS = {True: MQTTProtocolVersion.MQTTv5, False: MQTTProtocolVersion.MQTTv311}

# What paho's own packer takes: no control characters, no surrogates.
STRINGS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30) | st.just(
    "心é"
)

LEGAL: dict[str, st.SearchStrategy[Any]] = {
    "PayloadFormatIndicator": st.integers(0, 1),
    "MessageExpiryInterval": st.integers(0, 2**32 - 1),
    "TopicAlias": st.integers(1, 65535),
    "ResponseTopic": STRINGS,
    "CorrelationData": st.binary(max_size=200),
    "SubscriptionIdentifier": st.integers(1, 2**28 - 1),
    "ContentType": STRINGS,
    "UserProperty": st.lists(st.tuples(STRINGS, STRINGS), min_size=1, max_size=4),
}


@st.composite
def properties(draw: st.DrawFn) -> Properties:
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in draw(st.fixed_dictionaries({}, optional=LEGAL)).items():
        setattr(made, name, value)
    return made


@st.composite
def publishes(draw: st.DrawFn, mqtt5: bool) -> tuple[int, bytes]:
    """A PUBLISH packet as its header and body."""
    qos = draw(st.integers(0, 2))
    header = PUBLISH | draw(st.booleans()) << 3 | qos << 1 | draw(st.booleans())
    topic = draw(STRINGS.filter(bool)).encode()
    body = struct.pack("!H", len(topic)) + topic
    if qos:
        body += struct.pack("!H", draw(st.integers(1, 65535)))
    if mqtt5:
        body += draw(properties()).pack()  # type: ignore[no-untyped-call]
    return header, body + draw(st.binary(max_size=600))


def by_paho(header: int, body: bytes, mqtt5: bool) -> Publish:
    packet = _packet.decode_publish(header, body, VERSIONS[mqtt5])
    kind = getattr(packet.properties, "ContentType", None)
    return Publish(
        packet.topic,
        bytes(packet.payload),
        packet.qos,
        packet.mid,
        packet.dup,
        packet.retain,
        None if kind is None else kind.encode(),
    )


@given(st.booleans().flatmap(lambda v: st.tuples(publishes(v), st.just(v))))
def test_any_publish_is_taken_apart_as_paho_does_it(packet: tuple[tuple[int, bytes], bool]) -> None:
    (header, body), mqtt5 = packet
    assert parse_publish(header, body, mqtt5) == by_paho(header, body, mqtt5)


@settings(max_examples=200)
@given(st.booleans().flatmap(lambda v: st.tuples(publishes(v), st.just(v))), st.data())
def test_a_malformed_publish_raises_value_error_and_nothing_else(
    packet: tuple[tuple[int, bytes], bool], data: st.DataObject
) -> None:
    (header, body), mqtt5 = packet
    if data.draw(st.booleans()):
        body = body[: data.draw(st.integers(0, len(body)))]
    else:
        at = data.draw(st.integers(0, len(body) - 1))
        body = body[:at] + bytes([data.draw(st.integers(0, 255))]) + body[at + 1 :]
    try:
        ours = parse_publish(header, body, mqtt5)
    except ValueError:
        return
    with suppress(MalformedPacket):  # paho looks into the strings, too
        assert ours == by_paho(header, body, mqtt5)


@given(st.integers(0, 255), st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_publish_or_a_value_error(header: int, body: bytes, mqtt5: bool) -> None:
    try:
        parse_publish(header, body, mqtt5)
    except ValueError as error:
        assert "malformed" in str(error)


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (0x30, b""),
        (0x30, b"\x00"),
        (0x30, b"\x00\x05abc"),
        (0x30, b"\x00\x01a"),  # no properties
        (0x32, b"\x00\x01a\x00"),
        (0x32, b"\x00\x01a\x00\x00\x00"),  # identifier 0
        (0x36, b"\x00\x01a\x00\x01\x00"),  # QoS 3
        (0x30, b"\x00\x01a\x05\x01\x00"),  # properties end behind the packet
        (0x30, b"\x00\x01a\x02\x7f\x00"),  # there is no such property
        (0x30, b"\x00\x01a\x02\x21\x00"),  # not in a PUBLISH
        (0x30, b"\x00\x01a\x04\x03\x00\x09a"),  # a string ends behind the properties
        (0x30, b"\x00\x01a\xff\xff\xff\xff\x01"),
    ],
)
def test_a_publish_against_the_rules_is_malformed(header: int, body: bytes) -> None:
    with pytest.raises(ValueError, match="malformed"):
        parse_publish(header, body, mqtt5=True)


# -- the stream


def packed(header: int, body: bytes) -> bytes:
    length, out = len(body), bytearray([header])
    while True:
        length, digit = divmod(length, 128)
        out.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(out) + body


def others() -> st.SearchStrategy[tuple[int, bytes]]:
    headers = st.integers(0, 255).filter(lambda header: header & 0xF0 != PUBLISH)
    return st.tuples(headers, st.binary(max_size=200))


def take_all(packets: PacketSocket, at_once: int) -> list[tuple[str, bytes]]:
    """What comes out: PUBLISH packets to us, the others to paho, as it reads them."""
    out = []
    while (pahos := packets.next_packet()) is not False:
        if pahos:
            read = b""
            while True:
                try:
                    read += packets.recv(at_once)
                except BlockingIOError:
                    break
            assert read, "a turn for paho, and nothing to read"
            out.append(("paho", read))
        else:
            assert packets.publishes(0) == []
            out += [("us", packed(*packet)) for packet in packets.publishes(2)]
    return out


@given(
    st.lists(publishes(True) | others() | st.just((PUBLISH, bytes(20_000))), max_size=8),
    st.lists(st.integers(1, 300), min_size=1),
    st.integers(1, 300),
)
def test_packets_come_whole_however_the_stream_is_cut(
    sent: list[tuple[int, bytes]], cuts: list[int], at_once: int
) -> None:
    stream = b"".join(packed(*packet) for packet in sent)
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        packets = PacketSocket(here)
        assert packets.next_packet() is False
        with pytest.raises(BlockingIOError):
            packets.recv(1)
        came: list[tuple[str, bytes]] = []
        at = turn = 0
        while at < len(stream):
            # Many small pieces, and then the rest, so that it does not take for ever.
            size = cuts[turn] if turn < len(cuts) else len(stream)
            there.sendall(stream[at : at + size])
            at, turn = at + size, turn + 1
            packets.fill()
            came += take_all(packets, at_once)
        assert came == [
            ("us" if packet[0] & 0xF0 == PUBLISH else "paho", packed(*packet)) for packet in sent
        ]
        assert packets.pending() == 0


def test_a_packet_larger_than_what_is_read_at_once_comes_whole() -> None:
    body = bytes(range(256)) * (3 * READ_SIZE // 256)
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        packets, stream, came = PacketSocket(here), memoryview(packed(PUBLISH, body)), []
        while len(stream):
            stream = stream[there.send(stream) :]
            packets.fill()
            came += take_all(packets, 100)
        assert came == [("us", packed(PUBLISH, body))]


@pytest.mark.parametrize("rest", [b"", b"\x30", b"\x30\xff", b"\x30\x05ab", b"\xd0"])
def test_paho_is_told_of_the_end_of_the_stream(rest: bytes) -> None:
    here, there = socket.socketpair()
    with here:
        here.setblocking(False)
        packets = PacketSocket(here)
        there.sendall(packed(0xD0, b"") + rest)
        there.close()
        packets.fill()
        packets.fill()
        assert packets.next_packet() is True
        assert packets.recv(100) == b"\xd0\x00"
        assert packets.next_packet() is True
        assert packets.recv(100) == b""


def test_a_length_that_never_ends_is_left_for_paho_to_refuse() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        packets = PacketSocket(here)
        there.sendall(b"\x30\xff\xff\xff\xff\xff")
        packets.fill()
        assert packets.next_packet() is True
        assert packets.recv(100) == b"\x30\xff\xff\xff\xff\xff"


def test_what_is_written_goes_out_gathered_in_order_and_whole() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        packets = PacketSocket(here)
        large = bytes(range(256)) * 8000
        assert packets.send(b"first") == 5
        packets.acknowledge([1, 256, 65535])
        assert packets.send(large) == len(large)
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.recv(1)  # nothing goes out before it is told to
        there.setblocking(True)
        expected = b"first\x40\x02\x00\x01\x40\x02\x01\x00\x40\x02\xff\xff" + large
        came = b""
        while len(came) < len(expected):
            packets.flush()  # the other side's buffer is smaller than this
            came += there.recv(1 << 20)
        assert came == expected
        assert not packets.unsent


def test_a_reader_that_has_gone_is_the_end_of_the_stream() -> None:
    here, there = socket.socketpair()
    with here:
        here.setblocking(False)
        packets = PacketSocket(here)
        there.close()
        packets.acknowledge([1])
        packets.flush()
        assert not packets.unsent
        assert packets.next_packet() is True
        assert packets.recv(1) == b""


@pytest.mark.parametrize("mqtt5", [True, False])
def test_paho_makes_its_socket_where_ours_is_put_in_its_place(mqtt5: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = Client(CallbackAPIVersion.VERSION2, "pin", protocol=VERSIONS[mqtt5])
        assert isinstance(client, paho.Client)
        assert client.packets is None
        client.connect("127.0.0.1", server.getsockname()[1])
        peer, _ = server.accept()
        with peer:
            assert isinstance(client.packets, PacketSocket)
            assert client.socket() is client.packets
            client.loop_write()
            client.packets.flush()
            peer.settimeout(WITHIN)
            assert peer.recv(100)[0] == 0x10  # CONNECT
            # What paho waits for reaches it through ours: CONNACK, accepted.
            answered: list[bool] = []
            client.on_connect = lambda *answer: answered.append(not answer[3].is_failure)
            peer.sendall(b"\x20\x03\x00\x00\x00" if mqtt5 else b"\x20\x02\x00\x00")
            client.packets.setblocking(True)
            client.packets.fill()
            client.packets.setblocking(False)
            assert client.packets.next_packet() is True
            assert client.loop_read() == paho.MQTT_ERR_SUCCESS
            assert answered == [True]
            client.packets.close()


def test_no_byte_of_a_tls_record_is_left_where_a_poll_does_not_see_it(tmp_path: Path) -> None:
    subject = ["-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    files = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert")]
    command = [program("openssl"), "req", "-x509", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert"))
    near, far = socket.socketpair()

    def serve() -> None:
        with context.wrap_socket(far, server_side=True) as broker:
            broker.sendall(b"\xd0\x00")  # so that no record ends where the reading does
            broker.sendall(bytes(READ_SIZE))
            broker.recv(1)

    server = threading.Thread(target=serve)
    server.start()
    with trusting.wrap_socket(near, server_hostname="localhost") as sock:
        sock.setblocking(False)
        packets = PacketSocket(sock)
        poll = select.poll()
        poll.register(packets.fileno(), select.POLLIN)
        while packets.pending() < 2 + READ_SIZE:
            assert poll.poll(1000 * WITHIN)
            packets.fill()
        sock.send(b".")
        server.join()
