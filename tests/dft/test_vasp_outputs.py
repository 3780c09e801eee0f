"""Results of VASP: units and signs on real files of silicon, charge order on written NaFePO4 ones.

The real files are in ``vasp_files`` (see its README). Where a test needs output of NaxFePO4 it writes
it itself: :func:`vasprun_text`, :func:`outcar_text` and :func:`acf_text` invent numbers in the formats
of VASP and of the Bader code; nothing in them was computed.
"""

import gzip
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.dft.vasp_engine import collect, compute, submit
from workflow_lib.dft.vasp_inputs import incar, poscar_order, potcar_symbols, read_card, write_inputs
from workflow_lib.dft.vasp_outputs import (
    bader_charges,
    energy,
    read_outcar,
    read_run,
    read_vasprun,
    stress,
    vasp_states,
)
from workflow_lib.errors import UserError
from workflow_lib.host import Arrangement

REAL = Path(__file__).parent / "vasp_files"
KBAR = 1602.1766208  # per eV/A^3
MOMENTS = {2: 3.78, 3: 4.34}  # published ones
VALENCE = {"Na": 7.0, "Fe": 14.0, "P": 5.0, "O": 6.0}
KEYS = {
    "positions", "cell", "energy", "forces", "stress", "magmoms", "charges", "states", "orbitals",
    "scf_iterations", "seconds", "cpu_seconds",
}  # fmt: skip
"""What gpaw_engine hands to the log."""


# Real files


def test_energy_is_the_one_for_zero_width_where_vasp_5_writes_another():
    """OUTCAR of the same run: 'energy(sigma->0)' of its five ionic steps."""
    steps = read_vasprun(REAL / "si-relax/vasprun.xml.gz").ionic_steps
    found = [energy(step) for step in steps]
    assert found == pytest.approx(
        [-6.50161629, -2.5404464, -3.97390482, -8.48283896, -10.53701997], abs=1e-8
    )
    assert steps[0]["e_0_energy"] == pytest.approx(-0.00106059)  # why the correction is needed


def test_energy_agrees_with_outcar_in_vasp_6():
    step = read_vasprun(REAL / "si-spin/vasprun.xml.gz").ionic_steps[-1]
    outcar = read_outcar(REAL / "si-spin/OUTCAR.gz")
    assert energy(step) == pytest.approx(outcar.final_energy, abs=1e-8)


def test_stress_is_in_ev_per_cubic_angstrom_with_the_sign_of_tension():
    """OUTCAR says 'FORCE on cell =-STRESS ... Total 2.64685 eV' and 'external pressure = 285.96 kB'."""
    steps = read_vasprun(REAL / "si-spin/vasprun.xml.gz").ionic_steps
    volumes = [step["structure"].volume for step in steps]
    first = stress(steps[0])
    np.testing.assert_allclose(first, np.eye(3) * -2.64685 / volumes[0], atol=1e-6)
    assert np.trace(first) / 3 == pytest.approx(-285.96 / KBAR, rel=1e-5)
    # The run relaxes its cell: it grows for as long as the stress is negative, and less as it falls.
    traces = [float(np.trace(stress(step))) for step in steps]
    assert all(trace < 0 for trace in traces[:-1])
    assert (np.diff(volumes) > 0).all()
    assert (np.diff(traces) > 0).all()


def test_stress_is_the_slope_of_the_energy_over_the_volume():
    """dE/dV = trace / 3, integrated with the trapezoidal rule between the third and the fourth step."""
    third, fourth = read_vasprun(REAL / "si-spin/vasprun.xml.gz").ionic_steps[2:4]
    step = fourth["structure"].volume - third["structure"].volume
    mean = (np.trace(stress(third)) + np.trace(stress(fourth))) / 6
    assert energy(fourth) - energy(third) == pytest.approx(mean * step, rel=0.2)


def test_off_diagonal_stress_keeps_its_place():
    step = read_vasprun(REAL / "si-relax/vasprun.xml.gz").ionic_steps[0]
    np.testing.assert_allclose(
        stress(step)[0] * -KBAR, [13.3799082, -198.81086995, 161.62424081], rtol=1e-9
    )


def test_a_file_cut_short_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cut short") as error:
        read_vasprun(REAL / "si-killed/vasprun.xml.gz")
    assert "\n" not in str(error.value)
    content = gzip.decompress((REAL / "si-spin/OUTCAR.gz").read_bytes())
    for size in (100, len(content) // 2, len(content) - 3000):
        (tmp_path / "OUTCAR").write_bytes(content[:size])
        with pytest.raises(UserError, match="cut short"):
            read_outcar(tmp_path / "OUTCAR")


@pytest.fixture
def silicon(tmp_path) -> tuple[Calculation, Path]:
    """The calculation that the real spin-polarised run would have been the answer to.

    Its INCAR lacked LASPH, and fixed the total moment: these two lines are changed in the copy.
    """
    calculation = Calculation(
        name="silicon",
        group="Si",
        kind="relaxation",
        task="cell",
        numbers=np.array([14]),
        positions=np.array([[0.195, 0.195, 0.0]]),
        cell=np.array([[1.95, 1.95, 0], [0, 1.95, 1.95], [1.95, 0, 1.95]]),
        oxidation_states=np.array([0]),
        level=Level(code="VASP", cutoff=240, hubbard_u={}, kpoints=(8, 8, 8), width=0.1),
        formula_units=1,
        unsteered=True,
    )
    write_inputs(calculation, tmp_path / "run")
    text = gzip.decompress((REAL / "si-spin/vasprun.xml.gz").read_bytes()).decode()
    text = text.replace(
        '<i name="NUPDOWN">      2.00000000</i>', '<i type="logical" name="LASPH"> T  </i>', 1
    )
    (tmp_path / "run/vasprun.xml").write_text(text)
    shutil.copy(REAL / "si-spin/OUTCAR.gz", tmp_path / "run")
    return calculation, tmp_path / "run"


def test_every_converged_ionic_step_is_a_frame(silicon):
    _, folder = silicon
    run = read_run(folder, *read_card(folder))
    assert run.skipped == [(i, "not self-consistent after 15 iterations") for i in (0, 3)]
    assert [frame["scf_iterations"] for frame in run.frames] == [11, 14, 14]
    assert all(set(frame) == KEYS for frame in run.frames)
    assert [frame["magmoms"] for frame in run.frames] == [None, None, [0.646]]
    assert [frame["states"] for frame in run.frames] == [None, None, [0]]
    assert [frame["seconds"] for frame in run.frames] == [0.4749, 0.5756, 0.5807]
    last = run.frames[-1]
    assert last["energy"] == pytest.approx(-1.97252333)
    assert np.linalg.det(last["cell"]) == pytest.approx(26.56945, rel=1e-6)
    scaled = np.linalg.solve(np.transpose(last["cell"]), last["positions"][0])
    np.testing.assert_allclose(scaled, [0.1, 0, 0], atol=1e-8)  # VASP wrote 1 for 0 in places
    assert np.trace(last["stress"]) / 3 == pytest.approx(-1.02874843 / KBAR)
    assert (run.labelled, run.relaxed) == (True, False)


def test_a_real_run_goes_to_the_store(silicon, tmp_path):
    calculation, folder = silicon
    store = Store(tmp_path / "store")
    with store.writing(calculation) as log:
        compute(calculation, log, folder=folder, command=None)
    record = store.get(calculation)
    assert (record.status, record.reason) == ("failed", "the cell is not relaxed after 5 steps")
    assert len(record.frames) == 3
    assert [entry["index"] for entry in record.skipped] == [0, 3]
    assert record.seconds == pytest.approx(0.4749 + 0.5756 + 0.5807)
    with store.writing(calculation) as log:  # read again: nothing is logged twice
        collect(calculation, log, folder)
    record = store.get(calculation)
    assert (len(record.frames), len(record.skipped), record.status) == (3, 2, "failed")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 520.0}, "ENCUT is 240.0, not 520"),
        ({"width": 0.05}, "SIGMA is 0.1, not 0.05"),
        ({"kpoints": (4, 4, 4)}, "k-mesh is Gamma"),
    ],
)
def test_another_level_than_the_one_asked_for_is_refused(silicon, change, message):
    calculation, folder = silicon
    level = calculation.level.model_copy(update=change)
    other = Calculation.from_json(calculation.to_json() | {"level": level.model_dump()})
    with pytest.raises(UserError, match=message):
        read_run(folder, other, np.array([0]))


def test_settings_that_the_level_does_not_ask_for_are_refused(silicon):
    calculation, folder = silicon
    path = folder / "vasprun.xml"
    for line in ('<i type="string" name="METAGGA">R2SCAN</i>', '<i name="NUPDOWN">      2.0</i>'):
        text = path.read_text()
        path.write_text(text.replace("</incar>", f"{line}</incar>", 1))
        with pytest.raises(UserError, match="does not ask for"):
            read_run(folder, calculation, np.array([0]))
        path.write_text(text)


def test_another_structure_than_the_one_asked_for_is_refused(silicon):
    calculation, folder = silicon
    far = Calculation.from_json(
        calculation.to_json() | {"task": "single", "positions": [[0.245, 0.195, 0.0]]}
    )
    with pytest.raises(UserError, match="from the structure"):
        read_run(folder, far, np.array([0]))
    phosphorus = Calculation.from_json(calculation.to_json() | {"numbers": [15]})
    with pytest.raises(UserError, match="potentials PAW_PBE Si, not PAW_PBE P"):
        read_run(folder, phosphorus, np.array([0]))


# Charge order, on written files


@pytest.fixture
def half(host) -> Calculation:
    atoms = host.build(Arrangement((1, 1, 1), (0, 3), (0, 2)))
    atoms = atoms[np.random.default_rng(1).permutation(len(atoms))]
    return Calculation(
        name="half",
        group="half",
        kind="relaxation",
        task="relaxation",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=atoms.get_array("oxidation_states"),
        level=Level(code="VASP", cutoff=520),
        formula_units=4,
    )


def _rows(values) -> str:
    return "".join(f"<v>{' '.join(f'{x:.8f}' for x in row)}</v>\n" for row in np.atleast_2d(values))


def _item(key: str, value) -> str:
    if isinstance(value, list):
        return f'<v name="{key}">{" ".join(str(v) for v in value)}</v>\n'
    if isinstance(value, bool):
        return f'<i type="logical" name="{key}">{"T" if value else "F"}</i>\n'
    kind = {str: ' type="string"', int: ' type="int"', float: ""}[type(value)]
    return f'<i{kind} name="{key}">{value}</i>\n'


def vasprun_text(calculation: Calculation, geometries, forces, iterations) -> str:
    """Invented vasprun.xml of the calculation: geometries and forces come in its order of atoms."""
    order = poscar_order(calculation.numbers)
    symbols = [calculation.atoms().symbols[i] for i in order]
    names = dict(zip(dict.fromkeys(symbols), potcar_symbols(calculation), strict=True))

    def structure(positions, name=""):
        scaled = np.linalg.solve(calculation.cell.T, np.asarray(positions)[order].T).T % 1.0
        return (
            f'<structure{name}><crystal><varray name="basis">{_rows(calculation.cell)}</varray></crystal>'
            f'<varray name="positions">{_rows(scaled)}</varray></structure>\n'
        )

    text = [
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>\n<generator>',
        _item("program", "vasp"), _item("version", "6.4.0"), "</generator>\n<incar>",
        *(_item(key, value) for key, value in incar(calculation).items()),
        '</incar>\n<kpoints><generation param="Gamma"><v type="int" name="divisions">1 1 1</v>',
        '</generation><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1</v>',
        "</varray></kpoints>\n<parameters>", _item("NELM", 100), _item("NSW", 80), _item("IBRION", 2),
        _item("EDIFFG", -0.02), '</parameters>\n<atominfo><array name="atoms"><set>',
        *(f"<rc><c>{symbol}</c><c>1</c></rc>" for symbol in symbols),
        '</set></array><array name="atomtypes"><set>',
        *(
            f"<rc><c>{symbols.count(symbol)}</c><c>{symbol}</c><c>1.0</c><c>{VALENCE[symbol]}</c>"
            f"<c> PAW_PBE {name} 01Jan2000 </c></rc>"
            for symbol, name in names.items()
        ),
        "</set></array></atominfo>\n",
        structure(geometries[0], ' name="initialpos"'),
    ]  # fmt: skip
    for index, (positions, force, count) in enumerate(zip(geometries, forces, iterations, strict=True)):
        values = "".join(
            _item(key, -180.0 - index + off)
            for key, off in (("e_fr_energy", -0.02), ("e_wo_entrp", 0.02), ("e_0_energy", 0.0))
        )
        text += [
            "<calculation>", *["<scstep><energy>" + values + "</energy></scstep>"] * count,
            structure(positions), f'<varray name="forces">{_rows(np.asarray(force)[order])}</varray>',
            f'<varray name="stress">{_rows(np.diag([10.0, 20.0, 30.0]))}</varray>',
            f"<energy>{values}</energy></calculation>\n",
        ]  # fmt: skip
    return "".join([*text, structure(geometries[-1], ' name="finalpos"'), "</modeling>\n"])


def outcar_text(calculation: Calculation, magmoms) -> str:
    """The real OUTCAR of silicon with invented moments and the valences of the potentials."""
    order = poscar_order(calculation.numbers)
    symbols = list(dict.fromkeys(calculation.atoms().symbols[i] for i in order))
    text = gzip.decompress((REAL / "si-spin/OUTCAR.gz").read_bytes()).decode()
    heads = "".join(f"   VRHFIN ={symbol}: invented\n" for symbol in symbols)
    text = re.sub(r"   VRHFIN =.*\n", heads, text)
    values = " ".join(f"{VALENCE[symbol]:.2f}" for symbol in symbols)
    text = re.sub(r"   ZVAL   =.*\n", f"   ZVAL   = {values}\n", text)
    lines = [f"{n:5d}        0.000   0.000   {m:.3f}   {m:.3f}" for n, m in enumerate(magmoms[order], 1)]
    line = "-" * 42
    table = "\n".join(["# of ion       s       p       d       tot", line, *lines, line, "tot   0 0 0 0"])
    before, after = text.rsplit(" magnetization (x)", 1)
    tail = after[after.index(" total amount of memory") :]
    return f"{before} magnetization (x)\n\n{table}\n\n{tail}"


def acf_text(column) -> str:
    """Invented ACF.dat, in the format of the Henkelman group's code."""
    rule = " " + "-" * 80
    rows = [
        f"{n:5d}    0.000000    0.000000    0.000000 {value:11.6f}     1.000000    10.000000"
        for n, value in enumerate(column, 1)
    ]
    head = "    #         X           Y           Z       CHARGE      MIN DIST   ATOMIC VOL"
    tail = ["    VACUUM CHARGE:               0.0000", f"    NUMBER OF ELECTRONS: {np.sum(column):10.4f}"]
    return "\n".join([head, rule, *rows, rule, *tail]) + "\n"


def moments_of(calculation: Calculation, states=None) -> np.ndarray:
    states = calculation.oxidation_states if states is None else states
    return np.array([MOMENTS.get(int(state), 0.01) for state in states])


def charges_of(calculation: Calculation) -> np.ndarray:
    """Invented charges that sum to zero, the cations' near the published ones."""
    charges = np.array(
        [{11: 0.87, 15: 5.0}.get(int(z), {2: 1.48, 3: 1.94}.get(int(s), 0.0)) for z, s in
         zip(calculation.numbers, calculation.oxidation_states, strict=True)]
    )  # fmt: skip
    oxygen = calculation.numbers == 8
    charges[oxygen] = -charges.sum() / oxygen.sum()
    return charges


def valences_of(calculation: Calculation) -> np.ndarray:
    return np.array([VALENCE[symbol] for symbol in calculation.atoms().symbols])


def write_outputs(calculation, folder, *, states=None, iterations=(20, 100, 12), last_force=0.01):
    """What VASP and bader would have left, after three ionic steps."""
    rng = np.random.default_rng(2)
    moved = calculation.positions + rng.normal(0, 0.02, calculation.positions.shape)
    geometries = [calculation.positions, moved, moved + 0.01]
    forces = [np.full((len(calculation), 3), f) for f in (0.5, 0.1, last_force)]
    forces[-1][0, 0] = 0.015
    (folder / "vasprun.xml").write_text(vasprun_text(calculation, geometries, forces, iterations))
    (folder / "OUTCAR").write_text(outcar_text(calculation, moments_of(calculation, states)))
    order = poscar_order(calculation.numbers)
    electrons = valences_of(calculation) - charges_of(calculation)
    (folder / "ACF.dat").write_text(acf_text(electrons[order]))
    return geometries, forces


def test_results_come_back_in_the_order_of_the_calculation(half, tmp_path):
    write_inputs(half, tmp_path)
    geometries, forces = write_outputs(half, tmp_path)
    run = read_run(tmp_path, *read_card(tmp_path))
    assert run.skipped == [(1, "not self-consistent after 100 iterations")]
    first, last = run.frames
    # Same image as asked for, although the file wraps atoms into the cell.
    np.testing.assert_allclose(first["positions"], geometries[0], atol=1e-6)
    np.testing.assert_allclose(last["positions"], geometries[2], atol=1e-6)
    np.testing.assert_allclose(last["forces"], forces[2], atol=1e-8)
    np.testing.assert_allclose(last["magmoms"], moments_of(half))
    np.testing.assert_allclose(last["charges"], charges_of(half), atol=1e-5)
    np.testing.assert_allclose(last["stress"], np.diag([-10, -20, -30]) / KBAR)
    assert last["states"] == half.oxidation_states.tolist()
    assert (last["energy"], first["orbitals"]) == (-182.0, {})
    assert first["magmoms"] is first["charges"] is first["states"] is None


def outcome(calculation, tmp_path, **outputs):
    write_inputs(calculation, tmp_path / "run")
    write_outputs(calculation, tmp_path / "run", **outputs)
    store = Store(tmp_path / "store")
    with store.writing(calculation) as log:
        compute(calculation, log, folder=tmp_path / "run", command=None)
    return store.get(calculation)


def test_a_relaxation_that_kept_its_charge_order_is_done(half, tmp_path):
    record = outcome(half, tmp_path)
    assert (record.status, record.reason, len(record.frames)) == ("done", None, 2)


def test_a_relaxation_in_another_charge_order_has_failed(half, tmp_path):
    states = half.oxidation_states.copy()
    iron = np.flatnonzero(half.numbers == 26)
    states[iron] = 5 - states[iron]  # all swapped
    states[iron[0]] = 0  # and one without a clear moment
    record = outcome(half, tmp_path, states=states)
    assert record.status == "failed"
    found = " ".join(["?", *(str(state) for state in states[iron[1:]])])
    wanted = " ".join(str(state) for state in half.oxidation_states[iron])
    assert record.reason == f"collapsed to Fe {found} (wanted Fe {wanted})"


def test_forces_that_stay_large_and_a_last_step_that_does_not_converge_fail(half, tmp_path):
    record = outcome(half, tmp_path / "a", last_force=0.1)
    assert (record.status, record.reason) == ("failed", "forces above 0.05 eV/A after 3 steps")
    record = outcome(half, tmp_path / "b", iterations=(20, 30, 100))
    assert (record.status, record.reason) == ("failed", "not self-consistent after 100 iterations")
    assert len(record.frames) == 2
    assert all(frame["magmoms"] is None for frame in record.frames)


def test_a_series_keeps_the_geometries_that_kept_their_charge_order(half, tmp_path):
    series = Calculation.from_json(
        half.to_json()
        | {"task": "series", "series": [(half.positions + off).tolist() for off in (0.0, 0.05, 0.1)]}
    )
    write_inputs(series, tmp_path / "run")
    wrong = np.where(series.oxidation_states > 0, 3, 0)
    for name, states, count in (("000", None, 20), ("001", wrong, 20), ("002", None, 100)):
        geometry = [series.series[int(name)]]
        text = vasprun_text(series, geometry, [np.zeros((len(series), 3))], [count])
        (tmp_path / "run" / name / "vasprun.xml").write_text(text)
        (tmp_path / "run" / name / "OUTCAR").write_text(outcar_text(series, moments_of(series, states)))
    store = Store(tmp_path / "store")
    with store.writing(series) as log:
        compute(series, log, folder=tmp_path / "run", command=None)
    record = store.get(series)
    assert (record.status, len(record.frames)) == ("done", 1)
    assert [(entry["index"], entry["reason"]) for entry in record.skipped] == [
        (1, "collapsed to Fe 3 3 3 3"),
        (2, "not self-consistent after 100 iterations"),
    ]


@pytest.mark.parametrize(
    ("moment", "state"),
    [(2.5, -1), (3.77, 2), (-3.79, 2), (3.81, -1), (4.2, -1), (4.3, 3), (4.35, 3), (5.2, -1)],
)
def test_moments_between_the_windows_are_ambiguous(half, moment, state):
    magmoms = np.full(len(half), moment)
    assert set(vasp_states(half, magmoms)[half.numbers == 26]) == {state}
    assert set(vasp_states(half, magmoms)[half.numbers != 26]) == {0}


def test_an_element_without_known_moments_is_named(half):
    manganese = Calculation.from_json(
        half.to_json() | {"numbers": np.where(half.numbers == 26, 25, half.numbers).tolist()}
    )
    with pytest.raises(UserError, match="Mn"):
        vasp_states(manganese, np.zeros(len(half)))
    windows = {("Mn", 2): (4.0, 5.0), ("Mn", 3): (3.0, 3.9)}
    assert set(vasp_states(manganese, np.full(len(half), 4.5), windows)) == {0, 2}


@pytest.mark.parametrize("column", ["electrons", "cations positive", "cations negative"])
def test_na_decides_the_sign_of_charges(half, tmp_path, column):
    charges, valences = charges_of(half), valences_of(half)
    values = {"electrons": valences - charges, "cations positive": charges, "cations negative": -charges}
    (tmp_path / "ACF.dat").write_text(acf_text(values[column]))
    found = bader_charges(tmp_path / "ACF.dat", half.numbers, valences)
    np.testing.assert_allclose(found, charges, atol=1e-5)
    assert found[half.numbers == 11].mean() == pytest.approx(0.87)


def test_oxygen_decides_where_there_is_no_na(half, tmp_path):
    kept = half.numbers != 11
    charges, valences = charges_of(half)[kept], valences_of(half)[kept]
    charges[half.numbers[kept] == 8] -= charges.sum() / (half.numbers[kept] == 8).sum()
    (tmp_path / "ACF.dat").write_text(acf_text(-charges))
    found = bader_charges(tmp_path / "ACF.dat", half.numbers[kept], valences)
    np.testing.assert_allclose(found, charges, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda electrons, _: electrons[:-1], "lists 25 atoms of 26"),
        (lambda electrons, _: electrons * 1.1, "chgsum"),
        (lambda electrons, sodium: electrons + 2 * sodium - 2 * sodium[::-1], "Na has -1.13 e"),
    ],
)
def test_charges_that_cannot_be_are_refused(half, tmp_path, spoil, message):
    order = np.argsort(half.numbers != 11, kind="stable")  # both Na first, no Na among the last
    numbers, valences = half.numbers[order], valences_of(half)[order]
    electrons = valences - charges_of(half)[order]
    (tmp_path / "ACF.dat").write_text(acf_text(spoil(electrons, numbers == 11)))
    with pytest.raises(UserError, match=message) as error:
        bader_charges(tmp_path / "ACF.dat", numbers, valences)
    assert "\n" not in str(error.value)


# The command


def script(tmp_path: Path, content: str) -> str:
    path = tmp_path / "vasp.py"
    path.write_text(content)
    return f"{sys.executable} {path}"


def give_potcar(calculation: Calculation, folder: Path) -> None:
    """An invented POTCAR: names only."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = (f"   TITEL  = PAW_PBE {name} 01Jan2000\n" for name in potcar_symbols(calculation))
    (folder / "POTCAR").write_text("".join(titles))


def test_vasp_runs_in_the_folder_and_is_read(half, tmp_path):
    done = tmp_path / "done"
    done.mkdir()
    write_outputs(half, done)
    command = script(
        tmp_path,
        f"import shutil, pathlib\nassert pathlib.Path('INCAR').exists()\n"
        f"for name in ('vasprun.xml', 'OUTCAR'): shutil.copy(f'{done}/{{name}}', name)\nprint('VASP')",
    )
    folder, store = tmp_path / "run", Store(tmp_path / "store")
    give_potcar(half, folder)
    with store.writing(half) as log:
        compute(half, log, folder=folder, command=command)
    record = store.get(half)
    assert record.status == "done"
    assert record.frames[-1]["charges"] is None  # bader was not run
    assert (folder / "command.log").read_text() == "VASP\n"


def test_a_job_in_a_queue_is_handed_over_once(half, tmp_path):
    folder, store = tmp_path / "run", Store(tmp_path / "store")
    give_potcar(half, folder)
    command = script(tmp_path, f"open(r'{tmp_path}/count', 'a').write('x')")
    for _ in range(2):
        with store.writing(half) as log:
            compute(half, log, folder=folder, command=command)
        assert store.get(half).status == "interrupted"
    assert (tmp_path / "count").read_text() == "x"
    write_outputs(half, folder)
    with store.writing(half) as log:
        compute(half, log, folder=folder, command=command)
    assert store.get(half).status == "done"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("{python} -c 'raise SystemExit(3)'", "status 3 in .*command.log"),
        ("no-such-program -n 4", "no-such-program: No such file"),
        ("mpirun 'vasp", "no command line"),
        (" ", "is empty"),
    ],
)
def test_a_command_that_fails_says_where_in_one_line(half, tmp_path, command, message):
    give_potcar(half, tmp_path)
    with pytest.raises(UserError, match=message) as error:
        submit(tmp_path, command.format(python=sys.executable), potcar_symbols(half))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "submitted").exists()


def test_nothing_is_run_without_potentials_or_command(half, tmp_path, monkeypatch):
    from pymatgen.io.vasp import inputs

    monkeypatch.setattr(inputs, "SETTINGS", {})
    store, folder = Store(tmp_path / "store"), tmp_path / "run"
    with store.writing(half) as log, pytest.raises(UserError, match="PMG_VASP_PSP_DIR"):
        compute(half, log, folder=folder, command="true")
    give_potcar(half, folder)
    with store.writing(half) as log, pytest.raises(UserError, match=r"set dft\.command"):
        compute(half, log, folder=folder, command=None)


def test_a_folder_with_the_atoms_in_another_order_is_refused(half, tmp_path):
    write_inputs(half, tmp_path / "run")
    write_outputs(half, tmp_path / "run")
    turned = half.to_json()
    for name in ("numbers", "positions", "oxidation_states"):
        turned[name] = turned[name][::-1]
    other, store = Calculation.from_json(turned), Store(tmp_path / "store")
    assert other.digest == half.digest
    with store.writing(other) as log, pytest.raises(UserError, match="other atoms first"):
        collect(other, log, tmp_path / "run")
