"""Renders the kustomize base as `kubectl apply -k` would, and reads what a cluster would get."""

import os
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from pydantic.warnings import PydanticDeprecatedSince212

from extproc.__main__ import serve
from extproc.config import Config, parse_config
from extproc.server import SERVICES

with warnings.catch_warnings():
    warnings.simplefilter("ignore", PydanticDeprecatedSince212)
    from extproc.bootstrap import render

Yaml = dict[str, Any]

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy/kustomize/base"
KUBERNETES = ("1.30", "1.37")
"""The oldest version that has all we use switched on, and the newest whose schemas we have."""


@pytest.fixture(scope="module")
def kubectl() -> str:
    """The command; without it the tests are skipped, but not in CI, where nobody would notice."""
    found = shutil.which("kubectl")
    if found is None:
        reason = "kubectl is missing (Debian: apt-get install kubernetes-client)"
        if os.environ.get("CI") == "true":  # noqa: TID251  # a fact about the machine, not a setting
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def manifests(kubectl: str) -> list[Yaml]:
    done = subprocess.run(
        [kubectl, "kustomize", str(BASE)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def deployment(manifests: list[Yaml]) -> Yaml:
    return named(manifests, "Deployment", "looper")


@pytest.fixture(scope="module")
def pod(deployment: Yaml) -> Yaml:
    spec: Yaml = deployment["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def processor(pod: Yaml) -> Yaml:
    container: Yaml = pod["initContainers"][0]
    return container


@pytest.fixture(scope="module")
def envoy(pod: Yaml) -> Yaml:
    container: Yaml = pod["containers"][0]
    return container


@pytest.fixture(scope="module")
def config(manifests: list[Yaml]) -> Config:
    data = named(manifests, "ConfigMap", "looper-config")["data"]
    return parse_config(data["looper.yaml"], "looper.yaml")


def named(manifests: list[Yaml], kind: str, name: str) -> Yaml:
    [found] = [
        each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name
    ]
    return found


def mounts(container: Yaml) -> dict[str, str]:
    """Volume names under the paths where the container sees them."""
    return {each["mountPath"]: each["name"] for each in container["volumeMounts"]}


def volume(pod: Yaml, name: str) -> Yaml:
    [found] = [each for each in pod["volumes"] if each["name"] == name]
    return {key: value for key, value in found.items() if key != "name"}


def folder(address: str) -> str:
    return str(Path(address.removeprefix("unix:")).parent)


def serve_options(container: Yaml) -> Yaml:
    """The arguments as the command line reads them, defaults included."""
    command, *arguments = container["args"]
    assert command == "serve"
    with serve.make_context("serve", arguments) as context:
        return dict(context.params)


class TestManifests:
    @pytest.mark.parametrize("version", KUBERNETES)
    def test_every_field_is_known(self, manifests: list[Yaml], version: str) -> None:
        """Each object follows the strict schema of the oldest and the newest Kubernetes we support."""
        for each in manifests:
            kubernetes_validate.validate(each, version, strict=True)

    def test_what_is_there(self, manifests: list[Yaml]) -> None:
        """The base makes these objects and no others."""
        assert {(each["kind"], each["metadata"]["name"]) for each in manifests} == {
            ("ServiceAccount", "looper"),
            ("Service", "looper"),
            ("Deployment", "looper"),
            ("ConfigMap", "looper-config"),
            ("ConfigMap", "looper-envoy"),
        }

    def test_the_service_leads_to_the_pods(
        self, manifests: list[Yaml], deployment: Yaml, envoy: Yaml, config: Config
    ) -> None:
        """The Service selects the Deployment's pods, and its port is the one where Envoy takes clients."""
        service = named(manifests, "Service", "looper")["spec"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        [port] = service["ports"]
        assert service["selector"].items() <= labels.items()
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert ports(envoy)[port["targetPort"]] == port_of(config.envoy.ingress)

    def test_replicas_are_spread(self, deployment: Yaml, pod: Yaml) -> None:
        """More than one pod, on different nodes and in different zones where there are any."""
        assert deployment["spec"]["replicas"] > 1
        assert [each["topologyKey"] for each in pod["topologySpreadConstraints"]] == [
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        ]


class TestSecurity:
    def test_one_user_that_is_not_root(self, pod: Yaml) -> None:
        """Both containers run as the same ordinary user, or they could not open each other's sockets."""
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 65532
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["initContainers"], *pod["containers"]):
            assert not {"runAsUser", "runAsGroup"} & container["securityContext"].keys()

    def test_containers_can_change_nothing(self, pod: Yaml) -> None:
        """No capability, no way to gain one, and no writable file system but the sockets' folder."""
        for container in (*pod["initContainers"], *pod["containers"]):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            writable = [
                each["name"] for each in container["volumeMounts"] if not each.get("readOnly")
            ]
            assert writable == ["run"]

    def test_memory_is_bounded(self, pod: Yaml) -> None:
        """Each container asks for what it needs and has a ceiling for memory."""
        for container in (*pod["initContainers"], *pod["containers"]):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]

    def test_nothing_talks_to_kubernetes(self, manifests: list[Yaml], pod: Yaml) -> None:
        """The pod gets no token of the cluster's API, even if it is given another service account."""
        account = named(manifests, "ServiceAccount", pod["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False
        assert pod["automountServiceAccountToken"] is False

    def test_only_envoy_sees_the_keys(self, pod: Yaml, processor: Yaml, envoy: Yaml) -> None:
        """The Secret with the models' keys is mounted in Envoy and reaches the processor in no way."""
        secrets = {each["name"] for each in pod["volumes"] if "secret" in each}
        assert mounts(envoy)["/etc/looper-keys"] in secrets
        assert not secrets & set(mounts(processor).values())
        assert not {"env", "envFrom"} & processor.keys()
        # 0440: the group is the one user of the pod, and there is no "others" to read it.
        assert volume(pod, "model-keys")["secret"] == {
            "secretName": "looper-model-keys",
            "optional": True,
            "defaultMode": 0o440,
        }


class TestSidecar:
    def test_the_processor_outlives_envoy(self, pod: Yaml, processor: Yaml, envoy: Yaml) -> None:
        """A native sidecar: started before Envoy, which waits for its startup probe, and stopped after."""
        assert [each["name"] for each in pod["initContainers"]] == ["looper"]
        assert [each["name"] for each in pod["containers"]] == ["envoy"]
        assert processor["restartPolicy"] == "Always"
        assert "startupProbe" in processor

    def test_probes_ask_for_services_that_exist(self, processor: Yaml) -> None:
        """Each probe asks the health port for a service that the processor answers for."""
        _, port = serve_options(processor)["health"].split(":")
        probes = {
            name: processor[name]["grpc"]
            for name in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert {name: probe["service"] for name, probe in probes.items()} == {
            "startupProbe": "",
            "livenessProbe": "liveness",
            "readinessProbe": "readiness",
        }
        assert {probe["service"] for probe in probes.values()} <= set(SERVICES)
        assert {probe["port"] for probe in probes.values()} == {int(port)}
        assert ports(processor) == {"grpc-health": int(port)}

    def test_the_kubelet_can_reach_health(self, processor: Yaml) -> None:
        """gRPC health listens beyond loopback, because the kubelet is not in the pod."""
        assert serve_options(processor)["health"].startswith("0.0.0.0:")

    def test_readiness_of_envoy(self, envoy: Yaml, config: Config) -> None:
        """Envoy is asked on its statistics listener; its admin interface stays on loopback."""
        probe = envoy["readinessProbe"]["httpGet"]
        assert probe == {"path": "/ready", "port": "stats"}
        assert ports(envoy)["stats"] == port_of(config.envoy.stats)
        assert config.envoy.admin.startswith("127.0.0.1:")

    def test_prometheus_finds_the_statistics(self, deployment: Yaml, config: Config) -> None:
        """The scrape annotations name the port of the statistics listener."""
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(port_of(config.envoy.stats))

    def test_a_pod_ends_after_its_loops(self, pod: Yaml, envoy: Yaml, config: Config) -> None:
        """Envoy stays for the longest loop's deadline, and the pod's time is enough for both to end."""
        stays = envoy["lifecycle"]["preStop"]["sleep"]["seconds"]
        options = serve_options(pod["initContainers"][0])
        assert stays > longest_loop(config)
        assert pod["terminationGracePeriodSeconds"] > stays + options["drain"] + options["grace"]


class TestSockets:
    def test_envoy_connects_where_the_processor_listens(
        self, processor: Yaml, config: Config
    ) -> None:
        """The processor's sockets are the ones in Envoy's cluster."""
        assert serve_options(processor)["listen"] == config.envoy.processors

    def test_sockets_are_in_the_shared_folder(
        self, pod: Yaml, processor: Yaml, envoy: Yaml, config: Config
    ) -> None:
        """Both directions use sockets in one folder in memory that both containers mount writable."""
        folders = {folder(address) for address in (*config.envoy.processors, config.egress)}
        assert folders == {"/run/looper"}
        for container in (processor, envoy):
            assert mounts(container)["/run/looper"] == "run"
        assert volume(pod, "run")["emptyDir"]["medium"] == "Memory"


class TestConfiguration:
    def test_the_processor_reads_its_config_map(self, pod: Yaml, processor: Yaml) -> None:
        """The path on the command line is in the folder where the ConfigMap is mounted."""
        path = Path(serve_options(processor)["path"])
        assert path.name == "looper.yaml"
        source = volume(pod, mounts(processor)[str(path.parent)])
        assert source == {"configMap": {"name": "looper-config"}}

    def test_envoy_reads_its_config_map(self, pod: Yaml, envoy: Yaml) -> None:
        """Envoy starts from a folder, not from single files, whose changes it would not see."""
        path = Path(envoy["args"][envoy["args"].index("-c") + 1])
        assert path == Path("/etc/envoy/bootstrap.yaml")
        source = volume(pod, mounts(envoy)[str(path.parent)])
        assert source == {"configMap": {"name": "looper-envoy"}}
        assert not any("subPath" in each for each in envoy["volumeMounts"])

    def test_envoys_files_are_those_of_the_config(
        self, manifests: list[Yaml], config: Config
    ) -> None:
        """Envoy's files are up to date; if not: `looper envoy-config`, as deploy/README.md says."""
        data = named(manifests, "ConfigMap", "looper-envoy")["data"]
        expected = render(config, directory="/etc/envoy")
        assert data.keys() == expected.keys()
        for name, text in expected.items():
            assert data[name] == text, name

    def test_no_file_is_left_out(self, manifests: list[Yaml]) -> None:
        """Every file that was generated is in the ConfigMap."""
        data = named(manifests, "ConfigMap", "looper-envoy")["data"]
        assert data.keys() == {path.name for path in (BASE / "config/envoy").glob("*.yaml")}

    def test_models_are_in_the_cluster(self, config: Config) -> None:
        """The base needs no key: its models are services of the cluster, without credentials."""
        for model in config.models:
            assert ".svc.cluster.local:8000/v1" in model.url
            assert model.api_key is None


def ports(container: Yaml) -> dict[str, int]:
    return {each["name"]: each["containerPort"] for each in container["ports"]}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def longest_loop(config: Config) -> float:
    return max(
        decision.budget.deadline.total_seconds()
        for recipe in config.recipes.values()
        for decision in recipe.decisions
        if decision.loop is not None
    )
