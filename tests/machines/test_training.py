"""torchrun on two machines, each with a network and a name of its own, trains what two processes on one machine do."""

import time
from pathlib import Path

import pytest
import torch

from tests.clones import ROOT
from tests.machines.machines import Machine
from tests.training.small_run import changed, contents, make_log, small_sections
from tests.training.test_nodes import LIMIT_S, OUTS, STATE, furnish, run_together

pytestmark = [pytest.mark.xdist_group("machines"), pytest.mark.slow]

LOST_S = 15.0
AFTER_S = 60.0
"""How long the launcher may take to end after its process has."""


@pytest.fixture
def sections():
    found = small_sections()
    found["model"] = changed(found["model"], dropout=0.2)
    found["train"] = changed(
        found["train"], checkpoint_s=0.0, router_steps=4, max_requests=301, batch_requests=16, num_nodes=2,
        accelerator="cpu", strategy="ddp",
    )  # fmt: skip
    return found


def start(node: Machine, number: int, root: Path, first: Machine):
    """One torchrun, as docs/operations.md says it."""
    told = ("--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number), "--master-addr", first.address)
    program = ("torchrun", *told, "--master-port", "29500", "-m", "training.train")
    here = f"--chdir={ROOT / root.relative_to(root.parents[1])}"
    return node.start(root / "log", "env", here, f"LEITMOTIF_LOST_S={LOST_S:g}", "OMP_NUM_THREADS=1", *program)


def said_by(roots) -> str:
    return "\n".join((root / "log").read_text() for root in roots)


def test_a_machine_whose_cable_is_pulled_ends_both_and_all_resume_to_the_bytes_of_one_machine(
    machines, shared, sections, tmp_path
):
    data = make_log(tmp_path / "data" / "simulator", sections)
    expected = [tmp_path / "here" / str(number) for number in (0, 1)]
    roots = [shared / "nodes" / str(number) for number in (0, 1)]
    for root in (*expected, *roots):
        root.mkdir(parents=True)
    assert run_together(expected, data, sections) == 0, said_by(expected)

    nodes = machines(2)
    for root in roots:
        furnish(root, data, sections)
    started = [start(nodes[number], number, root, nodes[0]) for number, root in enumerate(roots)]
    kept, seen, ends_at = roots[0] / STATE / "mos" / "resume.ckpt", set(), time.monotonic() + LIMIT_S
    while len(seen) < 3:
        assert time.monotonic() < ends_at, said_by(roots)
        assert all(each.poll() is None for each in started), said_by(roots)
        if kept.exists():
            seen.add(kept.stat().st_mtime_ns)
        time.sleep(0.002)
    nodes[1].unplug()
    codes = [each.wait(LOST_S + AFTER_S) for each in started]
    assert 0 not in codes
    for rank, root in enumerate(roots):
        said = (root / "log").read_text()
        assert said.count(f"failed: Process {rank} of 2 lost another process of the training") == 1, said
        assert "defect" not in said
    assert not (roots[0] / "data/simulator/weights").exists()
    step = torch.load(kept, weights_only=True)["global_step"]

    nodes[1].plug()
    for each in [start(nodes[number], number, root, nodes[0]) for number, root in enumerate(roots)]:
        assert each.wait(LIMIT_S) == 0, said_by(roots)
    assert f"mos clicks: resumes at step {step} of" in (roots[0] / "log").read_text()
    found, wanted = (contents(root / "data/simulator", *OUTS) for root in (roots[0], expected[0]))
    assert {name: found[name] == wanted[name] for name in wanted} == dict.fromkeys(wanted, True)
