"""Random requests -> the models on a GPU: equality with the CPU, speed, memory, in one JSON.

    python -m benchmarks.gpu                 # or: bash benchmarks/gpu.sh, which ends within ten minutes
    python -m benchmarks.gpu --small --device cpu

Steps in order of value, each with its own time limit; the file is written after each. Times are medians, warm.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.device import captured, guarded, hardware, median_s, times_s
from benchmarks.model_speed import make
from contracts.params import PARAMS, load_params
from training.fitting.losses import click_loss
from training.model.batch import Candidates, History
from training.model.build import Model
from training.model.params import ModelParams
from training.model.ranker import Tables

log = logging.getLogger("leitmotif")

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
CANDIDATES = 12  # a request, as in EB-NeRD
LEARNING_RATE = 5e-3
SERVED = ((1, 200, 100), (1, 1000, 100), (1, 1000, 1000), (64, 200, 100), (64, 1000, 100))
"""(users at once, length of their histories, candidates each)."""
NARROW = (torch.int32, torch.uint8, torch.uint8, torch.uint8, torch.int16, torch.uint8, torch.uint8)
"""Types that hold the columns of History, the index of up to two billion items first."""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes at which a CPU runs through in seconds")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a step")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible to torch. Try --device cpu --small.")
    params = load_params(ROOT / PARAMS)["model"]
    measure(params, arguments.device, arguments.small, arguments.limit, arguments.out)


def measure(params: ModelParams, device: str, small: bool, limit_s: float, out: Path) -> dict[str, Any]:
    """Every step in turn; returns what was written."""
    result: dict[str, Any] = {"hardware": hardware(device), "candidates_a_request": CANDIDATES}
    for step in STEPS:
        name, rows = step.__name__, []
        began = time.monotonic()
        try:
            for row in step(params, device, small):
                rows.append(row)
                log.info("%s: %s", name, row)
                if time.monotonic() - began > limit_s:
                    rows.append({"stopped": f"at the limit of {limit_s:g} s"})
                    break
        except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
            rows.append({"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"})
            log.error("%s: %s", name, rows[-1])
        result[name] = rows
        _write(out, result)
    return result


def limits(params: ModelParams, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """The device's peak rates: a copy in its memory, a matrix product in float32, TF32 and bfloat16."""
    number = 2**20 if small else 2**28
    source = torch.ones(number, device=device)
    target = torch.empty_like(source)
    seconds = median_s(lambda: target.copy_(source), device)
    yield {"what": "copy", "gb_s": round(2 * 4 * number / seconds / 1e9, 1)}
    size = 256 if small else 8192
    for kind, tf32 in (("float32", False), ("tf32", True), ("bfloat16", False)):
        if device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = tf32
        values = torch.randn(size, size, device=device, dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32)
        seconds = median_s(lambda values=values: values @ values, device)
        yield {"what": f"matrix product, {kind}", "tflop_s": round(2 * size**3 / seconds / 1e12, 1)}
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False


def equality(params: ModelParams, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """The same weights and requests on the CPU and on the device: logits, gradients, events routed to another theme."""
    users = 8 if small else 256
    for name in ("mos", "din"):
        here, history, candidates = make(name, params, params.history_length, users, CANDIDATES)
        there, _, _ = make(name, params, params.history_length, users, CANDIDATES)
        there.load_state_dict(here.state_dict())
        there.to(device)
        labels = (torch.rand(users * CANDIDATES) < 0.3).float()
        far_history, far_candidates = moved(history, candidates, device)
        loss, logits = _loss(here, history, candidates, labels)
        far_loss, far_logits = _loss(there, far_history, far_candidates, labels.to(device))
        loss.backward()
        far_loss.backward()
        row = {
            "model": name,
            "largest_difference_of_logits": _gap(logits, far_logits),
            "largest_relative_difference_of_gradients": max(
                _gap(a.grad, b.grad) / max(float(a.grad.abs().max()), 1e-12)
                for a, b in zip(here.parameters(), there.parameters(), strict=True)
                if a.grad is not None and b.grad is not None
            ),
        }
        if here.has_router:
            ours = here.user_side(history, here.tables()).theme_UL
            theirs = there.user_side(far_history, there.tables()).theme_UL.cpu()
            row["share_of_events_routed_otherwise"] = float((ours != theirs).float().mean())
        yield row


def training(params: ModelParams, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """Impressions a second of forward, backward and Adam's step, and the peak of memory."""
    lengths, batches = ((20,), (4,)) if small else ((200, 500, 1000), (64, 1024, 4096))
    for name in ("mos", "din"):
        for length in lengths:
            for requests in batches:
                for how in ("float32", "bfloat16", "cuda graph", "compiled"):
                    if how in ("cuda graph", "compiled") and device != "cuda":
                        continue
                    if how == "compiled" and (length, requests) != (200, 1024):
                        continue  # a compilation takes most of a minute: one shape tells whether it pays
                    yield {"model": name, "length": length, "requests": requests, "how": how} | guarded(
                        lambda n=name, k=length, r=requests, h=how: _train(params, device, n, k, r, h)
                    )


def serving(params: ModelParams, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """Requests from tensors on the host to scores on the host: both halves and the copies; milliseconds."""
    for name in ("mos", "din"):
        for users, length, number in ((1, 20, 5), (2, 20, 5)) if small else SERVED:
            model, history, candidates = make(name, params, length, users, number)
            model.to(device).eval()
            with torch.inference_mode():
                tables = model.tables()

            def answer(
                model: Model = model,
                history: History = history,
                asked: Candidates = candidates,
                tables: Tables = tables,
            ) -> Tensor:
                with torch.inference_mode():
                    near, wanted = moved(history, asked, device)
                    return model.score(model.user_side(near, tables), wanted, tables).cpu()

            times = sorted(times_s(answer, device, 20 if small else 300))
            p50_ms, p99_ms = (1e3 * times[int(share * len(times))] for share in (0.5, 0.99))
            yield {
                "model": name,
                "users_at_once": users,
                "length": length,
                "candidates": number,
                "p50_ms": round(p50_ms, 3),
                "p99_ms": round(p99_ms, 3),
                "requests_s": round(1e3 * users / p50_ms),
            }


def loading(params: ModelParams, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """A batch from the host to the device: as it is, in the narrowest types that hold it, and from pinned memory."""
    requests = 8 if small else 1024
    _, history, _ = make("mos", params, params.history_length, requests, CANDIDATES)
    narrow = [each.to(kind).contiguous() for each, kind in zip(history, NARROW, strict=True)]
    for how, columns in (("as it is", [each.contiguous() for each in history]), ("narrow", narrow)):
        for pinned in (False, True):
            if pinned and device != "cuda":
                continue
            held = [each.pin_memory() for each in columns] if pinned else columns

            def copy(held: list[Tensor] = held, pinned: bool = pinned) -> list[Tensor]:
                return [each.to(device, non_blocking=pinned).to(torch.int64) for each in held]

            number = sum(each.numel() * each.element_size() for each in columns)
            yield {
                "how": how,
                "pinned": pinned,
                "bytes_an_event": round(number / history.mask_UL.numel(), 1),
                "ms": round(1e3 * median_s(copy, device), 3),
            }


def optimizer(params: ModelParams, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """Adam's step over an item table: dense, fused, and sparse, by its number of rows; milliseconds."""
    for rows in (1000,) if small else (1_000, 1_000_000, 10_000_000):
        for kind in ("dense", "fused", "sparse"):
            table = nn.Embedding(rows, params.width, device=device, sparse=kind == "sparse")
            if kind == "sparse":
                adam: torch.optim.Optimizer = torch.optim.SparseAdam(table.parameters(), LEARNING_RATE)
            else:
                adam = torch.optim.Adam(table.parameters(), LEARNING_RATE, fused=kind == "fused")
            asked = torch.randint(0, rows, (1024 * params.history_length,), device=device)

            def step(table: nn.Embedding = table, adam: torch.optim.Optimizer = adam, asked: Tensor = asked) -> None:
                adam.zero_grad()
                table(asked).square().mean().backward()
                adam.step()

            yield {"rows": rows, "kind": kind, "ms": round(1e3 * median_s(step, device), 3)}


def log_here(params: ModelParams, device: str, small: bool) -> Iterator[dict[str, Any]]:
    """MoS and DIN fitted by Lightning on the log that params.yaml names, beside the report of a CPU's run; bf16 too."""
    sections = load_params(ROOT / PARAMS)
    source = sections["source"].id
    data, told = ROOT / "data" / source, ROOT / "reports" / source / "train.json"
    if small or not (data / "user_histories").is_dir():
        yield {"skipped": "--small" if small else f"{data} holds no log: make run"}
        return
    from training.train import feature_spec, fit_one, prepare

    train, seed = sections["train"], sections["seed"]
    spec = feature_spec(sections["history"], params, sections["statistics"])
    prepared = prepare(data, spec, sections["split"], sections["labels"], train, seed)
    report = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    for name, precision in (("mos", "32-true"), ("mos", "bf16-mixed"), ("din", "32-true"), ("din", "bf16-mixed")):
        began = time.monotonic()
        _, record, best = fit_one(name, params, prepared, train.model_copy(update={"precision": precision}), seed)
        yield {
            "log": source,
            "model": name,
            "precision": precision,
            "requests": len(prepared.train),
            "seconds": round(time.monotonic() - began, 1),
            "validation_auc": round(record[best - 1].validation_auc, 4),
            "validation_auc_on_cpu": report.get(f"{name}_validation_auc"),
        }


STEPS = (limits, equality, training, serving, loading, optimizer, log_here)


def moved(history: History, candidates: Candidates, device: str) -> tuple[History, Candidates]:
    """Copies on a device."""
    return History(*(each.to(device) for each in history)), Candidates(*(each.to(device) for each in candidates))


def _train(params: ModelParams, device: str, name: str, length: int, requests: int, how: str) -> dict[str, Any]:
    model, history, candidates = make(name, params, length, requests, CANDIDATES)
    model.to(device)
    history, candidates = moved(history, candidates, device)
    labels = (torch.rand(len(candidates.item_index_B)) < 0.3).float().to(device)
    adam = torch.optim.Adam(model.parameters(), LEARNING_RATE, capturable=device == "cuda")
    loss_of = torch.compile(_loss) if how == "compiled" else _loss

    def step() -> None:
        adam.zero_grad(set_to_none=how != "cuda graph")
        with torch.autocast(device, torch.bfloat16, enabled=how == "bfloat16"):
            loss, _ = loss_of(model, history, candidates, labels)
        loss.backward()
        adam.step()

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    step()
    first_s = time.monotonic() - began
    seconds = median_s(captured(step) if how == "cuda graph" else step, device)
    row = {"impressions_s": round(len(labels) / seconds), "step_ms": round(1e3 * seconds, 3)}
    if how == "compiled":
        row["compile_s"] = round(first_s, 1)
    if device == "cuda":
        row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return row


def _loss(model: Model, history: History, candidates: Candidates, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The training step's loss as training/fitting/fit.py makes it, and the logits."""
    logits, information_loss = model.learn(history, candidates)
    return click_loss(logits, labels) + 0.3 * information_loss, logits


def _gap(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.detach().cpu() - theirs.detach().cpu()).abs().max())


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
