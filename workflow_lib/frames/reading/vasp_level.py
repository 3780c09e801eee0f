"""Find the level at which VASP ran from the settings in its own files, and compare it with a stated one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError

if TYPE_CHECKING:
    from pymatgen.io.vasp.outputs import Vasprun

_GGA = {
    **{"PE": "PBE", "PS": "PBEsol", "RP": "RPBE", "RE": "revPBE", "91": "PW91", "AM": "AM05", "CA": "LDA"},
    **{"8": "PBE", "7": "PW91"},
}
"""VASP's GGA tags, and the LEXCH numbers of the two that potentials are made with."""
_NONE = ("", "--", "F", "NONE", "FALSE")
_FUNCTIONALS = (
    *("r2SCAN", "rSCAN", "SCAN", "HSE06", "HSE03", "PBE0", "B3LYP", "PBEsol", "revPBE", "RPBE", "PBE"),
    *("PW91", "AM05", "LDA"),
)
_CUTOFF = re.compile(r"\b(?:PW|PAW|ENCUT|E)[ _=]?(\d{2,4}(?:\.\d+)?)|(?<![\d.])(\d{2,4}(?:\.\d+)?) ?eV")
_ADDED = re.compile(r"\+(?:IVDW\d+|vdW|SOC|LDAUTYPE\d)| hybrid\([^)]*\)")
"""What :func:`_functional` adds to the name of a functional."""
SAME_U = 1e-3
"""eV; values of U that differ by less are the same."""
SAME_CUTOFF = 0.5
"""eV; cut-offs that differ by less are the same."""
_CODES = ("VASP", "GPAW", "Espresso", "CP2K", "ABINIT", "CASTEP", "FHI-aims", "SIESTA", "CRYSTAL")


@dataclass(frozen=True, slots=True)
class VaspLevel:
    """The settings that an energy of VASP depends on.

    ``hubbard``: effective U in eV of every element of the run; ``cutoff`` in eV; ``mesh``:
    divisions of the k-mesh, None if the points are listed one by one (``points`` of them);
    ``gamma``: the mesh contains Gamma. None if the file does not tell.
    """

    functional: str
    hubbard: Mapping[str, float]
    cutoff: float | None
    mesh: tuple[int, int, int] | None
    gamma: bool
    points: int | None = None

    @property
    def name(self) -> str:
        """The level as frames state it, e.g. ``VASP/PBE+U(Fe 5.3)/PW520/2x4x4``."""
        table = ", ".join(f"{symbol} {u:g}" for symbol, u in sorted(self.hubbard.items()) if u)
        functional = f"{self.functional}+U({table})" if table else self.functional
        if self.mesh is None:
            mesh = f"{self.points} k-points" if self.points else "unknown mesh"
        else:
            mesh = "Gamma" if self.mesh == (1, 1, 1) and self.gamma else "x".join(map(str, self.mesh))
            mesh = mesh if self.gamma else f"shifted {mesh}"
        cutoff = "unknown cut-off" if self.cutoff is None else f"PW{self.cutoff:g}"
        return f"VASP/{functional}/{cutoff}/{mesh}"

    def differences(self, stated: str) -> list[str] | None:
        """Return what contradicts a stated level, in words; None if nothing in it can be compared."""
        found: list[str] = []
        compared = False
        code = next((one for one in _CODES if one.lower() in stated.lower()), None)
        if code not in (None, "VASP"):
            return [f"the code is VASP, not {code}"]
        functional = _functional_in(stated)
        if functional is not None:
            compared = True
            asked_too, added = (_ADDED.findall(text) for text in (stated, self.functional))
            base = re.split(r"[+ ]", self.functional)[0]
            if functional.lower() != base.lower() or sorted(asked_too) != sorted(added):
                found.append(
                    f"the functional is {self.functional}, not {''.join([functional, *asked_too])}"
                )
            found += self._hubbard_differences(stated)
        cutoff = _CUTOFF.search(re.sub(r"\+U ?\([^)]*\)", "+U", stated))
        if cutoff and self.cutoff is not None:
            compared = True
            asked = float(cutoff[1] or cutoff[2])
            if abs(asked - self.cutoff) > SAME_CUTOFF:
                found.append(f"the cut-off is {self.cutoff:g} eV, not {asked:g}")
        mesh = re.search(r"(\d+)\s?[xX×]\s?(\d+)\s?[xX×]\s?(\d+)", stated)
        asked_mesh = tuple(map(int, mesh.groups())) if mesh else None
        if asked_mesh is None and re.search(r"\bgamma\b", stated, re.IGNORECASE):
            asked_mesh = (1, 1, 1)
        if asked_mesh is not None and self.mesh is not None:
            compared = True
            if asked_mesh != self.mesh:
                mine, theirs = ("x".join(map(str, one)) for one in (self.mesh, asked_mesh))
                found.append(f"the k-mesh is {mine}, not {theirs}")
            else:
                found += self._other_centring(self.mesh, stated)
        return found if compared or code else None

    def _other_centring(self, mesh: tuple[int, int, int], stated: str) -> list[str]:
        """Return what contradicts a stated mesh of these divisions; it holds Gamma unless it is "shifted".

        With odd divisions alone the mesh of Monkhorst and Pack holds Gamma too, so "shifted" tells nothing.
        """
        shifted, monkhorst, centred = (
            bool(re.search(word, stated, re.IGNORECASE))
            for word in (r"\bshifted\b", r"\bmonkhorst", r"\bgamma\b")
        )
        odd = all(n % 2 for n in mesh)
        if shifted and odd:
            return []
        # "Gamma-centred Monkhorst-Pack" is a usual name of the mesh that holds Gamma.
        off = shifted or (monkhorst and not centred and not odd)
        name = "x".join(map(str, mesh))
        if off and self.gamma:
            return [f'the k-mesh {name} holds Gamma; state it as "{name}"']
        if not off and not self.gamma:
            return [f'the k-mesh {name} is shifted off Gamma; state it as "shifted {name}"']
        return []

    def _hubbard_differences(self, stated: str) -> list[str]:
        """Return differences in U; a stated table counts for every element, as a level has many cells."""
        text = stated[stated.index("+U") :] if "+U" in stated else ""
        asked = {
            symbol: float(value)
            for symbol, value in re.findall(r"\b([A-Z][a-z]?)[ :=_]*(\d+(?:\.\d+)?)", text.split("/")[0])
            if symbol in SYMBOLS[1:] and symbol != "U"
        }
        if text and not asked:  # "PBE+U" without a table
            return [] if any(self.hubbard.values()) else ["no U was used"]
        return [
            f"U of {symbol} is {u:g} eV, not {asked.get(symbol, 0):g}"
            for symbol, u in self.hubbard.items()
            if abs(u - asked.get(symbol, 0.0)) > SAME_U
        ]


def _functional_in(stated: str) -> str | None:
    """Return the functional that a stated level names, in our spelling; None if it names none."""
    for name in _FUNCTIONALS:
        if re.search(rf"(?<![A-Za-z0-9]){name}(?![A-Za-z0-9])", stated, re.IGNORECASE):
            return name
    return None


def _functional(settings: Mapping[str, Any]) -> str:
    """Return the functional of a run from its tags (upper case), with its corrections."""

    def text(key: str) -> str:
        return str(settings.get(key) or "").strip().upper()

    gga = text("GGA")
    base = _GGA.get(gga, gga) if gga not in _NONE else _GGA.get(text("LEXCH"), text("LEXCH") or "PBE")
    meta = text("METAGGA")
    if meta not in (*_NONE, "T", "TRUE"):
        base = {"R2SCAN": "r2SCAN", "RSCAN": "rSCAN"}.get(meta, meta)
    if text("LHFCALC") in ("T", "TRUE", ".TRUE."):
        share, screening = (float(settings.get(key) or 0.0) for key in ("AEXX", "HFSCREEN"))
        known = {(0.25, 0.2): "HSE06", (0.25, 0.3): "HSE03", (0.25, 0.0): "PBE0"}
        plain = known.get((round(share, 3), round(screening, 2)))
        base = plain if plain and base == "PBE" else f"{base} hybrid({share:g}, {screening:g})"
    if text("LUSE_VDW") in ("T", "TRUE", ".TRUE."):
        base += "+vdW"
    if text("LSORBIT") in ("T", "TRUE", ".TRUE."):
        base += "+SOC"
    if text("LDAU") in ("T", "TRUE", ".TRUE.") and text("LDAUTYPE") in ("1", "4"):
        base += f"+LDAUTYPE{text('LDAUTYPE')}"  # U and J count each by themselves
    if (dispersion := text("IVDW")) not in ("", "0", *_NONE):
        base += f"+IVDW{dispersion}"
    return base


def level_of_vasprun(vasprun: Vasprun) -> VaspLevel:
    """Return the level at which a vasprun.xml was computed."""
    settings = {**vasprun.parameters, **vasprun.incar}
    titles = vasprun.potcar_symbols
    if "PAW_PBE" not in titles[0] and "LEXCH" not in settings:
        settings["LEXCH"] = "91" if "GGA" in titles[0] else "CA"
    hubbard = dict.fromkeys(vasprun.atomic_symbols, 0.0)
    if settings.get("LDAU"):
        columns = (settings.get(key) for key in ("LDAUL", "LDAUU", "LDAUJ"))
        hubbard |= _hubbard([symbol for symbol, _ in potentials_of(vasprun)], *columns)
    kpoints = vasprun.kpoints
    automatic = kpoints.style.name in ("Gamma", "Monkhorst", "Automatic") and len(kpoints.kpts) == 1
    mesh = tuple(int(n) for n in kpoints.kpts[0]) if automatic and len(kpoints.kpts[0]) == 3 else None
    holds_gamma = bool((np.abs(np.asarray(vasprun.actual_kpoints)) < 1e-6).all(axis=1).any())
    cutoff = settings.get("ENCUT") or settings.get("ENMAX")
    return VaspLevel(
        _functional(settings),
        hubbard,
        None if cutoff is None else float(cutoff),
        mesh,  # type: ignore[arg-type]
        holds_gamma,
        len(vasprun.actual_kpoints),
    )


def potentials_of(vasprun: Vasprun) -> list[tuple[str, str]]:
    """Return element and title of the potential of each block of atoms; a POSCAR may repeat an element."""
    titles = [
        (re.match(r"\s*\S+\s+([A-Z][a-z]?)(?![a-z])", title), title) for title in vasprun.potcar_symbols
    ]
    return [(found[1] if found else "", title) for found, title in titles]


def smearing_width(smearing: Any, sigma: Any) -> float | None:
    """Return the smearing width (eV) of a run from ISMEAR and SIGMA, to 0.01 eV as an OUTCAR prints it.

    None for tetrahedra and given occupations (ISMEAR below -1), which have none, and if it cannot be told.
    """
    try:
        width = round(float(sigma), 2) if int(smearing) >= -1 else None
    except (TypeError, ValueError):  # not in the file, or asterisks
        return None
    return width if width is None or np.isfinite(width) else None


def _hubbard(blocks: Sequence[str], shells: Any, u: Any, j: Any) -> dict[str, float]:
    """Return the effective U (eV) of each element from the columns of its blocks; 0 if no shell has one.

    Raises UserError if the columns are not those of the blocks, or blocks of one element disagree: such
    energies would be filed under a level that is not theirs.
    """
    if any(one is None for one in (shells, u, j)):
        return dict.fromkeys(blocks, 0.0)
    columns = [np.ravel(np.asarray(one, dtype=float)) for one in (shells, u, j)]
    if any(len(one) < len(blocks) for one in columns):
        counts = ", ".join(str(len(one)) for one in columns)
        raise UserError(
            f"LDAUL, LDAUU and LDAUJ have {counts} columns for the {len(blocks)} blocks of atoms "
            f"{' '.join(blocks)}, so the U of an element is not known"
        )
    found: dict[str, float] = {}
    for symbol, shell, own, exchange in zip(blocks, *(list(one) for one in columns), strict=False):
        effective = float(own - exchange) if shell >= 0 else 0.0
        if abs(found.setdefault(symbol, effective) - effective) > SAME_U:
            raise UserError(
                f"blocks of {symbol} have different U ({found[symbol]:g} and {effective:g} eV), which no "
                "level of theory here can say"
            )
    return found


def level_of_outcar(header: str) -> VaspLevel:
    """Return the level from the head of an OUTCAR, the text before its first iteration."""

    def last(pattern: str) -> str | None:
        found = re.findall(pattern, header)
        return found[-1].strip() if found else None

    tags = ("GGA", "METAGGA", "LEXCH", "LHFCALC", "AEXX", "HFSCREEN", "LUSE_VDW", "IVDW", "LSORBIT")
    settings = {tag: last(rf"(?m)^\s*{tag}\s*=\s*(\S+)") for tag in tags}
    blocks = re.findall(r"VRHFIN\s*=\s*([A-Z][a-z]?)\s*:", header)
    hubbard = dict.fromkeys(blocks, 0.0)
    selected = re.search(r"LDA\+U is selected(?:, type is set to LDAUTYPE = *(\d))?", header)
    if "LDAUU" in header and selected:
        settings |= {"LDAU": "T", "LDAUTYPE": selected[1]}
        columns = [(last(rf"LDAU{letter}\s*=\s*([-\d. ]+)") or "").split() for letter in ("L", "U", "J")]
        hubbard = _hubbard(blocks, *(column or None for column in columns))
    divisions = re.search(r"generate k-points for:\s*(\d+)\s+(\d+)\s+(\d+)", header)
    cutoff = last(r"ENCUT\s*=\s*([\d.]+)")
    count = last(r"NKPTS\s*=\s*(\d+)")
    return VaspLevel(
        _functional(settings),
        hubbard,
        None if cutoff is None else float(cutoff),
        tuple(map(int, divisions.groups())) if divisions else None,  # type: ignore[arg-type]
        _lists_gamma(header),
        None if count is None else int(count),
    )


def _lists_gamma(header: str) -> bool:
    """Return whether the k-points of an OUTCAR contain Gamma."""
    listing = header.partition("k-points in reciprocal lattice and weights:")[2].partition("\n")[2]
    for line in listing.splitlines():
        words = line.split()
        try:
            if max(abs(float(word)) for word in words[:3]) < 1e-6:
                return True
        except ValueError:  # the end of the list
            return False
    return False
