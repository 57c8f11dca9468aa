"""Write alarms as FHIR R5, for other systems: Bundles of DetectedIssue and Observation.

https://hl7.org/fhir/R5/detectedissue.html, observation.html, bundle.html
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import numpy as np

from monitor import __version__
from monitor.alarms import strips
from monitor.alarms.messages import Kind, Priority
from monitor.alarms.strips import AlarmStrip
from monitor.errors import Failure
from monitor.history import query
from monitor.history.query import PastAlarm
from monitor.times import rfc3339

SNOMED: Final = "http://snomed.info/sct"
LOINC: Final = "http://loinc.org"
MDC: Final = "urn:iso:std:iso:11073:10101"
UCUM: Final = "http://unitsofmeasure.org"


class Code(NamedTuple):
    """A code of a public terminology, and what it is called there."""

    system: str
    code: str
    display: str


KIND_CODES: Final[dict[Kind, tuple[Code, ...]]] = {
    "ventricular-fibrillation": (
        Code(SNOMED, "71908006", "Ventricular fibrillation"),
        Code(MDC, "665376", "Ventricular Fibrillation"),
    ),
    "asystole": (
        Code(SNOMED, "397829000", "Asystole"),
        Code(MDC, "199684", "MDC_EVT_ECG_ASYSTOLE"),
    ),
    "ventricular-tachycardia": (Code(SNOMED, "25569003", "Ventricular tachycardia"),),
    "bradycardia": (Code(SNOMED, "48867003", "Bradycardia"), Code(MDC, "665792", "Bradycardia")),
    "tachycardia": (Code(SNOMED, "3424008", "Tachycardia"),),
    "anomaly": (),
    "signal-quality": (),
    "silent": (),
}
"""Codes that mean the same as a kind. One that means more or less is left out: `code.text` always
holds our kind. Each was found in a public list, which docs/operating.md names.

A code of 11073 is its partition times 65,536, plus its number in it (3 × 65,536 + 3,076).
"""

ECG: Final = Code(MDC, "131328", "MDC_ECG_ELEC_POTL")
"""As in the specification's own example of an ECG."""

LEADS: Final = {
    "I": (Code(MDC, "131329", "MDC_ECG_ELEC_POTL_I"),),
    "II": (Code(MDC, "131330", "MDC_ECG_ELEC_POTL_II"),),
}
"""Leads of that example. Others are told by their names alone."""

HEART_RATE: Final = (
    Code(LOINC, "8867-4", "Heart rate"),
    Code(MDC, "147842", "MDC_ECG_HEART_RATE"),
)

VITAL_SIGNS: Final = Code(
    "http://terminology.hl7.org/CodeSystem/observation-category", "vital-signs", "Vital Signs"
)

SEVERITIES: Final[dict[Priority, str]] = {"high": "high", "medium": "moderate", "low": "low"}

ALARMS_A_BUNDLE: Final = 25
"""With strips of three leads at 360 Hz, 4 MB. An alarm makes up to five entries, and one more for
its device: far from 500, the limit of a widespread server (Azure Health Data Services)."""

DIGITS: Final = 6
"""Significant digits of a sample: a float32 has seven, an electrocardiograph's converter five."""

_NAMESPACE: Final = UUID("5d7f3f4c-2b0e-4c39-9d0e-3f6f1c0f4a55")
"""Chosen by chance, never to change: what is exported again has the same ids."""


def write(alarms: Iterable[PastAlarm], file: Path, now: float) -> None:
    """Print a Bundle for each `ALARMS_A_BUNDLE` alarms, one per line; without alarms an empty one.

    Alarms are read as they are printed, so that a long history needs no more memory.

    Args:
        alarms: to print.
        file: of the history, which holds their strips.
        now: in seconds since 1970.

    Raises:
        Failure: fhir.resources is not installed, or the history cannot be read.
    """
    try:
        from fhir.resources.bundle import Bundle
    except ImportError:
        raise Failure("--fhir needs fhir.resources: pip install 'ecg-monitor[fhir]'") from None
    rest = iter(alarms)
    page = list(islice(rest, ALARMS_A_BUNDLE))
    while True:
        found = {each.id: query.strip(file, each.id) for each in page if each.strip}
        kept = {alarm: strips.decode(strip) for alarm, strip in found.items() if strip is not None}
        print(Bundle.model_validate(bundle(page, kept, now)).model_dump_json())
        page = list(islice(rest, ALARMS_A_BUNDLE))
        if not page:
            return


def bundle(
    alarms: Iterable[PastAlarm], kept: Mapping[str, AlarmStrip], now: float
) -> dict[str, Any]:
    """Return a Bundle (collection) of alarms: devices first, then each alarm and what it is about.

    `kept` holds the strips of alarms by their ids.

    Entries refer to each other by `fullUrl`. The same alarm has the same ids in every export.
    """
    devices: dict[str, dict[str, Any]] = {}
    resources: list[dict[str, Any]] = []
    for alarm in alarms:
        device = devices.setdefault(alarm.device, _device(alarm.device))
        resources += _resources(alarm, kept.get(alarm.id), _url(device))
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": rfc3339(now),
        "entry": [
            {"fullUrl": _url(each), "resource": each} for each in [*devices.values(), *resources]
        ],
    }


def _resources(alarm: PastAlarm, strip: AlarmStrip | None, device: str) -> Iterator[dict[str, Any]]:
    """Yield a DetectedIssue, and Observations of its beat, strip, rate or pause, and judgement."""
    about = {
        "status": "final",
        # Who lies there is not known here.
        "subject": {"type": "Patient", "display": f"the patient at {alarm.device}"},
        "device": {"reference": device},
        "effectiveDateTime": alarm.raised,
    }
    evidence = [
        _resource("Observation", alarm.id, name, {**about, **content})
        for name, content in _measured(alarm, strip).items()
    ]
    issue = _resource("DetectedIssue", alarm.id, "alarm", _issue(alarm, device))
    if evidence:
        issue["evidence"] = [{"detail": [{"reference": _url(each)}]} for each in evidence]
    yield issue
    yield from evidence
    if (said := alarm.judged) is not None:
        content = {
            "status": "final",
            "code": {"text": "the alarm was true"},
            "subject": {"reference": device},
            "focus": [{"reference": _url(issue)}],
            "effectiveDateTime": said.time,
            "performer": [{"display": said.by}],
            "valueBoolean": said.verdict,
        }
        if said.note:
            content["note"] = [{"text": said.note}]
        yield _resource("Observation", alarm.id, "judgement", content)


def _issue(alarm: PastAlarm, device: str) -> dict[str, Any]:
    period = {"start": alarm.raised}
    if alarm.cleared is not None:
        period["end"] = alarm.cleared
    model = f", model {alarm.model}" if alarm.model else ""
    issue: dict[str, Any] = {
        "identifier": [{"value": alarm.id}],
        "status": "preliminary" if alarm.cleared is None else "final",
        "code": _concept(alarm.kind, *KIND_CODES[alarm.kind]),
        "severity": SEVERITIES[alarm.priority],
        "subject": {"reference": device},
        "identifiedPeriod": period,
        "author": {"type": "Device", "display": f"ecg-monitor {__version__}{model}"},
    }
    remarks = [
        f"escalated at {alarm.escalated}" if alarm.escalated else "",
        f"shelved by {alarm.shelved_by}" if alarm.shelved_by else "",
        "its end was not seen" if alarm.lost else "",
        f"goes on at the monitor {alarm.moved_to}" if alarm.moved_to else "",
    ]
    if any(remarks):
        issue["detail"] = "; ".join(filter(None, remarks))
    if alarm.acknowledged is not None:
        note = alarm.acknowledged.note
        issue["mitigation"] = [
            {
                "action": {"text": f"acknowledged: {note}" if note else "acknowledged"},
                "date": alarm.acknowledged.time,
                "author": {"type": "Practitioner", "display": alarm.acknowledged.by},
            }
        ]
    return issue


def _measured(alarm: PastAlarm, strip: AlarmStrip | None) -> dict[str, dict[str, Any]]:
    """Return the content of Observations by name: what the alarm was raised for."""
    found: dict[str, dict[str, Any]] = {}
    if alarm.beat is not None:
        found["beat"] = {
            "code": _concept("beat", ECG),
            "valueSampledData": _sampled(alarm.beat),
        }
        scores = {"score": alarm.score, "threshold": alarm.threshold}
        components = [
            {"code": {"text": name}, "valueQuantity": {"value": value}}
            for name, value in scores.items()
            if value is not None
        ]
        if components:
            found["beat"]["component"] = components
    if strip is not None:
        found["strip"] = {
            "code": _concept("strip", ECG),
            "effectiveDateTime": strip.time,
            "component": [
                {
                    "code": _concept(name, *LEADS.get(name, ())),
                    "valueSampledData": _signal(samples, strip),
                }
                for name, samples in strip.leads.items()
            ],
        }
    if alarm.heart_rate is not None:
        found["rate"] = {  # as the profile of vital signs wants it
            "category": [{"coding": [VITAL_SIGNS._asdict()]}],
            "code": _concept("heart rate", *HEART_RATE),
            "valueQuantity": _quantity(alarm.heart_rate, "beats/minute", "/min"),
        }
    if alarm.pause_s is not None:
        found["pause"] = {
            "code": {"text": "time without a QRS complex"},
            "valueQuantity": _quantity(alarm.pause_s, "s", "s"),
        }
    return found


def _sampled(samples: list[float]) -> dict[str, Any]:
    """Return samples as SampledData.

    A beat is resampled to 140 samples, and the history knows neither its length nor its unit, which
    depend on the model. So the interval is one sample (UCUM: `1`), and the unit is left out.
    """
    return {
        "origin": {"value": 0},
        "interval": 1,
        "intervalUnit": "1",
        "dimensions": 1,
        "data": _decimals(samples),
    }


def _signal(samples: list[float | None], strip: AlarmStrip) -> dict[str, Any]:
    return {
        "origin": _quantity(0, strip.unit, strip.unit),
        "interval": round(1000 / strip.rate, 6),
        "intervalUnit": "ms",
        "dimensions": 1,
        "data": _decimals(samples),
    }


def _decimals(samples: Iterable[float | None]) -> str:
    """Return samples as SampledData writes them: without an exponent, and E for lost ones."""
    return " ".join(
        "E"
        if value is None
        else np.format_float_positional(value, DIGITS, fractional=False, trim="-")
        for value in samples
    )


def _device(name: str) -> dict[str, Any]:
    content = {"identifier": [{"value": name}], "displayName": name}
    return _resource("Device", name, "device", content)


def _resource(kind: str, of: str, name: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": kind, "id": str(uuid5(_NAMESPACE, f"{name}\0{of}")), **content}


def _url(resource: dict[str, Any]) -> str:
    return f"urn:uuid:{resource['id']}"


def _concept(text: str, *codes: Code) -> dict[str, Any]:
    concept: dict[str, Any] = {"text": text}
    if codes:
        concept["coding"] = [code._asdict() for code in codes]
    return concept


def _quantity(value: float, unit: str, code: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": UCUM, "code": code}
