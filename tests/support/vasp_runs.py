"""A small run of VASP (Si with spin), and reading a folder of runs as the frames stage does."""

from __future__ import annotations

import gzip
from pathlib import Path

from workflow_lib.frames.frame import Frame
from workflow_lib.frames.reading.part import ReadSettings
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.table import read_parquet

FILES = Path(__file__).parents[1] / "dft/vasp_files"
XML = gzip.decompress((FILES / "si-spin/vasprun.xml.gz").read_bytes())
OUTCAR = gzip.decompress((FILES / "si-spin/OUTCAR.gz").read_bytes())
LEVEL = "VASP/PBE/PW240/8x8x8"


def read(folder: Path, level: str | None = None) -> tuple[list[Frame], dict]:
    summary = read_sources([str(folder)], folder / "out", ReadSettings(energy_reference=level))
    return read_parquet(folder / "out/frames.parquet"), summary
