"""The Kubernetes objects: valid by their schemas, and in agreement with each other and a node."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from memcachepy.cli import _COMMANDS
from memcachepy.config import SETTINGS, NodeConfig, resolve
from memcachepy.membership import parse_url
from memcachepy.membership.url import DnsPlace

pytestmark = pytest.mark.once

TOP = Path(__file__).parents[2]
FILE = TOP / "scripts" / "deploy" / "kubernetes" / "memcachepy.yaml"
STOP_S = 30
"""To leave a list (8 s), then to stop (5 s), with room; as TimeoutStopSec= of the systemd unit."""


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name."""
    yaml = pytest.importorskip("yaml", reason="pip install kubernetes-validate (it has PyYAML)")
    found = list(yaml.safe_load_all(FILE.read_text()))
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


@pytest.fixture
def pod(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["StatefulSet", "memcachepy"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


@pytest.fixture
def config(objects: dict[tuple[str, str], dict[str, Any]], tmp_path: Path) -> NodeConfig:
    """What a node makes of the ConfigMap."""
    file = tmp_path / "memcachepy.toml"
    file.write_text(objects["ConfigMap", "memcachepy"]["data"]["memcachepy.toml"])
    found, warnings = resolve({}, {}, file)
    assert not warnings
    return found


def mebibytes(quantity: str) -> int:
    match = re.fullmatch(r"(\d+)Mi", quantity)
    assert match, quantity
    return int(match[1])


def test_objects_are_valid(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    assert len(objects) == 6
    version = validator.latest_version()
    for each in objects.values():
        validator.validate(each, version, strict=True)
    broken = {**objects["Service", "memcachepy"], "spec": {"port": 11211}}
    with pytest.raises(validator.ValidationError):
        validator.validate(broken, version, strict=True)


def test_everything_selects_the_pods(objects: dict[tuple[str, str], dict[str, Any]]) -> None:
    spec = objects["StatefulSet", "memcachepy"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert objects["PodDisruptionBudget", "memcachepy"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["NetworkPolicy", "memcachepy"]["spec"]["podSelector"]["matchLabels"] == labels
    for name in ("memcachepy", "memcachepy-nodes"):
        assert objects["Service", name]["spec"]["selector"] == labels


def test_the_list_is_that_of_the_headless_service(
    objects: dict[tuple[str, str], dict[str, Any]], container: dict[str, Any]
) -> None:
    spec = objects["StatefulSet", "memcachepy"]["spec"]
    service = objects["Service", spec["serviceName"]]["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False
    given = {each["name"]: each.get("value", "") for each in container["env"]}
    place = parse_url(given["MEMCACHEPY_JOIN"].replace("$(POD_NAMESPACE)", "cfg"))
    assert isinstance(place, DnsPlace)
    (port,) = service["ports"]
    assert place.name == f"_{port['name']}._tcp.{spec['serviceName']}.cfg.svc.cluster.local"
    assert place.port == 0
    names = [each["name"] for each in container["env"]]
    assert names.index("POD_NAMESPACE") < names.index("MEMCACHEPY_JOIN")  # Else it stays as it is.
    settings = {setting.variable for setting in SETTINGS.values()} | {"MEMCACHEPY_CONFIG"}
    assert {name for name in names if name.startswith("MEMCACHEPY_")} <= settings


def test_ports_are_those_of_the_node(
    objects: dict[tuple[str, str], dict[str, Any]], container: dict[str, Any], config: NodeConfig
) -> None:
    assert [each["containerPort"] for each in container["ports"]] == [config.port]
    assert [address.host for address in config.listen] == ["*"]
    for name in ("memcachepy", "memcachepy-nodes"):
        (port,) = objects["Service", name]["spec"]["ports"]
        assert port["port"] == config.port
        assert port["targetPort"] == container["ports"][0]["name"]


def test_the_configuration_is_where_the_node_looks(
    pod: dict[str, Any],
    container: dict[str, Any],
    objects: dict[tuple[str, str], dict[str, Any]],
) -> None:
    given = {each["name"]: each.get("value", "") for each in container["env"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    name = volumes["config"]["configMap"]["name"]
    (file,) = objects["ConfigMap", name]["data"]
    assert given["MEMCACHEPY_CONFIG"] == f"{mounts['config']}/{file}"
    tomllib.loads(objects["ConfigMap", name]["data"][file])


def test_memory_suffices(container: dict[str, Any], config: NodeConfig) -> None:
    limit = mebibytes(container["resources"]["limits"]["memory"])
    assert container["resources"]["requests"]["memory"] == f"{limit}Mi"
    needed = 1.01 * config.memory_limit + 128 + config.conn_limit * 32 / 1024
    assert needed <= limit <= 1.3 * needed


def test_probes_ask_the_node_and_have_the_time(container: dict[str, Any]) -> None:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[name]
        program, command, option, timeout_s = probe["exec"]["command"]
        assert (program, option) == ("memcachepy", "--timeout")
        assert command == "health"
        assert command in _COMMANDS
        # Time for Python to start, on a machine that is busy.
        assert float(timeout_s) + 2 < probe["timeoutSeconds"]
    ready, live = container["readinessProbe"], container["livenessProbe"]
    seconds = [each["periodSeconds"] * each["failureThreshold"] for each in (ready, live)]
    assert 2 * seconds[0] <= seconds[1], "a node must be out of the list before it is restarted"


def test_a_node_leaves_the_list_before_it_stops(
    pod: dict[str, Any], container: dict[str, Any]
) -> None:
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert int(seconds) >= 15
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + STOP_S


def test_pods_keep_the_restricted_profile(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
    assert kinds <= {"configMap", "emptyDir"}
    dockerfile = (TOP / "scripts" / "deploy" / "docker" / "Dockerfile").read_text()
    user, group = (pod["securityContext"][name] for name in ("runAsUser", "runAsGroup"))
    assert f"USER {user}:{group}" in dockerfile
