"""Output of VASP and of the Bader code for NaxFePO4: their formats, invented numbers."""

import gzip
import re
from pathlib import Path

import numpy as np

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.engines.vasp.inputs import incar, poscar_order, potcar_symbols

REAL = Path(__file__).parent / "vasp_files"
MOMENTS = {2: 3.78, 3: 4.34}  # published ones
VALENCE = {"Na": 7.0, "Fe": 14.0, "P": 5.0, "O": 6.0}


def give_potcar(calculation: Calculation, folder: Path) -> None:
    """An invented POTCAR: names only."""
    folder.mkdir(parents=True, exist_ok=True)
    titles = (f"   TITEL  = PAW_PBE {name} 01Jan2000\n" for name in potcar_symbols(calculation))
    (folder / "POTCAR").write_text("".join(titles))


def _rows(values) -> str:
    return "".join(f"<v>{' '.join(f'{x:.8f}' for x in row)}</v>\n" for row in np.atleast_2d(values))


def _item(key: str, value) -> str:
    if isinstance(value, list):
        return f'<v name="{key}">{" ".join(str(v) for v in value)}</v>\n'
    if isinstance(value, bool):
        return f'<i type="logical" name="{key}">{"T" if value else "F"}</i>\n'
    kind = {str: ' type="string"', int: ' type="int"', float: ""}[type(value)]
    return f'<i{kind} name="{key}">{value}</i>\n'


def vasprun_text(
    calculation: Calculation, geometries, forces, iterations, style="Gamma", stress=(10.0, 20.0, 30.0)
) -> str:
    """Invented vasprun.xml of the calculation: geometries and forces come in its order of atoms.

    ``style`` is what VASP calls the mesh; ``stress`` in kbar, along the axes.
    """
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
        f'</incar>\n<kpoints><generation param="{style}"><v type="int" name="divisions">',
        " ".join(map(str, calculation.level.kpoints)), "</v>",
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
            f'<varray name="stress">{_rows(np.diag(stress))}</varray>',
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
