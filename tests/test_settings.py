"""The settings: who wins, what is refused and how it is said, and that no secret is told."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.configuration import flags, load
from monitor.errors import CONFIGURATION, USAGE, ConfigurationError
from monitor.settings import RhythmTable, Settings
from monitor.settings_toml import to_toml

SECRET = "correct-horse/battery"  # noqa: S105


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ECG_MONITOR_"):
            monkeypatch.delenv(name)


def same(one: Settings, other: Settings) -> bool:
    return one.model_dump() == other.model_dump()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor", *arguments],
        env={**os.environ, **{f"ECG_MONITOR_{name}": text for name, text in environment.items()}},
        capture_output=True,
        text=True,
        timeout=30,
    )


# -- who wins


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "monitor.toml"
    file.write_text(
        "[mqtt]\nbroker = 'mqtt://file:1'\nclient_id = 'file'\nreceive_maximum = 7\n"
        "[alarm]\nwindow = 30\n[input]\ntopic = 'file/{device}'\n"
    )
    monkeypatch.setenv("ECG_MONITOR_MQTT__BROKER", "mqtt://environment:2")
    monkeypatch.setenv("ECG_MONITOR_MQTT__CLIENT_ID", "environment")
    monkeypatch.setenv("ECG_MONITOR_ALARM__RAISE_AT", "9")
    settings = load(file, flags(broker=["mqtt://flag:3"]))
    assert settings.mqtt.addresses == [("flag", 3)]
    assert settings.mqtt.client_id == "environment"
    assert settings.mqtt.receive_maximum == 7
    assert (settings.alarm.window, settings.alarm.raise_at, settings.alarm.clear_at) == (30, 9, 0)
    assert settings.input.topic == ["file/{device}"]
    assert load().mqtt.client_id == "environment"
    assert load().mqtt.receive_maximum == 1000
    assert Settings().mqtt.broker == ["mqtt://localhost:1883"]  # the schema alone reads nothing


@pytest.mark.parametrize(
    ("text", "topics"),
    [
        ("a/{device}", ["a/{device}"]),
        ('["a/{device}", "$share/g/b/{device}/#"]', ["a/{device}", "$share/g/b/{device}/#"]),
    ],
)
def test_one_topic_or_several_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, topics: list[str]
) -> None:
    monkeypatch.setenv("ECG_MONITOR_INPUT__TOPIC", text)
    assert load().input.topic == topics


@pytest.mark.parametrize(
    ("broker", "address", "tls"),
    [
        ("mqtt://host", ("host", 1883), False),
        ("mqtts://host", ("host", 8883), True),
        ("mqtts://10.0.0.1:99/", ("10.0.0.1", 99), True),
        ("mqtt://[::1]:1884", ("::1", 1884), False),
    ],
)
def test_the_broker_has_an_address(broker: str, address: tuple[str, int], tls: bool) -> None:
    mqtt = load(None, flags(broker=[broker])).mqtt
    assert (mqtt.addresses, mqtt.tls) == ([address], tls)


# -- what is refused

WRONG = [
    ("mqtt", "broker", "http://host", "mqtt://HOST:PORT"),
    ("mqtt", "broker", "mqtt://host:99999", "mqtt://HOST:PORT"),
    ("mqtt", "broker", "mqtt://host:0", "mqtt://HOST:PORT"),
    ("mqtt", "broker", "mqtt://[::1", "mqtt://HOST:PORT"),
    ("mqtt", "broker", "mqtt://host/path", "mqtt://HOST:PORT"),
    ("mqtt", "broker", "", "mqtt://HOST:PORT"),
    ("mqtt", "protocol", "4", "'5' or '3.1.1'"),
    ("mqtt", "client_id", "", "at least 1"),
    ("mqtt", "client_id", "a/b", "match pattern"),
    ("mqtt", "receive_maximum", "0", "greater than or equal to 1"),
    ("mqtt", "receive_maximum", "65536", "less than or equal to 65535"),
    ("mqtt", "receive_maximum", "many", "integer"),
    ("mqtt", "session_expiry", "-1", "greater than or equal to 0"),
    ("mqtt", "ca_file", "/there/is/none", "readable file"),
    ("mqtt", "cert_file", "/there/is/none", "readable file"),
    ("mqtt", "key_file", "/there/is/none", "readable file"),
    ("mqtt", "password_file", "/there/is/none", "readable file"),
    ("input", "topic", "ecg/+/beats", "{device}"),
    ("input", "topic", "{device}/{device}", "{device}"),
    ("input", "topic", "ecg/x{device}/beats", "{device}"),
    ("input", "topic", "$share/{device}", "$share/GROUP/FILTER"),
    ("input", "topic", "#/{device}", "whole levels"),
    ("input", "topic", "a+/{device}", "whole levels"),
    ("input", "topic", "[1", "delimiter"),
    ("input", "topic", "[]", "at least 1"),
    ("input", "qos", "2", "0 or 1"),
    ("model", "devices", '{"bed-7":', "a table as JSON"),
    ("rhythm", "devices", "bed-7", "a table as JSON"),
    ("segment", "topic", "ecg/+/samples", "{device}"),
    ("segment", "qos", "x", "0 or 1"),
    ("segment", "rate", "0", "greater than 0"),
    ("notify", "page", "ward.example", "must be http://HOST:PORT or https://HOST"),
    ("notify", "timezone", "Mars/Phobos", "must be a time zone such as Europe/Berlin"),
    ("notify", "timezone", "/etc/passwd", "must be a time zone such as Europe/Berlin"),
    ("history", "days", "-1", "greater than or equal to 0"),
    ("history", "megabytes", "0", "greater than or equal to 1"),
    ("history", "megabytes", "1000000001", "less than or equal to 1000000000"),
    ("metrics", "allowed_hosts", "http://ward", "host name"),
    ("input", "payload", "xml", "'auto', 'json' or 'float32'"),
    ("model", "false_alarm_rate", "0", "greater than 0"),
    ("model", "false_alarm_rate", "1", "less than 1"),
    ("model", "threshold", "nan", "finite"),
    ("model", "threshold", "inf", "finite"),
    ("alarm", "window", "0", "greater than or equal to 1"),
    ("alarm", "window", "1001", "less than or equal to 1000"),
    ("alarm", "window", "2.5", "integer"),
    ("alarm", "raise_at", "0", "greater than or equal to 1"),
    ("alarm", "raise_at", "37", "at most alarm.window = 36"),
    ("alarm", "clear_at", "6", "below alarm.raise_at = 6"),
    ("alarm", "silent_after", "-1", "greater than or equal to 0"),
    ("alarm", "silent_after", "inf", "finite"),
    ("output", "topic", "ecg/+/{device}", "{device}"),
    ("output", "topic", "ecg", "{device}"),
    ("output", "scores", "maybe", "boolean"),
    ("metrics", "port", "65536", "less than or equal to 65535"),
    ("metrics", "port", "http", "integer"),
]


@pytest.mark.parametrize(("table", "key", "value", "allowed"), WRONG)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, table: str, key: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(f"ECG_MONITOR_{table.upper()}__{key.upper()}", value)
    with pytest.raises(ConfigurationError) as refused:
        load()
    said = str(refused.value)
    assert said.startswith(f"{table}.{key} = ")
    assert value in said
    assert allowed in said
    assert said.isprintable()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[brokr]\n", "brokr: no such setting; --print-config lists all settings"),
        ("[mqtt]\nbrokr = 1\n", "mqtt.brokr: no such setting"),
        ("mqtt = 5\n", "mqtt: must be a table"),
        ("[input]\ntopic = 5\n", "input.topic = 5: "),
        (
            '[input]\ntopic = "ecg\\u0000/{device}"\n',
            r"input.topic = 'ecg\x00/{device}': must be printable",
        ),
        (f"[input]\ntopic = '{'x' * 65_000}/{{device}}'\n", "of at most 65,000 bytes"),
        (
            '[output]\ntopic = "ecg\\n/{device}"\n',
            r"output.topic = 'ecg\n/{device}': must be printable",
        ),
        ('[mqtt]\nclient_id = "a\\nb"\n', r"mqtt.client_id = 'a\nb': must be printable"),
        ('[mqtt]\nusername = "a\\u0000"\n', r"mqtt.username = 'a\x00': must be printable"),
        ('[model]\npath = "a\\u0000"\n', r"model.path = 'a\x00': must be a path"),
        ("[input]\ntopic = [5]\n", "input.topic.0 = 5: "),
        ("[mqtt]\nclient_id = 5\n", "mqtt.client_id = 5: "),
        ("[model]\npath = 5\n", "model.path = 5: "),
        ("[model]\nthreshold = 1\nfalse_alarm_rate = 0.1\n", "exclude each other"),
        (
            "[mqtt]\nusername = 'a'\npassword = 'b'\npassword_file = '{file}'\n",
            "exclude each other",
        ),
        ("[mqtt]\npassword = 'b'\n", "mqtt.password needs mqtt.username"),
        ("[mqtt]\nkey_file = '{file}'\n", "mqtt.key_file needs mqtt.cert_file"),
        ("[input]\ntopic = 'ecg/{device}/alarm'\n", "input.topic = ecg/{device}/alarm: would take"),
        ("[input]\ntopic = 'ecg/{device}/#'\n", "input.topic = ecg/{device}/#: would take our own"),
        ("[output]\ntopic = 'a/{device}'\n[input]\ntopic = '+/{device}/+'\n", "would take our own"),
        (
            "[segment]\ntopic = 'ecg/{device}/#'\n",
            "segment.topic = ecg/{device}/#: would take our own alerts for samples",
        ),
        (
            "[segment]\ntopic = '$share/g/ecg/{device}/beats'\n",
            "segment.topic = $share/g/ecg/{device}/beats: would take beats "
            "(input.topic = ecg/{device}/beats) for samples",
        ),
        (
            "[output]\ntopic = 'out/{device}'\n[input]\ntopic = ['a/{device}', 'ecg/{device}/+']\n",
            "segment.topic = ecg/{device}/samples: would take beats (input.topic = ecg/{device}/+)",
        ),
        (
            "[notify.people.a]\nurl = 'json://h'\nhours = '20-8'\n",
            "notify.people.a.hours = '20-8': must be HH:MM-HH:MM, such as 20:00-08:00",
        ),
        ("[notify.people.a]\nurl = 'x'\nkinds = ['x']\n", "notify.people.a.kinds.0 = 'x': "),
        ("[notify.people.a]\nurl = 'x'\nafter = -1\n", "notify.people.a.after = -1: "),
        ("[notify.people.a]\nafter = 1\n", "notify.people.a: needs url or url_file, and not both"),
        (
            "[rhythm.devices.'bed-7']\nbradycardia = -1\n",
            'rhythm.devices."bed-7".bradycardia = -1: input should be greater than 0',
        ),
        (
            "[rhythm.devices.'bed-7']\nbradycardi = 50\n",
            'rhythm.devices."bed-7".bradycardi: no such setting; allowed are asystole_after, ',
        ),
        (
            "[rhythm.devices.'bed-7']\nbradycardia = 200\n",
            'rhythm.devices."bed-7": rhythm.bradycardia = 200: must be below rhythm.tachycardia',
        ),
        ("[notify.people.'']\nurl = 'x'\n", "a name must be printable text"),
        ("not TOML", "--config {file}: "),
        ("[mqtt]\nbroker = \n", "--config {file}: "),
        ("\xff", "--config {file}: "),
        ("a = " + "[" * 100_000, "--config {file}: "),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "monitor.toml"
    file.write_bytes(text.replace("{file}", str(file)).encode("latin-1"))
    with pytest.raises(ConfigurationError, match=re.escape(said.replace("{file}", str(file)))):
        load(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(ConfigurationError, match=f"^--config {path}: no such file"):
            load(path)
    if (unreadable := Path("/proc/self/mem")).is_file():
        with pytest.raises(ConfigurationError, match=f"^--config {unreadable}: "):
            load(unreadable)


@given(
    st.dictionaries(
        st.sampled_from([*Settings.model_fields, "other"]),
        st.none()
        | st.integers()
        | st.text()
        | st.dictionaries(
            st.sampled_from([key for table in load().model_dump().values() for key in table]),
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([[]]),
        ),
        max_size=3,
    )
)
def test_any_settings_are_taken_or_refused_in_words(given: dict[str, Any]) -> None:
    try:
        settings = load(None, given)
    except ConfigurationError as error:
        assert str(error)
    else:
        assert isinstance(settings, Settings)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--broker", "host"], {}, "mqtt.broker = 'host': must be mqtt://HOST:PORT"),
        (["--config", "none.toml"], {}, "--config none.toml: no such file"),
        (["--model", "none.onnx"], {}, "none.onnx"),
        ([], {"ALARM__WINDOW": "x"}, "alarm.window = 'x': "),
        ([], {"MQTT": "no JSON"}, "mqtt: must be a table as JSON"),
        ([], {"METRICS__HOST": "192.0.2.1"}, "metrics.host = '192.0.2.1'"),
    ],
)
def test_the_daemon_refuses_with_one_line_and_exit_code_78(
    arguments: list[str], environment: dict[str, str], said: str
) -> None:
    ran = command("run", *arguments, **environment)
    assert ran.returncode == CONFIGURATION
    assert ran.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", ran.stderr)
    assert said in ran.stderr


def test_segment_names_the_setting_of_a_rate_that_it_cannot_cut_at() -> None:
    ran = command("segment", SEGMENT__RATE="99")
    assert ran.returncode == CONFIGURATION
    assert "segment.rate = 99.0: sampling rate 99 Hz: allowed is at least 100 Hz" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["run", "--nonsense"],
        ["run", "argument"],
        ["run", "--config"],
        ["replay"],
        ["replay", "beats.csv"],
        ["replay", "beats.csv", "--device", "a", "--rate", "3"],
        ["replay", "beats.csv", "--device", "a", "--qos", "2"],
        ["demo", "--seconds", "0"],
        ["watch", "--device", "a/b"],
        ["batch", "nonsense"],
    ],
)
def test_wrong_usage_is_exit_code_64_and_no_traceback(arguments: list[str]) -> None:
    ran = command(*arguments)
    assert ran.returncode == USAGE, ran.stderr
    assert ran.stdout == ""
    assert ran.stderr
    assert "Traceback" not in ran.stderr


# -- secrets


def test_a_password_is_in_nothing_that_is_printed(tmp_path: Path) -> None:
    settings = load(None, {"mqtt": {"username": "ward", "password": SECRET}})
    assert settings.mqtt.secret == SECRET
    for text in (repr(settings), str(settings), to_toml(settings), repr(settings.model_dump())):
        assert SECRET not in text
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    settings = load(None, {"mqtt": {"username": "ward", "password_file": file}})
    assert settings.mqtt.secret == SECRET
    assert SECRET not in repr(settings) + to_toml(settings)


@pytest.mark.parametrize(
    "environment",
    [
        {"MQTT__PASSWORD": SECRET},
        {"MQTT__PASSWORD__X": SECRET},
        {"MQTT__PASSWORD": SECRET, "MQTT__USERNAME": "a", "MQTT__PASSWORD_FILE": "/dev/null"},
        {"MQTT__PASSWORD": SECRET, "MQTT__USERNAME": "a", "MQTT__BROKER": "host"},
        {"MQTT__BROKER": f"mqtt://ward:{SECRET}@host:1883"},
        {"MQTT": f'["{SECRET}"]'},
        {"MQTT": f'{{"password": ["{SECRET}"]}}'},
        {"MQTT": f'{{"password": "{SECRET}", '},
    ],
)
def test_a_password_is_in_no_error(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"ECG_MONITOR_{name}", value)
    with pytest.raises(ConfigurationError) as refused:
        load()
    assert "mqtt" in str(refused.value)
    assert SECRET not in str(refused.value)
    assert refused.value.__suppress_context__


@pytest.mark.parametrize(
    "environment",
    [
        {"URL": SECRET, "URL_FILE": "/dev/null"},
        {"URL": SECRET, "HOURS": "8-9"},
        {"URL": SECRET, "URLS": SECRET},
        {"URL__X": SECRET},
        {"": f'["{SECRET}"]'},
        {"": f'{{"url": ["{SECRET}"]}}'},
        {"": f'{{"url": "{SECRET}", '},
    ],
)
def test_a_url_is_in_no_error(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"ECG_MONITOR_NOTIFY__PEOPLE__NURSE__{name}".rstrip("_"), value)
    with pytest.raises(ConfigurationError) as refused:
        load()
    assert "notify.people.nurse" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_who_is_called_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "URL": "json://h",
        "KINDS": '["silent", "asystole"]',
        "DEVICES": "bed-*",
        "AFTER": "60",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"ECG_MONITOR_NOTIFY__PEOPLE__NURSE__{name}", value)
    nurse = load().notify.people["nurse"]
    assert nurse.address("nurse") == "json://h"
    assert (nurse.kinds, nurse.devices) == (["silent", "asystole"], ["bed-*"])
    assert (nurse.after, nurse.priority, nurse.days) == (60, "medium", [])


def test_who_is_called_is_printed_without_how(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"json://{SECRET}\n")
    people = {
        "night nurse": {"url": f"json://{SECRET}", "days": ["fri"], "kinds": ["silent"]},
        "doctor": {"url_file": file, "after": 90.0, "devices": ["bed-?"]},
    }
    settings = load(None, {"notify": {"people": people}})
    for name, person in settings.notify.people.items():
        assert person.address(name) == f"json://{SECRET}"
    for text in (repr(settings), to_toml(settings), repr(settings.model_dump())):
        assert SECRET not in text
    printed = tomllib.loads(to_toml(settings))
    printed["notify"]["people"]["night nurse"]["url"] = f"json://{SECRET}"
    assert load(None, printed).notify == settings.notify


# -- --print-config


def test_what_is_printed_is_toml_with_a_line_on_each_setting_and_loads_back(
    tmp_path: Path,
) -> None:
    ran = command("run", "--print-config", ALARM__WINDOW="12", MQTT__CLIENT_ID="ward")
    assert ran.returncode == 0
    assert ran.stderr == ""
    file = tmp_path / "monitor.toml"
    file.write_text(ran.stdout)
    expected = load(None, {"alarm": {"window": 12}, "mqtt": {"client_id": "ward"}})
    assert same(load(file), expected)
    lines = ran.stdout.splitlines()
    for table, keys in expected.model_dump().items():
        assert f"[{table}]" in lines
        for key in keys:
            name = rf"{key} =|\[{table}\.{key}\]"
            at = next(i for i, line in enumerate(lines) if re.match(rf"(# )?({name})", line))
            assert re.match(r"# .+\.$", lines[at - 1]), key
            assert "None" not in lines[at - 1]


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    topics=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1),
    number=st.floats(allow_nan=False, allow_infinity=False),
    yes=st.booleans(),
)
def test_any_settings_survive_being_printed(
    text: str, topics: list[str], number: float, yes: bool
) -> None:
    clean = ["".join(filter(str.isprintable, re.sub(r"[/+#{}]", "", each))) for each in topics]
    path = Path(text.replace("\0", ""))
    given = {
        "segment": {"lead": text},
        "input": {"topic": [f"ecg/{{device}}/beats{topic}" for topic in clean]},
        "model": {
            "threshold": number,
            "devices": {text: Path("a.onnx"), "*": path},
            "folder": path,
        },
        "alarm": {"silent_after": abs(number)},
        "output": {"scores": yes, "topic": "out/{device}"},
    }
    settings = load(None, given)
    printed = tomllib.loads(to_toml(settings))
    assert same(load(None, printed), settings)


def test_a_bracket_in_a_devices_pattern_is_a_bracket() -> None:
    rhythm = RhythmTable(devices={"bed[7]": {"bradycardia": 30}, "bed*": {"bradycardia": 50}})
    limits = [rhythm.for_device(name).bradycardia for name in ("bed[7]", "bed7", "ward")]
    assert limits == [30, 50, 40]
