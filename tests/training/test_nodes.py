"""Two nodes that torchrun starts, each with its own disk, train together; where one is killed, both end and resume."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from contracts.errors import InputError
from tests.training.small_run import changed, contents, make_log, small_sections
from training.fitting.ranks import joined
from training.requests.sampler import BatchSampler, Share, share_out

ROOT = Path(__file__).parents[2]
STATE = Path(".state/simulator/train")
OUTS = ("weights", "training_record")
LIMIT_S = 240.0


@pytest.fixture(scope="module")
def sections():
    found = small_sections()
    found["model"] = changed(found["model"], dropout=0.2)  # each process has random numbers of its own, which go on too
    found["train"] = changed(
        found["train"], checkpoint_s=0.0, router_steps=4, max_requests=301, batch_requests=16, num_nodes=2,
        accelerator="cpu", strategy="ddp",
    )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def log_data(tmp_path_factory, sections):
    return make_log(tmp_path_factory.mktemp("nodes") / "data" / "simulator", sections)


@pytest.fixture(scope="module")
def whole(log_data, sections, tmp_path_factory):
    """The roots of two nodes after an undisturbed training."""
    roots = [tmp_path_factory.mktemp(f"whole{number}") for number in (0, 1)]
    assert run_together(roots, log_data, sections) == 0, _logs(roots)
    return roots


def furnish(root, log_data, sections):
    """Give a node its own copy of the data, and params.yaml."""
    if not (root / "data").exists():
        shutil.copytree(log_data, root / "data" / "simulator")
    with (root / "params.yaml").open("w") as file:
        YAML(typ="safe").dump({key: _plain(value) for key, value in sections.items()}, file)


def run_together(roots, log_data, sections):
    """The number of nodes whose process failed; without torchrun's agents, which import what they start once more."""
    for root in roots:
        furnish(root, log_data, sections)
    command = [sys.executable, "-m", "tests.training.forked", str(_free_port()), *map(str, roots)]
    return subprocess.run(command, cwd=ROOT, env=_environment(), timeout=LIMIT_S, check=False).returncode


def start_nodes(roots, log_data, sections):
    """One torchrun a node, each in its own folder; (agent, its folder)."""
    port, started = _free_port(), []
    for number, root in enumerate(roots):
        furnish(root, log_data, sections)
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank",
            str(number), "--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "training.train",
        ]  # fmt: skip
        with (root / "log").open("w") as said:
            started.append((subprocess.Popen(command, cwd=root, env=_environment(), stderr=said, stdout=said), root))
    return started


def _environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}


def _free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def _plain(value):
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def _worker_of(agent):
    return int(Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()[0])


def test_only_the_first_node_makes_outputs(whole, log_data):
    made = [{path.name for path in (root / "data" / "simulator").iterdir()} for root in whole]
    before = {path.name for path in log_data.iterdir()}
    assert made[0] - before == set(OUTS)
    assert made[1] == before
    assert (whole[0] / "reports/simulator/train.json").exists()
    for root in whole:
        assert not list((root / ".state").glob("simulator/train*")), "what is needed no more is removed"
        assert not (root / "attempts").exists()
    assert (whole[0] / "log").read_text().count("train done in") == 1
    assert "train" not in (whole[1] / "log").read_text().replace("training", "")


def test_a_killed_node_ends_both_with_one_error_and_all_resume_to_the_same_weights(
    whole, log_data, sections, tmp_path_factory
):
    roots = [tmp_path_factory.mktemp(f"killed{number}") for number in (0, 1)]
    agents = [agent for agent, _ in start_nodes(roots, log_data, sections)]
    kept = roots[0] / STATE / "mos" / "resume.ckpt"
    ends_at, seen = time.monotonic() + LIMIT_S, set()
    while len(seen) < 3:
        assert time.monotonic() < ends_at, _logs(roots)
        assert all(agent.poll() is None for agent in agents), _logs(roots)
        if kept.exists():
            seen.add(kept.stat().st_mtime_ns)
        time.sleep(0.002)
    os.kill(_worker_of(agents[1]), signal.SIGKILL)
    codes = [agent.wait(60) for agent in agents]
    assert 0 not in codes
    said = (roots[0] / "log").read_text()
    assert said.count("train failed: Process 0 of 2 lost another process of the training") == 1, said
    assert "Start all 2 again: they resume" in said
    assert "defect" not in said
    assert not (roots[0] / "data/simulator/weights").exists()
    step = torch.load(kept, weights_only=True)["global_step"]
    assert step > 0

    for agent, root in start_nodes(roots, log_data, sections):
        assert agent.wait(LIMIT_S) == 0, (root / "log").read_text()
    assert f"mos clicks: resumes at step {step} of" in (roots[0] / "log").read_text()
    found, expected = (contents(each / "data/simulator", *OUTS) for each in (roots[0], whole[0]))
    assert {name: found[name] == expected[name] for name in expected} == dict.fromkeys(expected, True)
    assert not any((roots[1] / "data/simulator" / name).exists() for name in OUTS)


def test_a_node_with_other_inputs_is_named_by_both(log_data, sections, tmp_path):
    roots = [tmp_path / "0", tmp_path / "1"]
    for root in roots:
        shutil.copytree(log_data, root / "data" / "simulator")
    odd = roots[1] / "data/simulator/coclicks"
    (odd / "other").write_text("not of this run")
    assert run_together(roots, log_data, sections) == 2
    for root in roots:
        said = (root / "log").read_text()
        assert "Process 1 of 2 has other inputs than process 0: data coclicks/other" in said, said
        assert said.count("failed: Process 1 of 2") == 1


def _logs(roots):
    return "\n".join((root / "log").read_text() for root in roots)


def test_a_patience_that_is_no_number_of_seconds_is_refused(monkeypatch, sections):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for text in ("soon", "0", "1.5"):
        monkeypatch.setenv("LEITMOTIF_LOST_S", text)
        with pytest.raises(InputError, match=f"LEITMOTIF_LOST_S is '{text}'"), joined(sections["train"]):
            pass


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_request_is_in_one_share_with_all_others_of_its_user(seed, world):
    drawn = np.random.default_rng(seed)
    users = drawn.zipf(1.5, drawn.integers(1, 400)) % 50
    shares = share_out(users, world)
    assert sorted(chain(*shares)) == list(range(len(users)))
    of_users = [set(users[share]) for share in shares]
    assert sum(map(len, of_users)) == len(set(users))
    bounds = [(min(of), max(of)) for of in of_users if of]
    assert all(one[1] < other[0] for one, other in pairwise(bounds)), "ranges of users"
    most = np.bincount(users).max()
    assert max(map(len, shares)) - min(map(len, shares)) <= 2 * most


@pytest.mark.parametrize("sizes", [(5, 5), (9, 4), (3, 0), (1, 8)])
def test_uneven_shares_take_equally_many_steps_and_give_each_request_once(sizes):
    every = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    samplers = [BatchSampler(sum(sizes), 4, 5, Share(share, max(sizes))) for share in every]
    steps = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in steps} == {len(samplers[0])} == {-(-max(sizes) // 4)}
    assert all(chain(*steps)), "every process takes part in every step"
    for share, batches in zip(every, steps, strict=True):
        assert sorted(position for batch in batches for position in batch if position >= 0) == share.tolist()


@pytest.mark.parametrize(
    ("world", "nodes", "message"),
    [
        ("1", 2, r"train.num_nodes is 2, but this process was started alone.*--nnodes 2 --nproc-per-node 1"),
        ("3", 2, r"torchrun started 3 processes, but train.devices = 1 and train.num_nodes = 2 require 2"),
    ],
)
def test_a_run_of_another_size_than_the_params_say_is_refused(monkeypatch, sections, world, nodes, message):
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(InputError, match=re.compile(message, re.DOTALL)), joined(sections["train"]):
        pass
