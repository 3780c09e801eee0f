"""The cost model's measurements: what a second is divided by, and what is counted."""

from __future__ import annotations

import time
from dataclasses import asdict

import pytest
import torch

from benchmarks.costs import Timer, measure, size_of, small_frames, table_bytes
from workflow_lib.core.errors import UserError

SMOKE = "config/smoke.yaml"


def test_seconds_are_by_piece_and_leave_the_first_call_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, wall = iter([1.0, 4.0]), iter([10.0, 22.0])
    monkeypatch.setattr(time, "process_time", lambda: next(cpu))
    monkeypatch.setattr(time, "perf_counter", lambda: next(wall))
    calls = []
    assert Timer("cpu")(lambda: len(calls.append(1) or "abc"), 2) == (0.5, 2.0)  # 3 pieces a call
    assert len(calls) == 3
    cpu, wall = iter([0.0, 3.0]), iter([0.0, 6.0])
    assert Timer("cpu")(lambda: len(calls.append(1) or "abc"), 1, warm=True) == (1.0, 2.0)
    assert len(calls) == 4


def test_frames_have_every_label() -> None:
    frames = small_frames(3)
    assert {len(frame) for frame in frames} == {28}
    assert all(f.stress_converged and f.charges is not None and f.magmoms is not None for f in frames)
    assert len({frame.frame_id for frame in small_frames()}) == len(small_frames())


def test_bytes_of_a_graph() -> None:
    graph = {
        "positions": torch.zeros(2, 3, dtype=torch.float64),
        "species": torch.zeros(2, dtype=torch.int64),
    }
    assert size_of(graph) == 2 * 3 * 8 + 2 * 8


def test_a_small_network_is_measured() -> None:
    costs = measure("painn", SMOKE, "cpu", 2, 1)
    assert (costs.family, costs.device, costs.dtype, costs.batch) == ("painn", "cpu", "float32", 2)
    values = asdict(costs)
    numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
    assert all(value > 0 for name, value in numbers.items() if name not in ("load", "gpu_memory_mb"))
    assert costs.relax_large_cpu_s > costs.relax_cpu_s
    # Weights, two moments of Adam, moving average, best weights: several times the model.
    assert costs.checkpoint_bytes > 3 * costs.model_bytes > 3 * 4 * costs.parameters


def test_what_cannot_be_measured() -> None:
    with pytest.raises(UserError, match="has no model of the family nequip"):
        measure("nequip", SMOKE, "cpu", None, 1)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees no GPU"):
            measure("painn", SMOKE, "cuda", None, 1)


def test_bytes_on_disk() -> None:
    sizes = table_bytes()
    assert 1000 < sizes["frame_28_atoms"] < 10_000
    assert sizes["relaxation_28_atoms"] < sizes["relaxation_168_atoms"] < 40_000
