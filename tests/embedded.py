"""Where the embedded data are, and the redox rule they are read with."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
FRAMES = ROOT / "resources/naxfepo4-gpaw/frames.parquet"
HOST = ROOT / "resources/hosts/olivine-nafepo4.json"
REFERENCE = "GPAW/PBE+U(Fe 5.3)/PW500/Gamma"
RULE = {
    "element": "Fe",
    "states": [
        {"oxidation": 2, "surrogate": "Fe", "new_species": "Fe", "magmom": {REFERENCE: [3.5, 3.85]}},
        {"oxidation": 3, "surrogate": "Ga", "new_species": "Ac", "magmom": {REFERENCE: [4.1, 4.5]}},
    ],
    "formal_charges": {"Na": 1, "P": 5, "O": -2, "Si": 4, "S": 6},
}
