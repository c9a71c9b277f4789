"""Renders the kustomize base and its overlay as `kubectl apply -k` would, and reads what a cluster would get."""

import asyncio
import shutil
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner
from pydantic.warnings import PydanticDeprecatedSince212

from extproc.cli.main import main
from extproc.cli.serve import command as serve
from extproc.config import Config, parse_config
from extproc.process.states import opened
from extproc.serving.health import SERVICES
from looper.calling.budget import Budget, Ledger
from looper.errors import StateUnavailable
from looper.patterns.workflows import WorkflowsConfig
from looper.patterns.workflows.pauses.pausing import Origin, Spent
from looper.patterns.workflows.pauses.state import RedisState
from looper.run import Deadline
from tests.fakes.certificates import certify
from tests.fakes.envoy import free_port
from tests.fakes.needs import command
from tests.fakes.redis import binary

with warnings.catch_warnings():
    warnings.simplefilter("ignore", PydanticDeprecatedSince212)
    from extproc.bootstrap import render

Yaml = dict[str, Any]

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy/kustomize/base"
REDIS = ROOT / "deploy/kustomize/overlays/redis"
KUBERNETES = ("1.30", "1.37")
"""The oldest version that has all we use switched on, and the newest whose schemas we have."""


@pytest.fixture(scope="module")
def kubectl() -> str:
    return command("kubectl", "kubernetes-client")


@pytest.fixture(scope="module", params=[BASE, REDIS], ids=lambda place: place.name)
def place(request: pytest.FixtureRequest) -> Path:
    """The base, and then the overlay: what holds for the one holds for the other."""
    found: Path = request.param
    return found


@pytest.fixture(scope="module")
def manifests(kubectl: str, place: Path) -> list[Yaml]:
    return rendered(kubectl, place)


def rendered(kubectl: str, place: Path) -> list[Yaml]:
    done = subprocess.run(
        [kubectl, "kustomize", str(place)], capture_output=True, text=True, timeout=30, check=False
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


@pytest.fixture(scope="module")
def overlay(kubectl: str) -> list[Yaml]:
    return rendered(kubectl, REDIS)


@pytest.fixture(scope="module")
def state(overlay: list[Yaml]) -> RedisState:
    data = named(overlay, "ConfigMap", "looper-config")["data"]
    found = parse_config(data["looper.yaml"], "looper.yaml").state
    assert isinstance(found, RedisState)
    return found


@pytest.fixture(scope="module")
def looper(overlay: list[Yaml]) -> Yaml:
    spec: Yaml = named(overlay, "Deployment", "looper")["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def redis(overlay: list[Yaml]) -> Yaml:
    spec: Yaml = named(overlay, "Deployment", "looper-redis")["spec"]["template"]["spec"]
    return spec


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

    def test_what_is_there(self, manifests: list[Yaml], place: Path) -> None:
        """The base makes these objects and no others, and the overlay some more. No Secret is among them."""
        base = {
            ("ServiceAccount", "looper"),
            ("Service", "looper"),
            ("Deployment", "looper"),
            ("ConfigMap", "looper-config"),
            ("ConfigMap", "looper-envoy"),
        }
        more = {
            ("PodDisruptionBudget", "looper"),
            ("NetworkPolicy", "looper-redis"),
            ("Service", "looper-redis"),
            ("Deployment", "looper-redis"),
            ("ConfigMap", "looper-redis"),
        }
        assert {(each["kind"], each["metadata"]["name"]) for each in manifests} == (
            base if place == BASE else base | more
        )

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
        """The models' keys are mounted in Envoy and reach the processor in no way; other Secrets reach it alone."""
        secrets = {each["name"] for each in pod["volumes"] if "secret" in each}
        assert mounts(envoy)["/etc/looper-keys"] == "model-keys"
        assert secrets & set(mounts(envoy).values()) == {"model-keys"}
        assert secrets & set(mounts(processor).values()) == secrets - {"model-keys"}
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
        assert ports(processor)["grpc-health"] == int(port)

    def test_the_kubelet_can_reach_health(self, processor: Yaml) -> None:
        """gRPC health listens beyond loopback, because the kubelet is not in the pod."""
        assert serve_options(processor)["health"].startswith("0.0.0.0:")

    def test_the_console_is_for_the_pod_alone(self, processor: Yaml) -> None:
        """Nobody reaches it who may not forward ports, and it spends nothing."""
        options = serve_options(processor)
        assert options["admin"].startswith("127.0.0.1:")
        assert options["playground"] is None

    def test_readiness_of_envoy(self, envoy: Yaml, config: Config) -> None:
        """Envoy is asked on its statistics listener; its admin interface is a socket of the pod's."""
        probe = envoy["readinessProbe"]["httpGet"]
        assert probe == {"path": "/ready", "port": "stats"}
        assert ports(envoy)["stats"] == port_of(config.envoy.stats)
        assert folder(config.envoy.admin) == "/run/looper"

    def test_prometheus_finds_the_statistics(
        self, deployment: Yaml, processor: Yaml, config: Config
    ) -> None:
        """The scrape annotations name the port of the statistics listener, which shows the processor's page, too."""
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(port_of(config.envoy.stats))
        page = serve_options(processor)["metrics"]
        assert page == config.envoy.metrics
        assert folder(page) == "/run/looper"

    def test_a_pod_ends_after_its_loops(self, pod: Yaml, envoy: Yaml, config: Config) -> None:
        """Envoy stays for the longest loop's deadline, and the pod's time is enough for both to end."""
        stays = envoy["lifecycle"]["preStop"]["sleep"]["seconds"]
        options = serve_options(pod["initContainers"][0])
        assert stays > longest_loop(config)
        assert pod["terminationGracePeriodSeconds"] > stays + options["drain"] + options["grace"]

    def test_clients_leave_before_it_ends(self, processor: Yaml, envoy: Yaml) -> None:
        """The processor's hook, which has a program for it, asks Envoy's admin socket, of which it has read."""
        hook = processor["lifecycle"]["preStop"]["exec"]["command"]
        assert hook == ["looper", "drain", str(serve_options(processor)["option"])]
        assert mounts(processor)["/run/looper"] == mounts(envoy)["/run/looper"]


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
        path = Path(serve_options(processor)["option"])
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

    def test_no_file_is_left_out(self, manifests: list[Yaml], place: Path) -> None:
        """Every file that was generated is in the ConfigMap."""
        data = named(manifests, "ConfigMap", "looper-envoy")["data"]
        assert data.keys() == {path.name for path in (place / "config/envoy").glob("*.yaml")}

    def test_the_product_finds_it_good(self, place: Path) -> None:
        """`looper check` has nothing to say against it."""
        said = CliRunner().invoke(main, ["check", str(place / "config/looper.yaml")])
        assert said.exit_code == 0, said.output

    def test_runs_wait_where_all_pods_find_them(self, deployment: Yaml, config: Config) -> None:
        """Where there is more than one pod, no recipe has runs wait in the memory of one."""
        pauses = any(
            isinstance(decision.loop, WorkflowsConfig)
            for recipe in config.recipes.values()
            for decision in recipe.decisions
        )
        assert not pauses or isinstance(config.state, RedisState)
        assert deployment["spec"]["replicas"] > 1

    def test_models_are_in_the_cluster(self, config: Config) -> None:
        """The base needs no key: its models are services of the cluster, without credentials."""
        for model in config.models:
            assert ".svc.cluster.local:8000/v1" in str(model.url)
            assert model.api_key is None


class TestRedis:
    """What only the overlay has: a store that all pods share."""

    def test_the_base_is_for_what_does_not_wait(self, kubectl: str) -> None:
        """Its processors have a memory of their own each, so it must have no workflow."""
        data = named(rendered(kubectl, BASE), "ConfigMap", "looper-config")["data"]
        assert "workflows" not in data["looper.yaml"]

    def test_all_that_is_secret_is_a_reference(self, state: RedisState, looper: Yaml) -> None:
        """Each file that `state` names is one of a Secret that is mounted in the processor, and nothing else is."""
        (processor,) = looper["initContainers"]
        files = {
            f"{path}/{item['path']}"
            for path, name in mounts(processor).items()
            for item in volume(looper, name).get("secret", {}).get("items", [])
        }
        assert state.password is not None
        named_files = {state.password.file, state.ca, *(key.file for key in state.keys)}
        assert files == named_files

    def test_the_key_is_not_where_the_runs_are(self, redis: Yaml) -> None:
        """Redis gets its password and its certificate, and not the key that what it holds is encrypted with."""
        assert volume(redis, "password")["secret"]["items"] == [
            {"key": "redis-password", "path": "redis-password"}
        ]
        sources = [volume(redis, each["name"]) for each in redis["volumes"]]
        assert [each["secret"]["secretName"] for each in sources if "secret" in each] == [
            "looper-state",
            "looper-redis-tls",
        ]

    def test_processors_find_it(self, overlay: list[Yaml], state: RedisState, redis: Yaml) -> None:
        """The URL is that of the Service, over TLS, which leads to the one pod of Redis."""
        service = named(overlay, "Service", "looper-redis")["spec"]
        deployment = named(overlay, "Deployment", "looper-redis")["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        (port,) = service["ports"]
        assert state.url == f"rediss://looper-redis:{port['port']}/0"
        assert service["selector"].items() <= labels.items()
        assert ports(redis["containers"][0]) == {port["targetPort"]: port["port"]}
        assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})

    def test_nobody_else_reaches_it(self, overlay: list[Yaml], looper: Yaml) -> None:
        """Only pods of looper may connect, and Redis may connect to nobody."""
        policy = named(overlay, "NetworkPolicy", "looper-redis")["spec"]
        deployments = {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
            for each in overlay
            if each["kind"] == "Deployment"
        }
        (rule,) = policy["ingress"]
        (peer,) = rule["from"]
        allowed = peer["podSelector"]["matchLabels"]
        assert policy["podSelector"]["matchLabels"].items() <= deployments["looper-redis"].items()
        assert allowed.items() <= deployments["looper"].items()
        assert not allowed.items() <= deployments["looper-redis"].items()
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert "egress" not in policy

    def test_pods_leave_one_by_one(self, overlay: list[Yaml]) -> None:
        """A node that is emptied takes one pod of looper at a time, and Redis is none of them."""
        budget = named(overlay, "PodDisruptionBudget", "looper")["spec"]
        labels = {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
            for each in overlay
            if each["kind"] == "Deployment"
        }
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"].items() <= labels["looper"].items()
        assert not budget["selector"]["matchLabels"].items() <= labels["looper-redis"].items()

    def test_its_container_can_change_nothing(self, redis: Yaml) -> None:
        """An ordinary user, no capability, no writable file, and a ceiling for memory above its own."""
        assert redis["securityContext"]["runAsNonRoot"] is True
        (container,) = redis["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert all(each["readOnly"] for each in container["volumeMounts"])
        assert "memory" in container["resources"]["limits"]

    async def test_a_processor_keeps_runs_in_it(
        self, overlay: list[Yaml], state: RedisState, redis: Yaml
    ) -> None:
        """The command that was rendered, with files of ours, is a Redis that takes what `state` says, and only that."""
        binary()
        (container,) = redis["containers"]
        with TemporaryDirectory(prefix="re-", dir="/tmp") as path:
            here = Here(Path(path), free_port())
            here.write(named(overlay, "ConfigMap", "looper-redis")["data"]["redis.conf"])
            started = await asyncio.create_subprocess_exec(
                *map(here.moved, container["command"]),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                await here.until_ready(container["readinessProbe"]["exec"]["command"])
                assert here.password not in Path(f"/proc/{started.pid}/cmdline").read_text()
                settings = RedisState.model_validate(
                    yaml.safe_load(here.moved(yaml.safe_dump(state.model_dump(mode="json"))))
                )
                async with opened(settings, {}) as states:
                    origin = Origin("run", "looper/auto", "general", "agents", None)
                    pause = states.pause(origin, Spent(), Ledger(Budget()), Deadline.after(1))
                    ids = [pause.call()]
                    await pause.keep(b"{}")
                    assert (await states.find(ids, "looper/auto", None)).paused.origin == origin
                    here.secret("redis-password", "guessed")
                    async with opened(settings, {}) as others:
                        with pytest.raises(StateUnavailable):
                            await others.find(ids, "looper/auto", None)
            finally:
                started.terminate()
                assert await asyncio.wait_for(started.wait(), 10) == 0


@dataclass(frozen=True, slots=True)
class Here:
    """A folder and a port on this machine in place of those of a pod."""

    folder: Path
    port: int
    password: str = "password-of-a-test"

    def moved(self, text: str) -> str:
        for path in ("/etc/looper-state", "/etc/looper-redis-ca", "/etc/redis-tls", "/etc/redis"):
            text = text.replace(f"{path}/", f"{self.folder}{path}/")
        text = text.replace("redis-cli", f"redis-cli -p {self.port}")
        return text.replace("tls-port 6379", f"tls-port {self.port}").replace(
            "looper-redis:6379", f"localhost:{self.port}"
        )

    def write(self, configuration: str) -> None:
        """What the volumes would hold."""
        tls, state, ca = (
            self.folder / "etc" / name for name in ("redis-tls", "looper-state", "looper-redis-ca")
        )
        for each in (tls, state, ca, self.folder / "etc/redis"):
            each.mkdir(parents=True)
        certify(tls, "tls", "DNS:localhost")
        (tls / "tls.pem").rename(tls / "tls.crt")
        for each in (tls, ca):
            shutil.copy(tls / "ca.pem", each / "ca.crt")
        self.secret("redis-password", self.password)
        self.secret("key", "k" * 64)
        (self.folder / "etc/redis/redis.conf").write_text(self.moved(configuration))

    def secret(self, name: str, value: str) -> None:
        (self.folder / "etc/looper-state" / name).write_text(f"{value}\n")

    async def until_ready(self, probe: list[str]) -> None:
        """Until the probe that was rendered says so."""
        async with asyncio.timeout(60):
            while True:
                asked = await asyncio.create_subprocess_exec(
                    *map(self.moved, probe), stderr=asyncio.subprocess.DEVNULL
                )
                if await asked.wait() == 0:
                    return
                await asyncio.sleep(0.05)


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
