"""The Redis Cluster of deploy/: what Compose and Kubernetes name is there, and the command forms a real one."""

import os
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from features.live.redis import RedisTail
from features.live.redis_address import RedisAddress
from features.sealed.event import Fate
from tests.features.live_tails import event
from tests.features.redis_cluster import CONFIGURED, OPTIONS, wait_until
from tests.features.redis_server import RedisServer, free_ports
from tests.serving.test_deploy import DEPLOY, documents

pytestmark = pytest.mark.xdist_group("redis")

NAME = "leitmotif-redis-cluster"
PASSWORD = "of-nobody"


def composed() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose-cluster.yaml").read_text())


def of_cluster() -> dict[tuple[str, str], Any]:
    """By kind and name."""
    found = yaml.safe_load_all((DEPLOY / "kubernetes-redis-cluster.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def test_the_compose_file_gives_each_node_an_address_that_it_is_formed_and_asked_by() -> None:
    told = composed()
    nodes = {name: each for name, each in told["services"].items() if re.fullmatch(r"redis-\d", name)}
    addresses = [each["networks"]["cluster"]["ipv4_address"] for each in nodes.values()]
    formed = re.findall(r"([\d.]+):6379", told["services"]["form"]["command"][-1])
    assert formed == addresses
    assert len(set(addresses)) == 6
    online = told["services"]["leitmotif"]["environment"]["LEITMOTIF_ONLINE"]
    asked = RedisAddress.read(online.replace("${REDIS_PASSWORD}", PASSWORD))
    assert asked.is_cluster
    assert {node.partition(":")[0] for node in asked.nodes} < set(addresses)
    assert told["services"]["form"]["depends_on"].keys() == nodes.keys()
    assert {each["volumes"][0].partition(":")[0] for each in nodes.values()} == told["volumes"].keys()
    assert (DEPLOY / told["configs"]["node"]["file"]).is_file()
    assert all("ports" not in each for each in nodes.values())
    one = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["leitmotif"]
    own = told["services"]["leitmotif"]
    changed = ("environment", "depends_on", "networks")
    assert {key: value for key, value in own.items() if key not in changed} == {
        key: value for key, value in one.items() if key not in changed
    }
    assert own["environment"] | {"LEITMOTIF_ONLINE": ""} == one["environment"] | {"LEITMOTIF_ONLINE": ""}


def test_the_nodes_in_kubernetes_have_the_settings_that_the_tests_start_theirs_with() -> None:
    written = of_cluster()["ConfigMap", NAME]["data"]["redis.conf"].splitlines()
    assert [line.split() for line in written] == [words for words in CONFIGURED if words[0] != "#"]


def test_everything_that_the_manifest_names_is_there() -> None:
    told = of_cluster()
    nodes, job = told["StatefulSet", NAME]["spec"], told["Job", f"{NAME}-form"]["spec"]
    labels = nodes["template"]["metadata"]["labels"]
    assert labels == nodes["selector"]["matchLabels"]
    assert ("Service", nodes["serviceName"]) in told
    for name in (NAME, nodes["serviceName"]):
        assert told["Service", name]["spec"]["selector"] == labels
    assert told["Service", nodes["serviceName"]]["spec"]["publishNotReadyAddresses"]  # else none could be formed
    assert told["PodDisruptionBudget", NAME]["spec"]["selector"]["matchLabels"] == labels
    form = told["ConfigMap", NAME]["data"]["form.sh"]
    assert re.search(r"for number in ([\d ]+);", form)[1].split() == [str(each) for each in range(nodes["replicas"])]  # type: ignore[index]
    assert f"{NAME}-$number.{nodes['serviceName']}" in form
    for template in (nodes["template"], job["template"]):
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        (container,) = template["spec"]["containers"]
        assert not container["image"].endswith(":latest")
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        mounted = {each["name"] for each in container["volumeMounts"]}
        assert mounted <= {each["name"] for each in template["spec"]["volumes"]} | {"data"}
    rules = told["NetworkPolicy", NAME]["spec"]["ingress"]
    allowed = [each["podSelector"]["matchLabels"]["app"] for rule in rules for each in rule["from"]]
    service = documents()["Deployment", "leitmotif"]["spec"]["template"]["metadata"]["labels"]["app"]
    assert allowed == [service, job["template"]["metadata"]["labels"]["app"], labels["app"]]
    head = (DEPLOY / "kubernetes-redis-cluster.yaml").read_text().partition("apiVersion")[0]
    online = re.search(r"--from-literal=online=(\S+)", head)[1]  # type: ignore[index]
    assert RedisAddress.read(online).nodes == (f"{NAME}:6379",)
    assert RedisAddress.read(online).is_cluster


def test_the_command_that_compose_forms_the_cluster_with_forms_one_of_nodes_with_a_password(tmp_path: Path) -> None:
    told = composed()["services"]
    addresses = [told[f"redis-{number}"]["networks"]["cluster"]["ipv4_address"] for number in range(6)]
    guarded = [PASSWORD if word == "$REDIS_PASSWORD" else word for word in told["redis-0"]["command"][4:]]
    with ExitStack() as stack:
        servers, ports = [], free_ports(12)
        for number in range(6):
            server = RedisServer(tmp_path / f"node{number}")
            server.port = ports.pop()
            server.options = (*OPTIONS, "--cluster-port", str(ports.pop()), *guarded)
            server.login = {"password": PASSWORD}
            servers.append(stack.enter_context(server))
        *shell, script = told["form"]["command"]
        script = script.replace(f"-h {addresses[0]} ", f"-p {servers[0].port} ")
        for address, server in zip(addresses, servers, strict=True):
            script = script.replace(f"{address}:6379", server.address)
        environment = os.environ | {"REDISCLI_AUTH": PASSWORD}
        for _ in range(2):  # the second finds it formed
            done = subprocess.run([*shell, script], env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            wait_until(lambda: all(each.cluster_info()["cluster_state"] == "ok" for each in servers))
        assert not done.stdout
        wait_until(lambda: sum(each.command("ROLE")[0] == b"slave" for each in servers) == 3)
        tail = RedisTail(f"{servers[0].address},{servers[1].address},password={PASSWORD}", "composed")
        assert tail.append([event("a")]) == [Fate.NEW]
        tail.close()
