"""What stands in docker/kubernetes: valid, in accord with itself and with the rest of docker/."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from monitor import __version__
from monitor.configuration import load
from monitor.settings import Settings
from tests.harness.shipped import DOCKER

FOLDER = DOCKER / "kubernetes"
DOCS = (DOCKER.parent / "docs" / "cluster.md").read_text()
NATS_CONF = (DOCKER / "cluster" / "nats.conf").read_text()
PARTITIONS = 3

OLDEST = "1.31"
"""Kubernetes has had `matchLabelKeys` of an affinity since then."""

PARTS = ("kustomization.yaml", "learn/monitor.yaml")
"""Ends of the names of files that say how the others are put together."""

Resource = dict[str, Any]


@pytest.fixture(scope="module", params=["as shipped", "with models of patients"])
def resources(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return all that `kubectl apply -k` would apply."""
    folder = shutil.copytree(DOCKER, tmp_path_factory.mktemp("kubernetes") / "docker")
    if request.param != "as shipped":
        with (folder / "kubernetes" / "kustomization.yaml").open("a") as file:
            file.write("components: [learn]\n")
    if (kubectl := shutil.which("kubectl")) is None:
        # Not even in CI, for no package of Debian 12 has one that is new enough.
        pytest.skip("kubectl is not installed")
    command = [kubectl, "kustomize", str(folder / "kubernetes")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def of(resources: list[Resource], kind: str) -> dict[str, Resource]:
    """Return the resources of a kind by their names."""
    return {each["metadata"]["name"]: each for each in resources if each["kind"] == kind}


def daemons(resources: list[Resource]) -> dict[str, Resource]:
    return {name: it for name, it in of(resources, "StatefulSet").items() if name != "nats"}


def template(workload: Resource) -> Resource:
    found: Resource = workload["spec"]["template"]
    return found


def container(workload: Resource) -> Resource:
    (found,) = template(workload)["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def selected(resources: list[Resource], wanted: dict[str, str]) -> dict[str, Resource]:
    """Return the workloads whose pods have these labels."""
    return {
        name: each
        for name, each in of(resources, "StatefulSet").items()
        if wanted.items() <= template(each)["metadata"]["labels"].items()
    }


def ports(workload: Resource) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(workload)["ports"]}


# -- the schemas


def check(resource: Resource, version: str) -> None:
    """Raise if a resource does not fit its schema, or has a field that is none."""
    if resource["apiVersion"].startswith("monitoring.coreos.com"):
        file = Path(__file__).parent / "schemas" / f"{resource['kind']}.json"
        jsonschema.validate(resource, json.loads(file.read_text()))
    else:
        kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_every_resource_fits_its_schema(resources: list[Resource], version: str) -> None:
    for resource in resources:
        check(resource, version)
    assert len(resources) > 20


def test_every_file_fits_its_schema_as_it_stands() -> None:
    for file in FOLDER.rglob("*.yaml"):
        for resource in yaml.safe_load_all(file.read_text()):
            if not str(file).endswith(PARTS):
                check(resource, OLDEST)


@pytest.mark.parametrize(
    "kind", ["StatefulSet", "NetworkPolicy", "ServiceMonitor", "PrometheusRule"]
)
def test_a_misspelt_field_is_found(resources: list[Resource], kind: str) -> None:
    first = next(iter(of(resources, kind).values()))
    wrong = first | {"spec": first["spec"] | {"replicaz": 3}}
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(wrong, OLDEST)


# -- partitions


def test_there_are_as_many_pods_of_each_kind_as_partitions(resources: list[Resource]) -> None:
    assert set(re.findall(r"partition\((\d+),1\)", NATS_CONF)) == {str(PARTITIONS)}
    count = {name: each["spec"]["replicas"] for name, each in daemons(resources).items()}
    assert count.pop("learn", 1) == 1
    pairs = ["monitor", "monitor-standby", "segment", "segment-standby"]
    assert count == dict.fromkeys(pairs, PARTITIONS)


def environment(resources: list[Resource], workload: Resource, partition: int) -> Iterator[Any]:
    """Yield names and values as the pod of a partition gets them."""
    own = container(workload)
    for source in own["envFrom"]:
        yield from of(resources, "ConfigMap")[source["configMapRef"]["name"]]["data"].items()
    for entry in own["env"]:
        if entry["name"] == "PARTITION":
            path = "metadata.labels['apps.kubernetes.io/pod-index']"
            assert entry["valueFrom"]["fieldRef"]["fieldPath"] == path
        else:
            yield entry["name"], entry["value"].replace("$(PARTITION)", str(partition))


def settings_of(
    resources: list[Resource], name: str, partition: int, folder: Path, patch: pytest.MonkeyPatch
) -> Settings:
    """Return the settings that a pod loads, its Secrets being files in the folder."""
    for file in ("password", "ca.crt"):
        (folder / file).write_text("secret")
    with patch.context() as context:
        for key, value in environment(resources, daemons(resources)[name], partition):
            context.setenv(key, value.replace("/secrets/", f"{folder}/"))
        return load(None)


def test_each_pod_has_the_session_and_the_devices_of_its_partition(
    resources: list[Resource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = {f"nats-{number}" for number in range(3)}
    for name in daemons(resources):
        for partition in range(PARTITIONS):
            settings = settings_of(resources, name, partition, tmp_path, monkeypatch)
            assert settings.mqtt.tls
            assert {host for host, _ in settings.mqtt.addresses} == {f"{n}.nats" for n in nodes}
            assert settings.mqtt.standby
            if name == "learn":
                assert settings.input.topic == ["beats/+/{device}"]
                continue
            assert settings.mqtt.client_id == f"ecg-monitor-{partition}"
            if name.startswith("monitor"):
                assert settings.input.topic == [f"beats/{partition}/{{device}}"]
            else:
                assert settings.segment.topic == [f"samples/{partition}/{{device}}"]
                assert settings.input.topic == ["ecg/{device}/beats"]


def test_a_standby_differs_from_the_first_one_by_its_name_alone(resources: list[Resource]) -> None:
    for name in ("monitor", "segment"):
        first, standby = (daemons(resources)[each] for each in (name, f"{name}-standby"))
        text = json.dumps(standby).replace('"member": "standby"', '"member": "first"')
        assert json.loads(text.replace(f'"name": "{name}-standby"', f'"name": "{name}"')) == first
        assert first != standby


def test_a_partitions_two_keep_away_from_each_other(resources: list[Resource]) -> None:
    for name, each in daemons(resources).items():
        if name == "learn":
            continue
        apart = template(each)["spec"]["affinity"]["podAntiAffinity"]
        for preferred in apart["preferredDuringSchedulingIgnoredDuringExecution"]:
            term = preferred["podAffinityTerm"]
            assert term["matchLabelKeys"] == ["apps.kubernetes.io/pod-index"]
            both = selected(resources, term["labelSelector"]["matchLabels"])
            assert set(both) == {name.split("-")[0], f"{name.split('-')[0]}-standby"}


def test_the_images_are_those_that_docker_builds_of_this_version(resources: list[Resource]) -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    built = {each["image"] for each in services.values() if "build" in each}
    for workload in daemons(resources).values():
        folder, _, tag = container(workload)["image"].rpartition(":")
        assert folder.rpartition("/")[2] in built
        assert tag == __version__


# -- who finds and reaches whom


def test_services_find_pods_and_ports(resources: list[Resource]) -> None:
    services = of(resources, "Service")
    for name, service in services.items():
        pods = selected(resources, service["spec"]["selector"])
        assert pods, name
        for port in service["spec"]["ports"]:
            assert {ports(pod)[port["targetPort"]] for pod in pods.values()} == {port["port"]}
    for workload in of(resources, "StatefulSet").values():
        assert services[workload["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
        own = workload["spec"]["selector"]["matchLabels"]
        assert list(selected(resources, own).values()) == [workload]


def test_the_nodes_find_each_other_by_the_names_of_their_configuration(
    resources: list[Resource],
) -> None:
    nats = of(resources, "StatefulSet")["nats"]
    routes = re.findall(r"tls://(nats-\d):6222", NATS_CONF)
    assert routes == [f"nats-{number}" for number in range(nats["spec"]["replicas"])]
    spec = nats["spec"]
    domain = f"{spec['serviceName']}.{nats['metadata']['namespace']}.svc.cluster.local"
    assert template(nats)["spec"]["dnsConfig"]["searches"] == [domain]
    assert of(resources, "ConfigMap")["nats"]["data"]["nats.conf"] == NATS_CONF
    compose = yaml.safe_load((DOCKER / "cluster" / "compose.yaml").read_text())["services"]
    assert container(nats)["image"] == compose["nats-0"]["image"]
    listening = {int(port) for port in re.findall(r'listen: "0.0.0.0:(\d+)"', NATS_CONF)}
    assert set(ports(nats).values()) == listening - {4222}  # nobody uses its own protocol


def test_policies_and_budgets_name_pods_and_ports_that_are_there(resources: list[Resource]) -> None:
    policies = of(resources, "NetworkPolicy")
    assert policies["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    nats, daemon = policies["nats"]["spec"], policies["daemon"]["spec"]
    nodes = selected(resources, nats["podSelector"]["matchLabels"])
    assert set(nodes) == {"nats"}
    assert selected(resources, daemon["podSelector"]["matchLabels"]) == daemons(resources)
    (outwards,) = daemon["egress"]
    assert selected(resources, outwards["to"][0]["podSelector"]["matchLabels"]) == nodes
    assert outwards["ports"][0]["port"] in ports(nodes["nats"])
    (scraped,) = daemon["ingress"]
    assert all(scraped["ports"][0]["port"] in ports(each) for each in daemons(resources).values())
    mqtt, routes = nats["ingress"]
    assert "from" not in mqtt
    assert {mqtt["ports"][0]["port"], routes["ports"][0]["port"]} == set(ports(nodes["nats"]))
    for budget in of(resources, "PodDisruptionBudget").values():
        assert budget["spec"]["maxUnavailable"] == 1
        assert selected(resources, budget["spec"]["selector"]["matchLabels"])


def test_prometheus_finds_every_daemon_under_the_job_that_the_rules_know(
    resources: list[Resource],
) -> None:
    (monitor,) = of(resources, "ServiceMonitor").values()
    spec = monitor["spec"]
    wanted = spec["selector"]["matchLabels"].items()
    services = [
        each
        for each in of(resources, "Service").values()
        if wanted <= each["metadata"]["labels"].items()
    ]
    found = [name for each in services for name in selected(resources, each["spec"]["selector"])]
    assert sorted(found) == sorted(daemons(resources))
    jobs = {each["metadata"]["labels"][spec["jobLabel"]] for each in services}
    scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    known = {job["job_name"] for job in scraped["scrape_configs"]}
    assert jobs == known - (set() if "learn" in daemons(resources) else {"ecg-monitor-learn"})
    (endpoint,) = spec["endpoints"]
    for each in services:
        assert endpoint["port"] in {port["name"] for port in each["spec"]["ports"]}
    labels = {each["targetLabel"]: each for each in endpoint["relabelings"]}
    assert set(labels) == {"instance", "partition"}
    for name, each in daemons(resources).items():
        member = template(each)["metadata"]["labels"].get("member", "")
        divided = re.fullmatch(labels["partition"]["regex"], f"{member};2")
        assert (divided is not None) == (name != "learn")


def test_the_rules_are_those_of_docker_prometheus() -> None:
    written = subprocess.run(
        [FOLDER / "prometheus-rule.sh"], capture_output=True, text=True, check=True
    ).stdout
    anew = "write it with docker/kubernetes/prometheus-rule.sh"
    assert (FOLDER / "prometheus-rule.yaml").read_text() == written, anew
    rules = yaml.safe_load((DOCKER / "prometheus" / "rules.yml").read_text())
    assert yaml.safe_load(written)["spec"] == rules


# -- what a pod may do, and what it needs


def test_no_pod_has_more_rights_than_it_needs(resources: list[Resource]) -> None:
    (namespace,) = of(resources, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, workload in of(resources, "StatefulSet").items():
        spec, own = template(workload)["spec"], container(workload)
        user = 1883 if name == "nats" else 10001
        expected = {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user}
        assert expected.items() <= spec["securityContext"].items()
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not spec["automountServiceAccountToken"]
        assert not spec["enableServiceLinks"]
        assert own["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= own["resources"]["requests"].keys()
        assert "memory" in own["resources"]["limits"]


def test_the_probes_ask_where_the_daemons_answer(resources: list[Resource]) -> None:
    own = Settings()
    answering = {
        "monitor": own.metrics.port,
        "segment": own.segment.port,
        "learn": own.learn.port,
    }
    for name, workload in daemons(resources).items():
        it = container(workload)
        paths = {probe: it[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness")}
        assert all(each == {"path": "/livez", "port": "metrics"} for each in paths.values())
        assert it["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
        assert ports(workload) == {"metrics": answering[name.split("-")[0]]}


def test_what_a_pod_mounts_is_there_or_made_as_the_page_says(resources: list[Resource]) -> None:
    made = dict(re.findall(r"create secret generic ([\w-]+) (.+)", DOCS.replace("\\\n", "")))
    keys = {
        name: {Path(file).name for file in re.findall(r"--from-file=(\S+)", files)}
        for name, files in made.items()
    }
    for workload in of(resources, "StatefulSet").values():
        spec = template(workload)["spec"]
        volumes = {each["name"]: each for each in spec["volumes"]}
        claims = {each["metadata"]["name"] for each in workload["spec"]["volumeClaimTemplates"]}
        mounted = {each["name"] for each in container(workload)["volumeMounts"]}
        assert mounted == volumes.keys() | claims
        for volume in volumes.values():
            for source in volume.get("projected", {}).get("sources", [volume]):
                if "secret" in source:
                    secret = source["secret"]
                    wanted = {item["key"] for item in secret.get("items", [])}
                    assert wanted <= keys[secret.get("name") or secret["secretName"]]
                elif "configMap" in source:
                    assert source["configMap"]["name"] in of(resources, "ConfigMap")
                elif "persistentVolumeClaim" in source:
                    claim = source["persistentVolumeClaim"]["claimName"]
                    assert claim in of(resources, "PersistentVolumeClaim")
    assert set(re.findall(r'"/tls/([\w.]+)"', NATS_CONF)) == keys["nats-tls"]
