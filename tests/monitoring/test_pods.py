"""Which of a pod's ports the configuration for a cluster scrapes, and how."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.fakes.needs import command
from tests.fakes.prometheus import ROOT, SHIPPED, run_prometheus

BASE = ROOT / "deploy" / "kustomize" / "base"
LABEL = "__meta_kubernetes_pod"


def rendered() -> dict[str, Any]:
    """The pod of the shipped deployment."""
    kubectl = command("kubectl", "kubernetes-client")
    made = subprocess.run(
        [kubectl, "kustomize", str(BASE)], capture_output=True, check=True, timeout=30
    )
    [deployment] = [
        each for each in yaml.safe_load_all(made.stdout) if each["kind"] == "Deployment"
    ]
    template: dict[str, Any] = deployment["spec"]["template"]
    return template


def discovered(
    template: dict[str, Any], name: str, phase: str = "Running"
) -> Iterator[dict[str, Any]]:
    """What Prometheus finds out of a pod with `role: pod`: a target for each port of each container, init ones too."""
    app = template["metadata"]["labels"]["app.kubernetes.io/name"]
    spec = template["spec"]
    for container in (*spec["containers"], *spec["initContainers"]):
        for port in container["ports"]:
            yield {
                "targets": [f"127.0.0.2:{port['containerPort']}"],
                "labels": {
                    "__meta_kubernetes_namespace": "ai",
                    f"{LABEL}_name": name,
                    f"{LABEL}_phase": phase,
                    f"{LABEL}_label_app_kubernetes_io_name": app,
                    f"{LABEL}_container_port_name": port["name"],
                },
            }


async def test_both_pages_of_every_pod_are_scraped() -> None:
    """Envoy's statistics and the processor's page, and no port beside them; of other pods, and ended ones, none.

    Debian's Prometheus cannot ask Kubernetes: what that would say is told it in a file.
    """
    template = rendered()
    other = json.loads(
        json.dumps(template).replace(
            '"app.kubernetes.io/name": "looper"', '"app.kubernetes.io/name": "shop"'
        )
    )
    pods = [
        *discovered(template, "looper-1"),
        *discovered(template, "looper-2", phase="Succeeded"),
        *discovered(other, "shop-1"),
    ]
    config = yaml.safe_load((SHIPPED / "prometheus-pods.yaml").read_text())
    with TemporaryDirectory(prefix="lp-", dir="/tmp") as folder:
        (Path(folder) / "pods.json").write_text(json.dumps(pods))
        for job in config["scrape_configs"]:
            assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
            job["file_sd_configs"] = [{"files": [f"{folder}/pods.json"]}]
        config["rule_files"] = []
        path = Path(folder) / "prometheus.yaml"
        path.write_text(yaml.safe_dump(config))
        async with run_prometheus(path) as prometheus:

            async def seen() -> bool:
                return len((await prometheus.get("targets"))["activeTargets"]) == 2

            await prometheus.until(seen)
            targets = (await prometheus.get("targets"))["activeTargets"]
    assert {each["labels"]["job"]: each["scrapeUrl"] for each in targets} == {
        "looper-envoy": "http://127.0.0.2:9902/stats/prometheus",
        "looper-processor": "http://127.0.0.2:9902/metrics",
    }
    assert {(each["labels"]["namespace"], each["labels"]["pod"]) for each in targets} == {
        ("ai", "looper-1")
    }


def test_both_configurations_keep_the_same() -> None:
    def kept(name: str) -> list[Any]:
        config = yaml.safe_load((SHIPPED / name).read_text())
        return [job.get("metric_relabel_configs") for job in config["scrape_configs"]]

    assert kept("prometheus-pods.yaml") == kept("prometheus-static.yaml")
