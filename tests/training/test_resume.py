"""A killed training resumes and ends with the bytes of an uninterrupted one; checkpoints of other runs are ignored."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML

from tests.training.small_run import changed, contents, make_log, run_train, small_sections
from training.fitting.checkpoint import open_state, resume_point

ROOT = Path(__file__).parents[2]
STATE = Path(".state/simulator/train")
OUTS = ("weights", "training_record")
EPOCH_STEPS = 10
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def sections():
    found = small_sections()
    found["model"] = changed(found["model"], dropout=0.2)  # random numbers go on too
    found["train"] = changed(found["train"], checkpoint_s=0.0, schedule="linear", router_steps=4)
    return found


@pytest.fixture(scope="module")
def log_data(tmp_path_factory, sections):
    return make_log(tmp_path_factory.mktemp("resume") / "data" / "simulator", sections)


@pytest.fixture(scope="module")
def whole(log_data, sections, tmp_path_factory):
    """What a training in one piece leaves."""
    with pytest.MonkeyPatch.context() as patch:
        data = _copied(log_data, tmp_path_factory.mktemp("whole"))
        patch.chdir(data.parents[1])
        run_train(data, sections)
        return contents(data, *OUTS)


def _copied(log_data, root):
    data = root / "data" / "simulator"
    shutil.copytree(log_data, data)
    return data


def killed(name, root, sections):
    """Start the stage as DVC does and kill it -9 in the midst of an epoch of a model; the step that it had kept."""
    with (root / "params.yaml").open("w") as file:
        YAML(typ="safe").dump({key: _plain(value) for key, value in sections.items()}, file)
    command = [sys.executable, "-m", "training.train"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1"}
    with (root / "log").open("w") as said:
        process = subprocess.Popen(command, cwd=root, env=environment, stderr=said)
        try:
            _wait_for(root / STATE / name / "resume.ckpt", process, root / "log")
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert not (root / STATE / name / "fitted.json").exists()
    return torch.load(root / STATE / name / "resume.ckpt", weights_only=True)["global_step"]


def _wait_for(path, process, said):
    """Run until the file was written a few times and is not from an epoch's end; the process is then stopped."""
    seen, ends_at = set(), time.monotonic() + LIMIT_S
    while True:
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < ends_at, said.read_text()
        if path.exists() and (written := path.stat().st_mtime_ns) not in seen:
            seen.add(written)
            os.kill(process.pid, signal.SIGSTOP)
            if len(seen) >= 3 and torch.load(path, weights_only=True)["global_step"] % EPOCH_STEPS:
                return
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.002)


def _plain(value):
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


@pytest.fixture(scope="module")
def interrupted(log_data, sections, tmp_path_factory):
    """A root in which the stage was killed in the midst of an epoch of MoS. It is shared: copy it."""
    root = tmp_path_factory.mktemp("interrupted")
    _copied(log_data, root)
    assert killed("mos", root, sections) % 10 != 0, "in the midst of an epoch of ten steps"
    return root


@pytest.fixture
def root(interrupted, tmp_path, monkeypatch):
    shutil.copytree(interrupted, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def test_a_training_killed_in_the_midst_of_epochs_ends_with_the_same_bytes(root, sections, whole, caplog):
    caplog.set_level(logging.INFO, "leitmotif")
    step = killed("din", root, sections)
    assert step % EPOCH_STEPS != 0
    assert "mos clicks: resumes at step" in (root / "log").read_text()
    data = root / "data" / "simulator"
    run_train(data, sections)
    assert f"din clicks: resumes at step {step} of 20" in caplog.text
    assert "mos was fitted by the previous run" in caplog.text
    found = contents(data, *OUTS)
    assert {name: found[name] == whole[name] for name in whole} == dict.fromkeys(whole, True)
    assert not STATE.exists(), "what is needed no more is removed"
    for name in ("mos", "din"):
        points = (root / f".state/simulator/dvclive/plots/metrics/{name}/validation_auc.tsv").read_text().splitlines()
        assert [line.split("\t")[0] for line in points] == ["step", "5", "10", "15", "20"], "each point once"


def test_curves_that_a_kill_cut_are_gone_on_with_from_their_last_whole_point(root, sections, whole):
    """DVCLive writes in place: an empty summary, a file that was only opened, a point that is cut."""
    live = root / ".state/simulator/dvclive"
    (live / "metrics.json").write_text("")
    curves = live / "plots/metrics/mos"
    (curves / "validation_iauc.tsv").write_text("")
    (curves / "validation_auc.tsv").write_text("step\tvalidation_auc\n5\t0.5\n1")
    data = root / "data" / "simulator"
    run_train(data, sections)
    assert contents(data, *OUTS) == whole
    for path in curves.glob("validation_*.tsv"):
        head, *points = path.read_text().splitlines()
        assert head == f"step\t{path.stem}"
        assert [int(line.split("\t")[0]) for line in points][-2:] == [15, 20]
    auc = (curves / "validation_auc.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in auc[1:]] in (["5", "10", "15", "20"], ["10", "15", "20"])


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 0xFF
    path.write_bytes(held)


@pytest.mark.parametrize("damage", [_cut, _flip])
def test_a_damaged_checkpoint_is_named_and_training_restarts(root, caplog, damage):
    path = STATE / "mos" / "resume.ckpt"
    assert resume_point("mos", STATE / "mos") == path
    damage(path)
    assert resume_point("mos", STATE / "mos") is None
    assert f"{path} is damaged and was removed: the training of mos starts again from step 0." in caplog.text
    assert not (STATE / "mos").exists()


def _other_params(root, sections):
    sections["model"] = changed(sections["model"], num_themes=7)
    return "model.num_themes 6 -> 7"


def _other_data(root, sections):
    path = root / "data" / "simulator" / "impressions" / "impressions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, len(table) - 1), path)
    return "impressions/impressions.parquet"


@pytest.mark.parametrize("change", [_other_params, _other_data])
def test_checkpoints_of_other_params_or_data_are_not_gone_on_from(root, sections, caplog, change):
    caplog.set_level(logging.INFO, "leitmotif")
    names = ("history", "labels", "model", "seed", "split", "statistics", "train")
    params, data = {name: sections[name] for name in names}, Path("data/simulator")
    open_state(STATE, params | {"train": changed(params["train"], checkpoint_s=9.0)}, data, ROOT)
    assert (STATE / "mos" / "resume.ckpt").exists(), "how often it is kept changes nothing"
    what = change(root, params)
    open_state(STATE, params, data, ROOT)
    assert f"{STATE} held checkpoints of a run with other inputs ({what}): they were removed" in caplog.text
    assert not (STATE / "mos").exists()
    caplog.clear()
    open_state(STATE, params, data, ROOT)
    assert not caplog.text


def test_curves_are_written_while_training_runs(root):
    """By the stage that was killed before it ended."""
    curves = root / ".state/simulator/dvclive/plots/metrics/mos"
    assert (curves / "train" / "loss.tsv").read_text().splitlines()[1].startswith("1\t")
