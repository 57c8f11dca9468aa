"""How fast the daemon is, beside a bare paho subscriber that does nothing, in the same run.

`make bench` prints all of it. The machine's speed drifts, so the two take turns and the ratios are
what counts; absolute figures hold for the machine that ran them.
"""

import multiprocessing
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from monitor.alarms.decisions import Alarms, Policy
from monitor.batch import datasets
from monitor.detector.model_file import Detector, shipped
from monitor.ecg import chunks, codec, quality
from monitor.ecg.beat import fingerprints
from monitor.ecg.chunks import Chunk
from monitor.ecg.segmenter import Segmenter
from monitor.errors import Failure
from monitor.metrics import Metrics
from monitor.mqtt.packets import parse_publish
from monitor.topics import Topics
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.devices import Hearts, Ward, as_float32, as_json
from tests.harness.faults import OPEN, RAW_RATE
from tests.harness.signals import heart

TURNS = 5
MESSAGES = 30_000
ANOMALOUS = 0.02
"""Share of the beats that are anomalous, in runs of three: each run raises an alarm."""

PATIENTS, PATIENT_SECONDS = 20, 60
"""Who send raw samples, and how much of it."""

SETTINGS = {"ALARM__SILENT_AFTER": "0"}
VERSIONS = {"5": 5, "3.1.1": 4}


def packet(topic: bytes, payload: bytes, qos: int, mid: int) -> bytes:
    """A PUBLISH packet of MQTT 3.1.1."""
    body = struct.pack("!H", len(topic)) + topic
    body += struct.pack("!H", mid) if qos else b""
    body += payload
    length, left = b"", len(body)
    while not length or left:
        length += bytes([left % 128 | (0x80 if left > 127 else 0)])
        left //= 128
    return bytes([0x30 | qos << 1]) + length + body


def stream(
    hearts: Hearts,
    messages: int,
    devices: int,
    each: int,
    qos: int,
    topic_of: bytes = b"ecg/bed-%d/beats",
    encode: Callable[[NDArray[np.float32]], bytes] = codec.encode_float32,
) -> list[bytes]:
    """Packets whose beats are anomalous now and then."""
    draw = np.random.default_rng(0)
    pool, odd = hearts.normal(4000), hearts.anomalous(500)
    packets = []
    for i in range(messages):
        device = i % devices
        # Each device has its runs at other times.
        run = ((i // devices * each + 37 * device) % int(3 / ANOMALOUS)) < 3
        source = odd if run and each == 1 else pool
        beats = source[draw.integers(0, len(source), each)]
        if run and each > 1:
            beats[:3] = odd[draw.integers(0, len(odd), 3)][: len(beats)]
        topic = topic_of % device
        packets.append(packet(topic, encode(beats), qos, i % 65535 + 1))
    return packets


class BeatPublisher:
    """Publishes packets as fast as the broker reads them; costs next to nothing itself."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        name = b"bench-%d" % time.monotonic_ns()
        body = b"\0\4MQTT\4\2\0\0" + struct.pack("!H", len(name)) + name
        self._socket.sendall(b"\x10" + bytes([len(body)]) + body)
        assert self._socket.recv(4)[3] == 0

    def send(self, packets: list[bytes], qos: int) -> None:
        """Send all, and read the acknowledgements."""
        drain = threading.Thread(target=self._drain, args=(4 * len(packets) if qos else 0,))
        drain.start()
        for i in range(0, len(packets), 100):
            self._socket.sendall(b"".join(packets[i : i + 100]))
        drain.join()

    def _drain(self, left: int) -> None:
        while left > 0:
            left -= len(self._socket.recv(65536))


BARE = """
import sys
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
port, qos, version, number = map(int, sys.argv[1:])
seen = 0
def on_message(client, userdata, message):
    global seen
    seen += 1
    if seen == number:
        print("done", flush=True)
client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion(version))
client.on_message = on_message
client.on_subscribe = lambda *_: print("ready", flush=True)
client.connect("127.0.0.1", port)
client.subscribe("ecg/+/beats", qos)
client.loop_forever()
"""


def busy(pid: int) -> NDArray[np.float64]:
    """Seconds of the processor that a process's first thread, and all, have had: float64 [2]."""
    process = Path(f"/proc/{pid}")
    spent = []
    for stat in (process / "task" / str(pid) / "stat", process / "stat"):
        fields = stat.read_text().rpartition(")")[2].split()
        spent.append((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
    return np.array(spent)


class Speed(NamedTuple):
    """Messages a second by the clock on the wall, and microseconds of the processor for each."""

    rate: float
    cost: float


def bare_speed(port: int, packets: list[bytes], qos: int, protocol: str) -> Speed:
    """Return the speed of a subscriber that does nothing."""
    return _speed_of(BARE, (port, qos, VERSIONS[protocol], len(packets)), port, packets, qos)


def _speed_of(
    program: str, arguments: tuple[int, ...], port: int, packets: list[bytes], qos: int
) -> Speed:
    """Return the speed of a subscriber: from the first message sent until it has seen all."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as bare:
        assert bare.stdout is not None
        assert bare.stdout.readline() == "ready\n"
        begun, before = time.perf_counter(), busy(bare.pid)[1]
        BeatPublisher(port).send(packets, qos)
        assert bare.stdout.readline() == "done\n"
        seconds, spent = time.perf_counter() - begun, busy(bare.pid)[1] - before
        bare.kill()
    return Speed(len(packets) / seconds, 1e6 * spent / len(packets))


READING = """
import socket, struct, sys
port, qos, number = map(int, sys.argv[1:])
s = socket.create_connection(("127.0.0.1", port))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
s.sendall(b"\\x10\\x13\\0\\4MQTT\\4\\2\\0\\0\\0\\7reading")
assert s.recv(4)[3] == 0
s.sendall(b"\\x82\\x10\\0\\1\\0\\x0becg/+/beats" + bytes([qos]))
assert s.recv(5)[0] == 0x90
print("ready", flush=True)
data, seen = b"", 0
while seen < number:
    data += s.recv(262144)
    at, answers = 0, []
    while True:
        length = shift = 0
        i = at + 1
        while i < len(data):
            length |= (data[i] & 127) << shift
            shift += 7
            i += 1
            if data[i - 1] < 128:
                break
        else:
            break
        if i + length > len(data):
            break
        seen += 1
        if qos:
            end = i + 2 + (data[i] << 8 | data[i + 1])
            answers.append(b"\\x40\\2" + data[end : end + 2])
        at = i + length
    data = data[at:]
    s.sendall(b"".join(answers))
print("done", flush=True)
"""
"""Takes the packets of MQTT 3.1.1 off its socket and acknowledges them, and no more: as fast as
that is what the broker can do, and no subscriber can be faster."""


def reading_speed(port: int, packets: list[bytes], qos: int) -> Speed:
    """Return the speed of a subscriber that only reads and acknowledges."""
    return _speed_of(READING, (port, qos, len(packets)), port, packets, qos)


@contextmanager
def running(folder: Path, url: str, **settings: str) -> Iterator[RunningDaemon]:
    """A daemon with a session of its own.

    It has a broker of its own, too, or else it takes devices over from the one before, and holds
    their acknowledgements until that has answered.
    """
    own = {"MQTT__CLIENT_ID": f"bench-{time.monotonic_ns()}"}
    with RunningDaemon(folder, url, **(SETTINGS | own | settings)) as daemon:
        yield daemon


def daemon_speed(
    daemon: RunningDaemon,
    port: int,
    packets: list[bytes],
    qos: int,
    topic: bytes = b"ecg/%b/beats",
) -> Speed:
    """Return the speed of the daemon: from the first message sent to the alert of the last ones.

    Those are three flat beats of a device of their own, under `topic`. (To ask the daemon how far
    it is, a hundred times a second, would halve its speed.)
    """
    last = f"last-{time.monotonic_ns()}"
    payload = codec.encode_float32(np.zeros((3, 140), np.float32))
    flat = packet(topic % last.encode(), payload, qos, 65535)
    with Ward(port, last, device=last) as ward:
        sender = threading.Thread(target=BeatPublisher(port).send, args=([*packets, flat], qos))
        begun, before = time.monotonic(), busy(daemon.process.pid)[1]
        sender.start()
        while not (moments := [at for at, name, *_ in list(ward.seen) if name.endswith("/alerts")]):
            time.sleep(0.001)
            assert time.monotonic() - begun < 120
        spent = busy(daemon.process.pid)[1] - before
        sender.join()
    return Speed(len(packets) / (moments[0] - begun), 1e6 * spent / len(packets))


def throughput(folder: Path, hearts: Hearts) -> Table:
    """One beat a message, the daemon and the bare subscriber in turn."""
    title = f"Messages a second, one 560-byte beat each ({TURNS} turns, median, lowest to highest)"
    columns = ("bare", "only read", "daemon", "ratio", "CPU µs: bare", "daemon", "ratio")
    table = Table("QoS", "MQTT", *columns, title=title)
    for qos in (1, 0):
        packets = stream(hearts, MESSAGES, 100, 1, qos)
        for protocol in ("5", "3.1.1"):
            bare, reading, full = [], [], []
            settings = {"MQTT__PROTOCOL": protocol, "INPUT__QOS": str(qos)}
            for _ in range(TURNS):
                with Mosquitto(folder, OPEN) as broker:
                    bare.append(bare_speed(broker.port, packets, qos, protocol))
                    reading.append(reading_speed(broker.port, packets, qos))
                    with running(folder, broker.url, **settings) as daemon:
                        full.append(daemon_speed(daemon, broker.port, packets, qos))
            pairs = list(zip(full, bare, strict=True))
            table.add_row(
                str(qos),
                protocol,
                *(_median([each.rate for each in some]) for some in (bare, reading, full)),
                _spread([f.rate / b.rate for f, b in pairs]),
                *(_median([each.cost for each in some], ".1f") for some in (bare, full)),
                _spread([b.cost / f.cost for f, b in pairs]),
            )
    return table


def batches(folder: Path, hearts: Hearts) -> Table:
    """Many beats a message, beside what onnxruntime makes of them alone."""
    title = f"Beats a second beside onnxruntime alone, QoS 1 ({TURNS} turns, median)"
    columns = ("onnxruntime", "only read", "ratio", "daemon", "ratio", "ratio of CPU time")
    table = Table("beats a message", *columns, title=title)
    detector = Detector(shipped("ecg"))
    beats = hearts.normal(4096)
    for each in (8, 32, 128):
        packets = stream(hearts, 600_000 // each, 20, each, 1)
        alone, cost, reading, full = [], [], [], []
        for _ in range(TURNS):
            with Mosquitto(folder, OPEN) as broker:
                alone.append(len(beats) / seconds_of(lambda: detector.score(beats), 20) / each)
                spent = seconds_of(lambda: detector.score(beats), 20, time.thread_time)
                cost.append(1e6 * each * spent / len(beats))
                reading.append(reading_speed(broker.port, packets, 1).rate)
                with running(folder, broker.url) as daemon:
                    full.append(daemon_speed(daemon, broker.port, packets, 1))
        table.add_row(
            str(each),
            *(_median([each * rate for rate in rates]) for rates in (alone, reading)),
            _spread([r / a for r, a in zip(reading, alone, strict=True)]),
            _median([each * speed.rate for speed in full]),
            _spread([f.rate / a for f, a in zip(full, alone, strict=True)]),
            _spread([c / f.cost for f, c in zip(full, cost, strict=True)]),
        )
    return table


def signals(folder: Path, _hearts: Hearts) -> Table:
    """Raw samples, a chunk a second from each device: all of `segment`, beside the cutting alone.

    By the processor's time, so that it does not matter what else the machine does.
    """
    title = f"Patients at {RAW_RATE} Hz for each core, one lead ({TURNS} turns, median)"
    table = Table("", "patients a core", "of the cutting alone", title=title)
    hearts = [heart(PATIENT_SECONDS, RAW_RATE, 50 + 2 * i, i)[0] for i in range(PATIENTS)]
    Segmenter(RAW_RATE).feed(hearts[0])  # SciPy is loaded before the first turn
    starts = range(0, len(hearts[0]), RAW_RATE)
    encoders: dict[str, Callable[[Chunk], bytes]] = {
        "segment, float32": chunks.encode_float32,
        "segment, JSON": chunks.encode_json,
    }
    number = len(starts) * PATIENTS

    def packets(topic: bytes, encode: Callable[[Chunk], bytes]) -> list[bytes]:
        return [
            packet(
                topic % i,
                encode(Chunk({"": signal[start : start + RAW_RATE]}, RAW_RATE, start)),
                1,
                start // RAW_RATE % 65535 + 1,
            )
            for start in starts
            for i, signal in enumerate(hearts)
        ]

    rates: dict[str, list[float]] = {"the cutting alone": [], **{name: [] for name in encoders}}
    with Mosquitto(folder, OPEN) as broker, ExitStack() as stack:
        daemons = {}
        for i, name in enumerate(encoders):
            own = {"MQTT__CLIENT_ID": f"bench-{i}", "SEGMENT__RATE": str(RAW_RATE)}
            own |= {
                "SEGMENT__JOURNAL": str(folder / f"{i}.db"),
                "SEGMENT__TOPIC": f"{i}/{{device}}",
            }
            daemon = RunningDaemon(folder, broker.url, command="segment", **own)
            daemons[name] = stack.enter_context(daemon)
        for turn in range(TURNS):
            begun = time.process_time()
            for signal in hearts:
                segmenter = Segmenter(RAW_RATE)
                for start in starts:
                    segmenter.feed(signal[start : start + RAW_RATE])
            rates["the cutting alone"].append(number / (time.process_time() - begun))
            for i, (name, daemon) in enumerate(daemons.items()):
                before = busy(daemon.process.pid)[1]
                some = packets(b"%d/raw-%d-%%d" % (i, turn), encoders[name])
                BeatPublisher(broker.port).send(some, 1)
                while daemon.value("ecg_monitor_chunks_received_total") < number * (turn + 1):
                    time.sleep(0.5)
                rates[name].append(number / (busy(daemon.process.pid)[1] - before))
    for name, turns in rates.items():
        ratios = [r / alone for r, alone in zip(turns, rates["the cutting alone"], strict=True)]
        table.add_row(name, _median(turns), _spread(ratios))
    return table


def _median(values: list[float], how: str = ",.0f") -> str:
    return f"{statistics.median(values):{how}}"


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _probe(port: int, hearts: Hearts, number: int, rate: float, sent: Connection) -> None:
    """Publish at a rate; every twentieth device is a new one whose third beat raises an alarm."""
    publisher = socket.create_connection(("127.0.0.1", port))
    publisher.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = b"\0\4MQTT\4\2\0\0\0\5probe"
    publisher.sendall(b"\x10" + bytes([len(body)]) + body)
    publisher.recv(4)
    threading.Thread(target=lambda: [None for _ in iter(lambda: publisher.recv(4096), b"")]).start()
    normal, odd = hearts.normal(1000), hearts.anomalous(500)
    times = {}
    begun = time.monotonic()
    for i in range(number):
        step = i % 60
        name = b"probe-%d" % (i // 60) if step in (0, 20, 40) else b"bed-%d" % (i % 50)
        beat = odd[i % 500] if step in (0, 20, 40) else normal[i % 1000]
        data = packet(b"ecg/%b/beats" % name, beat.astype("<f4").tobytes(), 1, i % 65535 + 1)
        time.sleep(max(0.0, begun + i / rate - time.monotonic()))
        if step == 40:
            times[name.decode()] = time.monotonic()
        publisher.sendall(data)
    time.sleep(1)
    sent.send(times)
    publisher.shutdown(socket.SHUT_RDWR)


def latency(folder: Path, hearts: Hearts) -> Table:
    """From the publisher's clock to the subscriber's, the broker and the daemon between."""
    title = "Milliseconds from sending the beat that raises an alarm to receiving its alert"
    table = Table("messages/s", "alerts", "p50", "p90", "p99", "highest", title=title)
    for rate in (100, 1000, 5000):
        with Mosquitto(folder, OPEN) as broker, running(folder, broker.url):
            with Ward(broker.port) as ward:
                here, there = multiprocessing.Pipe()
                arguments = (broker.port, hearts, 12 * rate, rate, there)
                probe = multiprocessing.Process(target=_probe, args=arguments)
                probe.start()
                sent = here.recv()
                probe.join()
                arrived: dict[str, float] = {}
                for moment, topic, _, _ in ward.seen:
                    if topic.endswith("/alerts"):
                        arrived.setdefault(topic.split("/")[1], moment)
        # The first second warms up.
        names = [name for name in sent if sent[name] > min(sent.values()) + 1]
        delays = 1000 * np.array([arrived[name] - sent[name] for name in names])
        p50, p90, p99 = np.quantile(delays, (0.5, 0.9, 0.99))
        row = (len(delays), *(f"{ms:.2f}" for ms in (p50, p90, p99, delays.max())))
        table.add_row(str(rate), *map(str, row))
    return table


def partitions(folder: Path, hearts: Hearts) -> Table:
    """As many daemons as there are partitions, on a broker for each core at most."""
    cores = len(os.sched_getaffinity(0))
    table = Table(
        "partitions", "brokers", "messages/s", "ratio to one", title="By partition, QoS 1"
    )
    packets = [stream(hearts, MESSAGES, 100, 1, 1, b"beats/%d/p%d-%%d" % (i, i)) for i in range(4)]
    one = 0.0
    for number in (1, 2, 4):
        with ExitStack() as stack:
            brokers = []
            for i in range(min(number, cores)):
                own = folder / f"{number}-broker-{i}"
                own.mkdir()
                brokers.append(stack.enter_context(Mosquitto(own, OPEN)))
            daemons = []
            for i in range(number):
                own = folder / f"{number}-daemon-{i}"
                own.mkdir()
                topic = {"INPUT__TOPIC": f"beats/{i}/{{device}}"}
                url = brokers[i % len(brokers)].url
                daemons.append(stack.enter_context(running(own, url, **topic)))
            rates = []
            for _ in range(TURNS):
                begun = time.perf_counter()
                with ThreadPoolExecutor(number) as pool:
                    ports = [brokers[i % len(brokers)].port for i in range(number)]
                    done = [
                        pool.submit(daemon_speed, daemon, port, own, 1, b"beats/%d/%%b" % i)
                        for i, (daemon, port, own) in enumerate(
                            zip(daemons, ports, packets, strict=False)
                        )
                    ]
                    for each in done:
                        each.result()
                rates.append(number * MESSAGES / (time.perf_counter() - begun))
        one = one or statistics.median(rates)
        rate = statistics.median(rates)
        table.add_row(str(number), str(len(brokers)), f"{rate:,.0f}", f"{rate / one:.2f}")
    return table


def many_devices(folder: Path, hearts: Hearts) -> Table:
    """One device beside a hundred thousand, each of which sends a beat in turn."""
    table = Table("devices", "messages/s", "ratio to one", "kB a device", title="Cost by device")
    packets = {n: stream(hearts, 100_000, n, 1, 1) for n in (1, 100_000)}
    rates: dict[int, list[float]] = {n: [] for n in packets}
    grown: dict[int, list[float]] = {n: [] for n in packets}
    for _ in range(3):
        for n, some in packets.items():
            with Mosquitto(folder, OPEN) as broker, running(folder, broker.url) as daemon:
                before = resident(daemon)
                rates[n].append(daemon_speed(daemon, broker.port, some, 1).rate)
                grown[n].append(resident(daemon) - before)
    ratios = [b / a for a, b in zip(rates[1], rates[100_000], strict=True)]
    for n in packets:
        ratio = 1.0 if n == 1 else statistics.median(ratios)
        size = (statistics.median(grown[n]) - statistics.median(grown[1])) / n
        kilobytes = f"{size:.2f}" if n > 1 else ""
        table.add_row(f"{n:,}", f"{statistics.median(rates[n]):,.0f}", f"{ratio:.2f}", kilobytes)
    return table


def endurance(folder: Path, hearts: Hearts) -> Table:
    """Memory over a million messages, and the time to start."""
    table = Table("messages", "resident MB", title="Memory")
    packets = stream(hearts, 100_000, 100, 1, 1)
    with Mosquitto(folder, OPEN) as broker, running(folder, broker.url) as daemon:
        for n in range(10):
            daemon_speed(daemon, broker.port, packets, 1)
            if n in (0, 4, 9):
                table.add_row(f"{(n + 1) * len(packets):,}", f"{resident(daemon) / 1000:.1f}")
    times = []
    with Mosquitto(folder, OPEN) as broker:
        for _ in range(TURNS):
            begun = time.perf_counter()
            with running(folder, broker.url):
                times.append(time.perf_counter() - begun)
    table.caption = f"start-up until well: {statistics.median(times):.2f} s (median of {TURNS})"
    return table


def resident(daemon: RunningDaemon) -> int:
    """The daemon's memory in kB."""
    pages = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") // 1000


def seconds_of(
    work: Callable[[], object], times: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds that one run takes, by this clock: the fastest of five series."""
    series = []
    for _ in range(5):
        begun = clock()
        for _ in range(times):
            work()
        series.append((clock() - begun) / times)
    return min(series)


def costs(hearts: Hearts) -> Table:
    """Where the time goes, a beat, when this many are worked on at once."""
    sizes = (1, 16, 256)
    table = Table("microseconds a beat, in a batch of", *map(str, sizes), title="Where time goes")
    detector = Detector(shipped("ecg"))
    rows: dict[str, list[float]] = {}
    for n in sizes:
        for name, work in parts(hearts.normal(n), detector).items():
            rows.setdefault(name, []).append(1e6 * seconds_of(work, max(5, 2000 // n)) / n)
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.2f}" for value in values))
    return table


def parts(beats: NDArray[np.float32], detector: Detector) -> dict[str, Callable[[], object]]:
    """What is done with a batch of beats, one a message, part by part."""
    n, topic = len(beats), b"ecg/bed-7/beats"
    payloads = as_float32("bed-7", beats)
    texts = as_json("bed-7", beats, None)
    bodies = [packet(topic, message.payload, 1, 7)[3:] for message in payloads]
    topics = Topics(["ecg/{device}/beats"])
    alarms, metrics = (
        Alarms(Policy(window=10, raise_at=3, clear_at=0)),
        Metrics(CollectorRegistry()),
    )
    keys = fingerprints(beats).tolist()
    scores = detector.score(beats).scores

    def decide() -> None:
        for key in keys:
            device = alarms.hear("bed-7", 0.0)
            alarms.observe("bed-7", device, b"\0", [key], [0.0])

    def count() -> None:
        metrics.received.inc(n)
        metrics.scored.inc(n)
        metrics.inference.observe(0.001)
        metrics.batch.observe(n)
        metrics.ratio.observe(scores)

    return {
        "read a PUBLISH packet": lambda: [parse_publish(0x32, body, False) for body in bodies],
        "find the device": lambda: [topics.device(topic) for _ in range(n)],
        "decode float32": lambda: [codec.decode(message.payload) for message in payloads],
        "decode JSON instead": lambda: [codec.decode(message.payload) for message in texts],
        "judge the signal": lambda: quality.assess(beats),
        "score": lambda: detector.score(beats),
        "tell beats apart": lambda: fingerprints(beats).tolist(),
        "decide": decide,
        "count": count,
        "acknowledge": lambda: [struct.pack("!BBH", 0x40, 2, 7) for _ in range(n)],
    }


def main() -> None:
    """Print every table, or those that are named."""
    hearts = Hearts(datasets.ecg())
    console = Console(width=130)
    chosen = sys.argv[1:]
    tables = (throughput, batches, signals, partitions, latency, many_devices, endurance)
    for measure in tables:
        if not chosen or measure.__name__ in chosen:
            with tempfile.TemporaryDirectory() as folder:
                console.print(measure(Path(folder), hearts))
    if not chosen or "costs" in chosen:
        console.print(costs(hearts))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        raise SystemExit(f"error: {failure}") from None
