"""A device -> its description, and the time of work on it: warmed up, and on a GPU with an empty queue."""

import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch


def hardware(device: str) -> dict[str, Any]:
    """The device, and the versions of the software."""
    found: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"device": card.name, "memory_gib": round(card.total_memory / 2**30, 1), "cuda": torch.version.cuda}
    return found


def median_s(work: Callable[[], object], device: str) -> float:
    """The median of 15 runs, warm."""
    times = sorted(times_s(work, device, 15))
    return times[len(times) // 2]


def times_s(work: Callable[[], object], device: str, number: int) -> list[float]:
    """Seconds of each run after three that do not count; the device has finished its work before and after each."""
    for _ in range(3):
        work()
    times = []
    for _ in range(number):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - began)
    return times


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph: a replay of its launches."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The measurement, or the first line of its error."""
    try:
        return work()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
