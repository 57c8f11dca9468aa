"""The description of topics and payloads is true of what the program takes and sends."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import yaml
from jsonschema import Draft7Validator
from paho.mqtt.client import MQTTMessage
from paho.mqtt.client import topic_matches_sub as fits

from monitor import errors
from monitor.alarms import messages, operator_requests, patients, strips
from monitor.alarms.kinds import KINDS, RHYTHM_KINDS
from monitor.configuration import load
from monitor.ecg import chunks, codec
from monitor.ecg.beat import BYTES, SAMPLES
from monitor.ecg.simulator import Simulator
from monitor.mqtt import client
from monitor.settings import Settings
from monitor.topics import subscription, topic_of
from tests.harness.brokers import Mosquitto
from tests.harness.daemons import RunningDaemon
from tests.harness.pages import blocks
from tests.harness.waiting import wait_until

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "asyncapi.yaml").read_text())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
BEAT = [0.0, 1.0] * 70
TIME = "2026-11-21T12:00:00.000Z"


def validator(schema: str) -> Draft7Validator:
    return Draft7Validator(DOCUMENT | {"$ref": f"#/components/schemas/{schema}"})


def look_up(reference: str) -> Any:
    found: Any = DOCUMENT
    for key in reference.removeprefix("#/").split("/"):
        found = found[key]
    return found


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if "$ref" in part else []
        return own + [r for value in part.values() for r in references(value)]
    return [r for value in part for r in references(value)] if isinstance(part, list) else []


def allowed_values(schema: dict[str, Any]) -> set[object]:
    """The values of an enumeration, wherever the schema keeps it."""
    if "$ref" in schema:
        return allowed_values(look_up(schema["$ref"]))
    found = set(schema.get("enum", []))
    if "items" in schema:
        found |= allowed_values(schema["items"])
    return found.union(*(allowed_values(part) for part in schema.get("anyOf", [])))


def test_every_reference_leads_somewhere_and_nothing_is_left_over() -> None:
    used = set(references(DOCUMENT))
    for reference in used:
        assert look_up(reference)
    for kind in ("messages", "schemas", "parameters", "serverBindings", "securitySchemes"):
        assert {f"#/components/{kind}/{name}" for name in DOCUMENT["components"][kind]} <= used
    for schema in SCHEMAS:
        Draft7Validator.check_schema(SCHEMAS[schema])


@pytest.mark.parametrize(
    "struct",
    [
        messages.Acknowledged,
        messages.Alert,
        messages.Connection,
        messages.Judged,
        messages.RetainedAlarm,
        messages.Score,
        messages.Scores,
        messages.Shelved,
        messages.OpenAlarm,
        patients.Learning,
        patients.Patient,
        patients.Trial,
    ],
)
def test_schemas_have_the_fields_of_the_program_and_what_may_be_null(
    struct: type[msgspec.Struct],
) -> None:
    schema = SCHEMAS[struct.__name__]
    fields = msgspec.structs.fields(struct)
    assert set(schema["properties"]) == {f.name for f in fields}
    may_be_left_out = {f.name for f in fields if msgspec.UnsetType in get_args(f.type)}
    assert set(schema["required"]) == {f.name for f in fields} - may_be_left_out
    for field in fields:
        described = schema["properties"][field.name]
        may_be_null = type(None) in get_args(field.type)
        assert Draft7Validator(DOCUMENT | described).is_valid(None) == may_be_null, field.name
        choices = [c for part in (field.type, *get_args(field.type)) for c in get_args(part)]
        literals = {choice for choice in choices if isinstance(choice, str)}
        assert allowed_values(described) == literals, field.name


def test_encoded_messages_fit_their_schemas() -> None:
    alert = messages.Alert(
        id="0" * 32,
        alarm="0" * 32,
        device="bed-7",
        event="raised",
        kind="anomaly",
        priority="medium",
        time=TIME,
        since=TIME,
        score=2.0,
        threshold=1.0,
        beats_anomalous=3,
        beats_seen=10,
        model="ecg",
        beat=BEAT,
        reconstruction=BEAT,
    )
    without = {"score": None, "beat": None, "reconstruction": None}
    standing = messages.OpenAlarm("0" * 32, "silent", "medium", TIME)
    seen = msgspec.structs.replace(standing, acknowledged=messages.Acknowledged("Anna", TIME))
    for state in (
        alert,
        msgspec.structs.replace(alert, **without),
        msgspec.structs.replace(alert, **without, kind="bradycardia", heart_rate=38.0),
        msgspec.structs.replace(alert, **without, kind="asystole", pause_s=5.2),
        messages.RetainedAlarm(
            device="bed-7",
            state="alarm",
            priority="medium",
            time=TIME,
            alarms=[standing, seen, messages.OpenAlarm("1" * 32, "asystole", "high", TIME)],
            shelved=messages.Shelved("Anna", TIME, TIME, ("silent",)),
            anomalous="..x",
            poor="",
            seq=None,
            counted=["0" * 16],
            changes=1,
        ),
        messages.OpenAlarm("1" * 32, "asystole", "high", TIME, latched=True, over_since=TIME),
        messages.Connection("lost", TIME, TIME, 40, 100, 0, ["bed-7"]),
        messages.Connection("ok", TIME, None, 0, 0, 0, []),
        messages.Scores(
            "bed-7", [messages.Score(None, TIME, 0.5, False), messages.Score(7, TIME, 2.0, True)]
        ),
    ):
        validator(type(state).__name__).validate(msgspec.json.decode(messages.encode(state)))


@pytest.mark.parametrize(
    "message",
    [
        BEAT,
        [BEAT, BEAT],
        {"beats": [BEAT]},
        {"beats": [BEAT], "seq": 0, "time": TIME, "rr_ms": [812]},
        {"beats": [BEAT], "seq": None, "time": 1e12, "rr_ms": None, "lead": "II"},
        [],
        [[]],
        BEAT[:139],
        [BEAT, [0.0]],
        [*BEAT[:139], None],
        [*BEAT[:139], "1.5"],
        {},
        {"beats": []},
        {"beats": BEAT},
        {"beats": [BEAT], "seq": -1},
        {"beats": [BEAT], "seq": 2**53},
        {"beats": [BEAT], "seq": 1.5},
        {"beats": [BEAT, BEAT], "seqs": [7, 300]},
        {"beats": [BEAT], "seqs": [-1]},
        {"beats": [BEAT], "time": [1]},
        {"beats": [BEAT], "rr_ms": ["812"]},
        {"beats": [BEAT, BEAT], "rr_ms": [0, None]},
        {"beats": [BEAT], "rr_ms": [60_001]},
        {"beats": [BEAT], "rhythm": []},
        {"beats": [], "rhythm": [], "time": TIME},
        {"beats": [], "rhythm": [{"kind": "asystole", "since": TIME, "pause_s": 4.5}]},
        {"beats": [], "rhythm": [{"kind": "tachycardia", "since": 1e12, "heart_rate": -1}]},
        {"beats": [], "rhythm": [{"kind": "anomaly", "since": TIME}]},
        {"beats": [], "rhythm": [{"kind": "asystole"}]},
        {"beats": [], "rhythm": None},
        "beats",
        7,
        None,
    ],
    ids=lambda message: str(message)[:20] + "…" + str(message)[-20:],
)
def test_the_program_takes_the_messages_that_fit_and_no_others(message: object) -> None:
    try:
        codec.decode(msgspec.json.encode(message), codec.JSON_TYPE)
        taken = True
    except errors.Rejected:
        taken = False
    assert validator("Beats").is_valid(message) == taken


@pytest.mark.parametrize(
    "chunk",
    [
        {"samples": [0.5]},
        {"samples": [0.5, 1], "rate": 360, "seq": 72000},
        {"samples": [0.5], "rate": None, "seq": None},
        {"samples": []},
        {"samples": ["0.5"]},
        {"samples": [None]},
        {"leads": {"II": [0.5, None], "V1": [1, 2]}, "time": "2026-11-21T12:00:00Z"},
        {"leads": {}},
        {"leads": {"II": []}},
        {"leads": {"II": [0.5]}, "samples": [0.5]},
        {"samples": [0.5], "rate": "fast"},
        {"samples": [0.5], "seq": -1},
        {"samples": [0.5], "seq": 1.5},
        {"samples": [0.5] * 100_000},
        {"samples": [0.5] * 100_001},
        {"rate": 360},
    ],
    ids=lambda chunk: str(chunk)[:40],
)
def test_a_signal_is_taken_where_it_fits_and_else_not(chunk: object) -> None:
    try:
        chunks.decode(msgspec.json.encode(chunk))
        taken = True
    except errors.Rejected:
        taken = False
    assert validator("Samples").is_valid(chunk) == taken


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"beats": [{"seq": 3, "at": 0.5, "label": "V"}, {"seq": 4, "at": 0.5, "label": None}]},
        {"beats": [{"seq": 3, "at": 0.5, "label": "X"}]},
        {"beats": [{"at": 0.5}]},
        {"unit": "V"},
        {"alarm": "7"},
        {"rate": 0},
        {"at": -1},
        {"leads": {}},
        {"leads": {"": [None]}},
        {"leads": {"II": ["0.5"]}},
        {"leads": {name: [0.5] for name in ("I", "II", "III", "V1")}},
    ],
    ids=str,
)
def test_a_strip_is_taken_where_it_fits_and_else_not(changed: dict[str, object]) -> None:
    strip = {
        "alarm": "0" * 32,
        "time": TIME,
        "rate": 250,
        "leads": {"II": [0.5, None]},
        "at": 0.004,
    } | changed
    try:
        strips.decode(msgspec.json.encode(strip))
        taken = True
    except errors.Rejected:
        taken = False
    assert validator("AlarmStrip").is_valid(strip) == taken


@pytest.mark.parametrize(
    ("end", "request_"),
    [
        ("acknowledge", {"id": "0" * 32}),
        ("acknowledge", {"id": "0" * 32, "by": "Anna", "ward": 3}),
        ("acknowledge", {"id": "0" * 31}),
        ("acknowledge", {"id": "0" * 32, "note": "electrode changed"}),
        ("acknowledge", {"id": "0" * 32, "note": "x" * 201}),
        ("acknowledge", {"id": "0" * 32, "by": ""}),
        ("acknowledge", {"id": "0" * 32, "by": "x" * 101}),
        ("acknowledge", {"by": "Anna"}),
        ("acknowledge", "0" * 32),
        ("shelve", {"minutes": 1440, "by": "Anna"}),
        ("shelve", {"minutes": 0}),
        ("shelve", {"minutes": 1440.1}),
        ("shelve", {"minutes": -1}),
        ("shelve", {"minutes": "1"}),
        ("shelve", {"by": "Anna"}),
        ("admit", {}),
        ("admit", {"minutes": 0.5}),
        ("admit", {"minutes": None, "by": "Anna"}),
        ("discharge", {"keep_model": True}),
        ("discharge", {"keep_model": "yes"}),
        ("model", {"model": "previous", "by": "Anna"}),
        ("model", {"model": "best"}),
        ("model", {}),
        ("judge", {"id": "0" * 32, "verdict": False, "note": "washed"}),
        ("judge", {"id": "0" * 32}),
    ],
    ids=str,
)
def test_a_request_is_taken_where_it_fits_and_else_not(end: str, request_: object) -> None:
    try:
        topic = next(t for t in operator_requests.TOPICS if t.rpartition("/")[2] == end)
        operator_requests.decode(topic, msgspec.json.encode(request_))
        taken = True
    except errors.Rejected:
        taken = False
    channel = channel_of(topic_of("ecg/{device}", "bed-7", topic))
    (message_of,) = channel["messages"].values()
    payload = look_up(message_of["$ref"])["payload"]
    assert Draft7Validator(DOCUMENT | payload).is_valid(request_) == taken


def test_the_alert_in_the_guide_is_one() -> None:
    (block,) = (each for each in blocks("text") if each.text.startswith('{"id"'))
    validator("Alert").validate(json.loads(block.text))
    messages.decode_alert(block.text)


def test_every_topic_of_the_program_is_described() -> None:
    settings = load()
    described = {channel["address"] for channel in DOCUMENT["channels"].values()}
    assert {*settings.input.topic, *settings.segment.topic} <= described
    for end in (
        "alerts",
        "alarm",
        "scores",
        "strip",
        "learning",
        "patient",
        *operator_requests.TOPICS,
    ):
        assert topic_of(settings.output.topic, "{device}", end) in described


def channel_of(topic: str) -> dict[str, Any]:
    for channel in DOCUMENT["channels"].values():
        if fits(re.sub(r"{\w+}", "+", channel["address"]), topic):
            assert isinstance(channel, dict)
            return channel
    raise AssertionError(f"{topic} is not described")


def test_what_a_daemon_publishes_is_described(tmp_path: Path) -> None:
    """Each alarm of each kind, raised and cleared, over a real broker."""
    seen: list[tuple[str, bytes, int, bool]] = []

    def on_message(_client: object, _data: object, message: MQTTMessage) -> None:
        seen.append((message.topic, bytes(message.payload), message.qos, message.retain))

    simulator = Simulator(7)
    with Mosquitto(tmp_path) as broker:
        settings: Settings = load(None, {"mqtt": {"broker": broker.url}})
        subscriber = client.join(settings.mqtt, "test")
        subscriber.on_message = on_message
        subscriber.subscribe("#", qos=1)
        with RunningDaemon(
            tmp_path,
            broker.url,
            OUTPUT__SCORES="true",
            OUTPUT__HOME_ASSISTANT="true",
            ALARM__SILENT_AFTER="2",
            MODEL__FOLDER=str(tmp_path / "models"),
        ) as daemon:
            bed = subscription(settings.input.topic[0], device="bed-7")
            for beats in (
                simulator.normal(10),
                simulator.ectopic(12),
                np.zeros((12, SAMPLES), np.float32),
                simulator.normal(40),
            ):
                subscriber.publish(bed, beats.astype("<f4").tobytes(), qos=1)
            raised = 'ecg_monitor_alerts_total{event="raised",kind="silent",priority="medium"}'
            daemon.wait_until(raised, 1)
            shelve = topic_of(settings.output.topic, "bed-7", "alarm/shelve")
            subscriber.publish(shelve, messages.encode(operator_requests.Shelve(5, "Anna")), qos=1)
            wait_until(lambda: any(b'"silent"' in text for _, text, *_ in list(seen)))
            silent = next(text for _, text, *_ in seen if b'"silent"' in text)
            alarm = msgspec.json.decode(silent)["id"]  # the alert comes before the alarm
            seen_it = operator_requests.Acknowledge(alarm, "Anna")
            acknowledge = topic_of(settings.output.topic, "bed-7", "alarm/acknowledge")
            subscriber.publish(acknowledge, messages.encode(seen_it), qos=1)
            asked: operator_requests.Request
            for bed_of, asked in (
                ("bed-7", operator_requests.Admit(5.0, "Anna")),
                ("bed-9", operator_requests.Discharge(by="Anna")),  # nobody is known there
                ("bed-7", operator_requests.Choose("previous", "Anna")),
                ("bed-7", operator_requests.Judge("0" * 32, True)),
            ):
                topic = topic_of(settings.output.topic, bed_of, operator_requests.topic(asked))
                subscriber.publish(topic, messages.encode(asked), qos=1)
            again = subscription(settings.input.topic[0], device="bed-8")
            message = {"beats": simulator.normal(2).tolist(), "seq": 4, "rr_ms": [800, 810]}
            subscriber.publish(again, msgspec.json.encode(message), qos=1)
            daemon.wait_until("ecg_monitor_beats_received_total", 76)
            judge = topic_of(settings.output.topic, "bed-7", "alarm/judge")
            for identity in (alarm, "0" * 32):
                said = operator_requests.Judge(identity, False, "a nurse unplugged it")
                subscriber.publish(judge, messages.encode(said), qos=1)
            wait_until(lambda: sum(topic.endswith("/judged") for topic, *_ in list(seen)) >= 2)
            daemon.stop()
        wait_until(lambda: any(text == b"stopped" for _, text, *_ in list(seen)))
        late = client.join(settings.mqtt, "late")
        late.on_message = on_message
        late.subscribe("#", qos=1)
        wait_until(lambda: any(kept and b"stopped" in text for _, text, _, kept in list(seen)))
        for each in (subscriber, late):
            client.leave(each)

    requested = {"beats", *(each.rpartition("/")[2] for each in operator_requests.TOPICS)}
    kept = {topic for topic, _, _, retained in seen if retained}
    happened: set[tuple[str, str]] = set()
    for topic, payload, qos, _ in seen:
        channel = channel_of(topic)
        message_of = look_up(next(iter(channel["messages"].values()))["$ref"])
        if channel["address"].rpartition("/")[2] not in requested:
            operation = next(
                o["bindings"]["mqtt"]
                for o in DOCUMENT["operations"].values()
                if look_up(o["channel"]["$ref"]) is channel
            )
            assert (qos, topic in kept) == (operation["qos"], operation["retain"]), topic
        elif topic.endswith("/beats") and len(payload) % BYTES == 0:
            continue  # float32
        text = message_of["contentType"] == "text/plain"
        content: Any = payload.decode() if text else msgspec.json.decode(payload)
        Draft7Validator(DOCUMENT | message_of["payload"]).validate(content)
        if topic.endswith("/alerts"):
            happened.add((content["kind"], content["event"]))
    kinds = set(KINDS) - set(RHYTHM_KINDS)  # nothing here tells of a rhythm
    assert happened >= {(kind, "raised") for kind in kinds}
    assert {("anomaly", "cleared"), ("signal-quality", "cleared")} < happened
    assert {topic.rpartition("/")[2] for topic, *_ in seen} == {
        address.rpartition("/")[2]
        for channel in DOCUMENT["channels"].values()
        if (address := channel["address"]) not in load().segment.topic
        if not address.endswith(("/learning", "/strip"))  # of other daemons
    }
