"""MACE in our adapter, in mace-torch and in symmetrix-xl: seconds of processor time per evaluation.

    pip install symmetrix-xl    # MIT; in an environment of its own, it is no dependency of the program
    python benchmarks/native_mace.py [--config paper] [--seconds 6]

Energy and forces of a rattled cell of 28 atoms that moves a little from call to call, on one thread, with
the sizes of the first MACE in ``config/<config>.yaml`` and random weights. Symmetrix runs in its mode
``direct``, for which it compiles the model with the C++ compiler of the machine, and in ``non-compiled``.
Ends with one line of JSON for each that ran; where symmetrix refuses a network, with its reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

from benchmarks.cases import untrained  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from workflow_lib.models.trained import TrainedModel

type Call = Callable[[Atoms], tuple[float, np.ndarray]]


def model(config: str) -> TrainedModel:
    """Return the first MACE of a configuration with random weights and plausible constants."""
    found = untrained(ROOT / f"config/{config}.yaml", "mace")
    potential: Any = found.potential
    potential.set_reference_energies({8: -4.0, 11: -1.0, 15: -5.0, 26: -8.0})
    for interaction in potential.model.interactions:
        interaction.avg_num_neighbors.fill_(40.0)
    return found


def sides(potential: TrainedModel, folder: Path) -> dict[str, Call | str]:
    """Return what evaluates the model, by name; for one that cannot, its reason."""
    import torch
    from mace.calculators import MACECalculator

    from workflow_lib.models.mace_upstream import write_upstream
    from workflow_lib.simulation.torchsim import TorchSimModel

    sim, path = TorchSimModel(potential), folder / "mace.model"

    def ours(atoms: Atoms) -> tuple[float, np.ndarray]:
        state = sim.initial_state([atoms])
        output = sim(state)
        return float(output["energy"][0]), output["forces"].numpy()

    def by(calculator: Any) -> Call:
        def call(atoms: Atoms) -> tuple[float, np.ndarray]:
            atoms.calc = calculator
            return float(atoms.get_potential_energy()), atoms.get_forces()

        return call

    write_upstream(potential, path)
    dtype = str(potential.card["hyperparameters"]["dtype"])
    found: dict[str, Call | str] = {"ours": ours}
    found["mace-torch"] = by(MACECalculator(str(path), device="cpu", default_dtype=dtype))
    torch.set_default_dtype(torch.float32)  # upstream's calculator changes it
    for mode in ("direct", "non-compiled"):
        try:
            found[f"symmetrix, {mode}"] = by(_symmetrix(path, dtype, mode))
        except (ImportError, RuntimeError) as error:
            found[f"symmetrix, {mode}"] = " ".join(str(error).split())
    return found


def _symmetrix(path: Path, dtype: str, mode: str) -> Any:
    from symmetrix import Symmetrix
    from symmetrix.extract_mace_data import extract_mace_data

    file = path.with_suffix(".json")
    if not file.exists():
        file.write_text(json.dumps(extract_mace_data(str(path))))
    profile = "speed" if mode == "direct" else "capacity"
    return Symmetrix(str(file), dtype=dtype, streamed_edges=mode, execution_profile=profile)


def measure(call: Call, seconds: float) -> tuple[dict[str, float], tuple[float, np.ndarray]]:
    """Return seconds per evaluation and their number, and the first energy and forces."""
    import numpy as np

    from workflow_lib.models.testing import olivine

    atoms, walk = olivine(), np.random.default_rng(0)
    atoms.arrays.pop("oxidation_states", None)
    first = call(atoms)  # not counted
    before, count = time.process_time(), 0
    while time.process_time() - before < seconds:
        atoms.positions += walk.normal(0, 0.005, atoms.positions.shape)
        call(atoms)
        count += 1
    return {"s": round((time.process_time() - before) / count, 4), "evaluations": count}, first


def main(arguments: list[str] | None = None) -> None:
    """Measure and print the lines."""
    import numpy as np
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="paper", help="its first MACE is measured")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each side")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    potential = model(options.config)
    expected: tuple[float, np.ndarray] | None = None
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for name, side in sides(potential, Path(folder)).items():
            line: dict[str, Any] = {"name": f"native-mace/{options.config}", "side": name}
            if isinstance(side, str):
                print(json.dumps(line | {"refused": side}), flush=True)
                continue
            values, (energy, forces) = measure(side, options.seconds)
            expected = expected or (energy, forces)
            line |= values | {
                "energy_difference_ev": abs(energy - expected[0]),
                "force_difference_ev_a": float(np.abs(forces - expected[1]).max()),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
