"""deploy/ and the service: every figure, variable, port and path that is named there exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.packing.settings import GPU, TORCH, WORKERS
from serving.watching import metrics
from tests.clones import ROOT

pytestmark = pytest.mark.xdist_group("serving")

DEPLOY = ROOT / "deploy"
DOCS = ROOT / "docs" / "deployment.md"
PYTHON = [path for room in ("serving", "features") for path in (ROOT / room).rglob("*.py")]
OF_OTHERS = ("BENTOML_HOST", "BENTOML_PORT", "BENTOML_HOME", "GF_", "GRAFANA_PASSWORD")
OF_DEPLOY = ("LEITMOTIF_IMAGE", "LEITMOTIF_SOURCE", "LEITMOTIF_REPOSITORY")
"""Of deploy/compose.yaml alone: whoever types `docker compose up` sets them."""


def expressions() -> list[str]:
    """Every query of the dashboard, the alerts and the recorded figures."""
    dashboard = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
    told = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    return told + [rule["expr"] for group in groups for rule in group["rules"]]


def documents() -> dict[tuple[str, str], Any]:
    """By kind and name."""
    found = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def environments() -> Iterator[tuple[str, str]]:
    """Each variable that a container of the service is given, and its value or where it comes from."""
    told = documents()
    yield from told["ConfigMap", "leitmotif"]["data"].items()
    (container,) = told["Deployment", "leitmotif"]["spec"]["template"]["spec"]["containers"]
    yield from ((each["name"], str(each)) for each in container["env"])
    yield from yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["leitmotif"]["environment"].items()


def test_every_figure_in_dashboard_and_alerts_is_exported(server: httpx.Client) -> None:
    families = {family.name: family for family in text_string_to_metric_families(server.get("/metrics").text)}
    # families of labels that no request has had yet are told by what counts them
    own = {value._name: value for value in vars(metrics).values() if hasattr(value, "_labelnames")}
    recorded = {
        rule["record"]
        for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    named = 0
    for expression in expressions():
        for name, labels in re.findall(r"\b(leitmotif[_:][a-z0-9_:]*)(?:\{([^}]*)\})?", expression):
            named += 1
            if ":" in name:
                assert name in recorded, expression
                continue
            bare = re.sub(r"_(total|bucket|sum|count)$", "", name)
            assert bare in own or bare in {f"leitmotif_{each}" for each in metrics.LATEST}, f"{name} in {expression}"
            if own.get(bare) is None or not own[bare]._labelnames:
                assert bare in families, name
            wanted = set(re.findall(r"([a-z_]+)(?:=~|!~|!=|=)", labels))
            assert wanted <= {*(own[bare]._labelnames if bare in own else ()), "le"}, expression
    assert named > 30
    for expression in expressions():
        for label in re.findall(r"by \(([a-z_, ]+)\)", expression):
            known = {*(name for each in own.values() for name in each._labelnames), "le", "instance"}
            assert set(label.split(", ")) <= known, expression


def test_every_cause_that_an_alert_names_is_one_of_the_service() -> None:
    causes = {cause for each in expressions() for cause in re.findall(r'cause="([a-z_]+)"', each)}
    source = "".join(path.read_text() for path in (ROOT / "serving").rglob("*.py"))
    assert causes
    assert all(f'"{cause}"' in source for cause in causes)


def test_every_variable_is_read() -> None:
    source = "".join(path.read_text() for path in PYTHON)
    for name, _ in environments():
        assert name.startswith(OF_OTHERS) or _is_read(name, source), name
    for path in (DOCS, *DEPLOY.rglob("*.y*ml")):
        for name in re.findall(r"\b(?:LEITMOTIF|BENTOML)_[A-Z_]+\b", path.read_text()):
            assert name in OF_DEPLOY or name.startswith(OF_OTHERS) or _is_read(name, source), f"{name} in {path.name}"
    assert {WORKERS, GPU, TORCH} <= set(re.findall(r"LEITMOTIF_[A-Z]+", DOCS.read_text()))


def _is_read(name: str, source: str) -> bool:
    level = name.removeprefix("LEITMOTIF_TOKENS_").lower()
    return f'"{name}"' in source or (name.startswith("LEITMOTIF_TOKENS_") and f'"{level}"' in source)


def test_probes_and_ports_are_those_of_the_service(server: httpx.Client) -> None:
    told = documents()
    pod = told["Deployment", "leitmotif"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    port = told["ConfigMap", "leitmotif"]["data"]["BENTOML_PORT"]
    assert str(container["ports"][0]["containerPort"]) == port
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] == container["ports"][0]["name"]
        assert server.get(asked["path"]).status_code == 200
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == [f"leitmotif:{port}"]
    assert server.get(scraped["metrics_path"], headers={"host": f"localhost:{port}"}).status_code == 200


@pytest.mark.parametrize("name", ["prometheus.yml", "kubernetes.yml"])
def test_a_scrape_carries_a_token_and_is_the_job_that_the_alert_asks_for(name: str) -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["scrape_configs"]
    (down,) = [each for each in expressions() if each.startswith("up{")]
    assert set(re.findall(r'job="([a-z]+)"', down)) == {job["job_name"]}
    assert "absent(" in down  # a job that finds no pod has no series that could be 0
    assert job["authorization"]["credentials_file"]
    pod = documents()["Deployment", "leitmotif"]["spec"]["template"]
    assert not pod["metadata"].get("annotations")  # annotations cannot carry it
    if name == "kubernetes.yml":
        assert job["kubernetes_sd_configs"][0]["selectors"][0]["label"] == f"app={pod['metadata']['labels']['app']}"
        assert job["relabel_configs"][0]["regex"] == pod["spec"]["containers"][0]["ports"][0]["name"]


def test_failures_and_scores_are_laid_beside_their_like() -> None:
    for each in expressions():
        if 'status=~"5.."' in each:
            assert len(set(re.findall(r'route!~"[^"]+"', each))) == 1
            assert each.count("route!~") == each.count("leitmotif_requests_total")
        for labels in re.findall(r"leitmotif_candidate_scores_total(\{[^}]*\})?", each):
            assert labels == '{route="/rank"}', each


def test_the_pods_run_as_nobody_within_limits_and_everything_named_is_there() -> None:
    told = documents()
    for kind, name in (("Deployment", "leitmotif"), ("StatefulSet", "leitmotif-redis")):
        template = told[kind, name]["spec"]["template"]
        assert template["metadata"]["labels"].items() >= told[kind, name]["spec"]["selector"]["matchLabels"].items()
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        for container in template["spec"]["containers"]:
            assert container["resources"]["limits"].keys() >= {"memory"}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert not container["image"].endswith(":latest")
            mounted = {each["name"] for each in container["volumeMounts"]}
            claims = {each["metadata"]["name"] for each in told[kind, name]["spec"].get("volumeClaimTemplates", ())}
            assert mounted <= {each["name"] for each in template["spec"].get("volumes", ())} | claims
        for service in (
            each for (kind_of, each_name), each in told.items() if kind_of == "Service" and each_name == name
        ):
            assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    scaled = told["HorizontalPodAutoscaler", "leitmotif"]["spec"]
    assert ("Deployment", scaled["scaleTargetRef"]["name"]) in told
    assert told["Deployment", "leitmotif"]["spec"]["replicas"] == scaled["minReplicas"] > 1
    assert told["PodDisruptionBudget", "leitmotif"]["spec"]["minAvailable"] < scaled["minReplicas"]
    state = told["ConfigMap", "leitmotif"]["data"]["LEITMOTIF_STATE"]
    (container,) = told["Deployment", "leitmotif"]["spec"]["template"]["spec"]["containers"]
    assert state.startswith(container["volumeMounts"][0]["mountPath"] + "/.state/")
    host = told["ConfigMap", "leitmotif"]["data"]["LEITMOTIF_ONLINE"].partition(":")[0]
    assert ("Service", host) in told


def test_the_service_writes_nowhere_but_in_tmp_and_the_state_is_taken_in_by_a_pod_of_its_own() -> None:
    told = documents()
    spec = told["Deployment", "leitmotif"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    writable = [each["mountPath"] for each in container["volumeMounts"] if not each.get("readOnly")]
    homes = [told["ConfigMap", "leitmotif"]["data"]["BENTOML_HOME"]]
    for name in ("compose.yaml", "compose-cluster.yaml"):
        service = yaml.safe_load((DEPLOY / name).read_text())["services"]["leitmotif"]
        assert service["read_only"]
        assert all(volume.endswith(":ro") for volume in service["volumes"]), name
        assert service["tmpfs"] == [
            "/tmp:exec"
        ]  # without it no library of an exported model could be loaded from there
        homes.append(service["environment"]["BENTOML_HOME"])
    assert writable == ["/tmp"]
    assert all(home.startswith("/tmp/") for home in homes)
    pod = yaml.safe_load((DEPLOY / "kubernetes-state.yaml").read_text())["spec"]
    assert pod["securityContext"] == spec["securityContext"]
    assert pod["containers"][0]["image"] == container["image"]
    (mounted,), (volume,) = pod["containers"][0]["volumeMounts"], pod["volumes"]
    assert mounted.items() < next(each for each in container["volumeMounts"] if each["name"] == "online").items()
    assert volume in spec["volumes"]


def test_the_compose_file_names_versions_and_files_that_exist() -> None:
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in composed["services"].items():
        assert ":" in service["image"]
        assert not service["image"].endswith("latest"), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).is_file(), volume
            elif not source.startswith("$"):
                assert source in composed["volumes"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
    assert (
        composed["services"]["leitmotif"]["environment"]["LEITMOTIF_ONLINE"].partition(":")[0] in composed["services"]
    )
    granted = {each for service in composed["services"].values() for each in service.get("secrets", ())}
    assert granted == composed["secrets"].keys()


def test_the_commands_of_the_page_on_deployment_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = set(re.findall(r"\bmake ([a-z-]+)", DOCS.read_text()))
    assert {"run", "load", "bento"} <= typed <= targets
    for path in re.findall(r"(?<![\w/])(?:deploy|docs|serving|tests)/[\w./-]+\w", DOCS.read_text()):
        assert Path(ROOT / path).exists(), path
