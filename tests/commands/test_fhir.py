"""`ecg-monitor alarms --fhir`, held to fhir.resources and, where it is, the official schema."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.bundle import Bundle

from monitor.alarms.kinds import KINDS
from monitor.alarms.messages import encode
from monitor.alarms.strips import AlarmStrip
from monitor.commands import fhir
from monitor.errors import Failure
from monitor.history import query
from monitor.history.store import Action, Judgement
from monitor.history.writer import HistoryWriter
from monitor.settings import HistorySettings
from monitor.times import rfc3339
from tests.harness.histories import NIGHT, alert, keep, lost_counter
from tests.harness.waiting import WITHIN

OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"
BEAT = [0.25, -1.5e-5, 0.0, 1234567.0, *[-0.1] * 136]
NOW = NIGHT + 5000


@pytest.fixture(scope="module")
def alarms(tmp_path_factory: pytest.TempPathFactory) -> list[query.PastAlarm]:
    """One alarm of each kind, the first one cleared, with all that people can do to it."""
    file = tmp_path_factory.mktemp("fhir") / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    about = {"asystole": {"pause_s": 4.5}, "tachycardia": {"heart_rate": 151.5}}
    for number, (kind, each) in enumerate(KINDS.items()):
        content: dict[str, Any] = {"kind": kind, "device": "bed <7>", "beat": BEAT}
        content |= {"priority": each.priorities[0], **about.get(kind, {})}
        if kind == "silent":
            content |= {"beat": None, "score": None, "reconstruction": None, "device": "bed-8"}
        keep(kept, alert(number, "raised", NIGHT + 100 * number, **content))
        if number == 0:
            keep(kept, alert(number, "cleared", NIGHT + 50, **content))
    kept.note(Action("acknowledged", "bed <7>", "Anna & Ben", NIGHT + 20, f"{0:032x}"))
    said = Judgement(f"{0:032x}", None, False, "being\nwashed", "Ben", NIGHT + 60)
    kept.judge(said).result(5)
    kept.close(WITHIN)
    return list(query.alarms(file))


@pytest.fixture(scope="module")
def bundle(alarms: list[query.PastAlarm]) -> dict[str, Any]:
    return fhir.bundle(alarms, {}, NOW)


def resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    every = [entry["resource"] for entry in bundle["entry"]]
    return [resource for resource in every if resource["resourceType"] == kind]


def by_kind(bundle: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {issue["code"]["text"]: issue for issue in resources(bundle, "DetectedIssue")}


def test_it_is_what_fhir_resources_takes(bundle: dict[str, Any]) -> None:
    Bundle.model_validate(bundle)
    (said,) = (each for each in resources(bundle, "Observation") if "valueBoolean" in each)
    said["valueBoolean"], right = "maybe", said["valueBoolean"]
    with pytest.raises(ValueError, match="valueBoolean"):
        Bundle.model_validate(bundle)
    said["valueBoolean"] = right


def test_it_is_what_the_official_schema_takes(bundle: dict[str, Any], data: Path) -> None:
    """https://hl7.org/fhir/R5/fhir.schema.json.zip, unpacked into the folder of the data sets."""
    import jsonschema

    file = data / "fhir.schema.json"
    if not file.is_file():
        pytest.skip(f"there is no {file}")
    schema = json.loads(file.read_text())
    whole = jsonschema.Draft6Validator(schema | {"oneOf": [{"$ref": "#/definitions/Bundle"}]})
    assert not [error.message for error in whole.iter_errors(bundle)]
    for entry in bundle["entry"]:
        resource = entry["resource"]
        own = {"$ref": f"#/definitions/{resource['resourceType']}"}
        single = jsonschema.Draft6Validator(schema | {"oneOf": [own]})
        assert not [error.message for error in single.iter_errors(resource)]


def test_its_parts_refer_to_each_other(bundle: dict[str, Any]) -> None:
    """And every entry has a `fullUrl` of its own, as bdl-7 and bdl-15 want it."""
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(set(urls)) == len(urls) == 2 + len(KINDS) + 7 + 2 + 1
    referred = re.findall(r'"reference": "([^"]*)"', json.dumps(bundle))
    assert set(referred) <= set(urls)
    assert {each["displayName"] for each in resources(bundle, "Device")} == {"bed <7>", "bed-8"}


def test_an_alarm_is_told_whole(bundle: dict[str, Any]) -> None:
    issues = by_kind(bundle)
    assert set(issues) == set(KINDS)
    issue = issues["ventricular-fibrillation"]
    assert (issue["status"], issue["severity"]) == ("final", "high")
    assert issue["identifier"] == [{"value": f"{0:032x}"}]
    assert issue["identifiedPeriod"] == {"start": rfc3339(NIGHT), "end": rfc3339(NIGHT + 50)}
    (seen,) = issue["mitigation"]
    assert (seen["date"], seen["author"]["display"]) == (rfc3339(NIGHT + 20), "Anna & Ben")
    (judged,) = (each for each in resources(bundle, "Observation") if "focus" in each)
    assert judged["focus"] == [{"reference": f"urn:uuid:{issue['id']}"}]
    assert (judged["valueBoolean"], judged["note"]) == (False, [{"text": "being\nwashed"}])
    others = [each for kind, each in issues.items() if kind != "ventricular-fibrillation"]
    assert {each["status"] for each in others} == {"preliminary"}
    # The codes that the specification requires (ValueSet detectedissue-severity).
    assert {each["severity"] for each in issues.values()} == {"high", "moderate", "low"}


def evidence(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    issue = by_kind(bundle)[kind]
    at = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    return [at[each["detail"][0]["reference"]] for each in issue.get("evidence", [])]


def test_a_beat_comes_back_from_its_samples(bundle: dict[str, Any]) -> None:
    beat, pause = evidence(bundle, "asystole")
    sampled = beat["valueSampledData"]
    # A number as the specification writes one, without an exponent.
    assert re.fullmatch(r"(-?\d*\.?\d+)( -?\d*\.?\d+)*", sampled["data"])
    found = [float(each) for each in sampled["data"].split()]
    assert found == pytest.approx(BEAT, rel=1e-5)
    assert "interval" in sampled and "offsets" not in sampled  # sdd-1
    assert [each["valueQuantity"]["value"] for each in beat["component"]] == [2.5, 1.0]
    assert pause["valueQuantity"]["value"] == 4.5
    assert evidence(bundle, "silent") == []


def test_a_strip_comes_with_its_leads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "history.db"
    kept = HistoryWriter(HistorySettings(file=file), file, lost_counter())
    keep(kept, raised := alert(1, "raised", NIGHT))
    strip = AlarmStrip(
        alarm=raised.id,
        time=rfc3339(NIGHT - 10),
        rate=250,
        leads={"II": [0.5, None, -0.25], "other": [0.0, 1.0, 2.0]},
        at=10,
    )
    kept.keep_strip(raised.id, raised.device, encode(strip))
    kept.close(WITHIN)
    fhir.write(query.alarms(file), file, NOW)
    _, drawn = evidence(json.loads(capsys.readouterr().out), "anomaly")
    assert drawn["effectiveDateTime"][:19] == rfc3339(NIGHT - 10)[:19]
    second, other = drawn["component"]
    assert second["code"]["coding"][0]["code"] == "131330"
    assert other["code"] == {"text": "other"}
    sampled = second["valueSampledData"]
    assert (sampled["data"], sampled["interval"]) == ("0.5 E -0.25", 4)
    assert (sampled["intervalUnit"], sampled["origin"]["code"]) == ("ms", "mV")


def test_a_rate_is_the_vital_sign_of_that_name(bundle: dict[str, Any]) -> None:
    _, rate = evidence(bundle, "tachycardia")
    assert rate["code"]["coding"][0]["code"] == "8867-4"
    assert (rate["valueQuantity"]["value"], rate["valueQuantity"]["code"]) == (151.5, "/min")


def test_it_has_the_same_ids_again(alarms: list[query.PastAlarm], bundle: dict[str, Any]) -> None:
    again = fhir.bundle(alarms[:1], {}, NOW + 1)
    urls = {entry["fullUrl"] for entry in bundle["entry"]}
    assert {entry["fullUrl"] for entry in again["entry"]} < urls


def test_many_alarms_are_many_bundles_one_per_line(
    alarms: list[query.PastAlarm], capsys: pytest.CaptureFixture[str]
) -> None:
    fhir.write(iter(alarms * 8), Path(), NOW)
    pages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    counts = [len(resources(page, "DetectedIssue")) for page in pages]
    assert counts == [25, 25, 14]
    assert max(len(page["entry"]) for page in pages) <= 500
    fhir.write([], Path(), NOW)
    (empty,) = capsys.readouterr().out.splitlines()
    assert json.loads(empty)["type"] == "collection"


def test_a_missing_library_is_said(
    alarms: list[query.PastAlarm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fhir.resources.bundle", None)
    with pytest.raises(Failure, match=r"pip install 'ecg-monitor\[fhir\]'"):
        fhir.write(alarms, Path(), NOW)


def test_the_codes_are_those_in_the_guide() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \| ([^|]*) \|", OPERATING.read_text(), re.M)
    told = {kind: (snomed.split(), mdc.split()) for kind, snomed, mdc in rows if kind in KINDS}
    assert set(told) == set(KINDS)
    for kind, codes in fhir.KIND_CODES.items():
        snomed, mdc = told[kind]
        assert snomed[:1] == [c.code for c in codes if c.system == fhir.SNOMED] or snomed == ["–"]
        assert mdc[:1] == [c.code for c in codes if c.system == fhir.MDC] or mdc == ["–"]
        assert len(codes) == (snomed != ["–"]) + (mdc != ["–"])
