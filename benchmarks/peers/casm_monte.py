"""CASM's Monte Carlo of an expansion that is given by energies; runs in an environment of its own.

    PYTHON benchmarks/peers/casm_monte.py PROBLEM.json FOLDER

The problem: a primitive cell in CASM's format, cut-offs (A), a supercell and occupations of it with their
energies (eV). CASM's coefficients are solved for, so both sides sample the same energies. Ends with one
line of JSON. Needs libcasm-clexmonte, casm-bset and a C++ compiler, which builds the expansion.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def compiler() -> None:
    """Tell CASM how to compile, unless the user has."""
    prefix = subprocess.run(
        [sys.executable, "-m", "libcasm.casmglobal", "--prefix"], capture_output=True, text=True, check=True
    )
    os.environ.setdefault("CASM_PREFIX", prefix.stdout.strip())
    os.environ.setdefault("CASM_CXXFLAGS", "-O3 -Wall -fPIC --std=c++17")
    os.environ.setdefault("CASM_SOFLAGS", "-shared -Wl,--no-as-needed")


def places(supercell: Any, prim: dict, matrix: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """CASM's index [N] of sites [N, 3] that are given in fractions of the supercell."""
    converter = supercell.site_index_converter
    basis = np.array([site["coordinate"] for site in prim["basis"]])
    found = []
    index = [converter.integral_site_coordinate(i) for i in range(converter.total_sites())]
    own = np.array([basis[site.sublattice()] + site.unitcell() for site in index])
    scaled = own @ np.linalg.inv(matrix).T
    for site in sites:
        gap = scaled - site
        gap -= np.round(gap)
        found.append(int(np.abs(gap).max(axis=1).argmin()))
        if np.abs(gap[found[-1]]).max() > 1e-4:
            raise RuntimeError(f"no site of CASM's supercell at {site}")
    return np.array(found)


def solved(functions: Any, neighbours: Any, supercell: Any, where: np.ndarray, problem: dict) -> np.ndarray:
    """CASM's coefficients (eV per cell) for these energies; RuntimeError if there are none."""
    from libcasm import clexulator, configuration

    nearby = clexulator.SuperNeighborList(supercell.transformation_matrix_to_super, neighbours)
    rows = []
    for occupations in problem["occupations"]:
        state = configuration.Configuration(supercell)
        for place, occupation in zip(where, occupations, strict=True):
            state.set_occ(int(place), int(occupation))
        rows.append(clexulator.Correlations(nearby, functions, state.dof_values).per_supercell().ravel())
    energies = np.array(problem["energies"])
    found = np.linalg.lstsq(np.array(rows), energies, rcond=None)[0]
    left = np.abs(np.array(rows) @ found - energies).max()
    if left > 1e-8:
        raise RuntimeError(f"CASM's functions miss the energies by {left} eV")
    return found


def system_of(problem: dict, folder: Path, source: Path, coefficients: np.ndarray) -> Any:
    """CASM's system: cell, composition, functions and coefficients."""
    from libcasm import clexmonte, composition

    basis = json.loads((folder / "basis.json").read_text())
    for orbit in basis["orbits"]:
        for function in orbit["cluster_functions"]:
            function["eci"] = float(coefficients[function["linear_function_index"]])
    (folder / "eci.json").write_text(json.dumps(basis))
    kinds = ["Va", problem["ion"], *problem["others"]]
    ends = np.zeros((len(kinds), 2))
    ends[0, 0] = ends[1, 1] = problem["per_cell"]
    ends[2:] = np.array(list(problem["others"].values()))[:, None]
    converter = composition.CompositionConverter(components=kinds, origin_and_end_members=ends)
    return clexmonte.System.from_dict(
        {
            "prim": problem["prim"],
            "composition_axes": converter.to_dict(),
            "basis_sets": {"default": {"source": str(source), "basis": str(folder / "basis.json")}},
            "clex": {
                "formation_energy": {"basis_set": "default", "coefficients": str(folder / "eci.json")}
            },
        },
        search_path=[str(folder)],
    )


def main() -> None:
    """Build, solve, sample."""
    compiler()
    from casm import bset
    from libcasm import clexmonte, clexulator, configuration

    problem, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]).resolve()
    prim = configuration.Prim.from_dict(problem["prim"])
    specs = bset.make_clex_basis_specs(
        prim=prim, max_length=problem["max_length"], occ_site_basis_functions_specs="occupation"
    )
    source, _, neighbours = bset.write_clexulator(
        prim=prim, clex_basis_specs=specs, bset_dir=folder, project_name="host", verbose=False
    )
    functions = clexulator.make_clexulator(str(source), neighbours)
    matrix = np.array(problem["matrix"])
    supercell = configuration.Supercell(prim, matrix)
    where = places(supercell, problem["prim"], matrix, np.array(problem["sites"]))
    coefficients = solved(functions, neighbours, supercell, where, problem)
    system = system_of(problem, folder, source, coefficients)
    calculator = clexmonte.MonteCalculator(method="semigrand_canonical", system=system)
    state = system.make_default_state(matrix)
    for place, occupation in zip(where, problem["occupations"][-1], strict=True):
        state.configuration.set_occ(int(place), int(occupation))
    state.conditions.scalar_values["temperature"] = problem["temperature"]
    # The parametric composition counts filled fractions of a cell's sites.
    state.conditions.vector_values["param_chem_pot"] = [problem["mu"] * problem["per_cell"]]
    done: dict[str, float] = {}
    for passes in (problem["sweeps"] // 20, problem["sweeps"]):
        fixture = calculator.make_default_sampling_fixture_params(
            label="timing", write_results=False, write_status=False, output_dir=str(folder / "output")
        )
        fixture.clear_cutoffs()
        fixture.do_not_converge("potential_energy")
        fixture.do_not_converge("param_composition")
        for name in list(fixture.to_dict()["analysis"]["functions"]):
            fixture.do_not_perform_analysis(name)
        fixture.sample_by_pass()
        fixture.set_min_count(passes)
        fixture.set_max_count(passes)
        begun = time.process_time()
        found = calculator.run_fixture(state, fixture).results
        seconds = time.process_time() - begun
        trials = found.n_accept + found.n_reject
        done = {"trials": trials, "seconds": seconds, "accepted": found.n_accept / trials}
        done["composition"] = float(np.mean(found.samplers["param_composition"].values()))
    print(json.dumps(done | {"functions": len(coefficients)}))


if __name__ == "__main__":
    main()
