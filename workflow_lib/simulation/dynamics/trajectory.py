"""Trajectories on disk: compressed chunks of frames and one checkpoint, safe under kill -9.

A folder holds ``run.json`` (what run it is), ``start.extxyz``, ``chunk-000000.npz``, ... and
``checkpoint.safetensors``. Every file is written completely or not at all, chunks before the checkpoint
that counts them: whatever moment a process dies, the checkpoint and the chunks it counts are whole, and
chunks beyond them are written again with the same content.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, write_json

if TYPE_CHECKING:
    import torch
    from ase import Atoms

HEADER, CHECKPOINT, START = "run.json", "checkpoint.safetensors", "start.extxyz"
SCHEMA = 1


class Writer:
    """Appends chunks to the trajectory of one run and finds where an earlier process stopped."""

    def __init__(self, folder: str | Path, identity: Mapping[str, str], header: Mapping[str, Any]) -> None:
        """Open or make the folder.

        ``identity`` names what decides the numbers (model, structure, settings, ...) with a hash each.
        Raises UserError naming what differs if the folder holds the trajectory of another run.
        """
        self.folder = Path(folder)
        path = self.folder / HEADER
        if path.is_file():
            known = _header(path)["identity"]
            other = [name for name in identity if known.get(name) != identity[name]]
            if other:
                raise UserError(
                    f"{self.folder} holds the trajectory of another run (another {', '.join(other)}); move "
                    "it away, or give another folder"
                )
        else:
            write_json(path, {"schema": SCHEMA, "identity": dict(identity), **header})

    def resume(self) -> tuple[dict[str, torch.Tensor], dict[str, int]] | None:
        """Return tensors and counts of the last checkpoint; None if there is none."""
        from safetensors import SafetensorError, safe_open

        path = self.folder / CHECKPOINT
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            counts = {name: int(value) for name, value in metadata.items()}
        except (SafetensorError, ValueError, TypeError, AttributeError, OSError) as error:
            raise UserError(
                f"{path} is damaged ({error}); delete {self.folder}, the run begins again"
            ) from error
        for number in range(counts["chunks"]):
            if not chunk_path(self.folder, number).is_file():
                raise UserError(
                    f"{chunk_path(self.folder, number)} is missing, which {CHECKPOINT} counts; copy it "
                    f"back, or delete {self.folder} to begin again"
                )
        return tensors, counts

    def write(
        self, frames: Sequence[Mapping[str, np.ndarray]], tensors: dict[str, torch.Tensor], **counts: int
    ) -> None:
        """Append the frames as chunk ``counts["chunks"] - 1``, then write the checkpoint."""
        from safetensors.torch import save_file

        content = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
        with atomic_path(chunk_path(self.folder, counts["chunks"] - 1)) as temporary:
            np.savez_compressed(temporary, **content)  # type: ignore[arg-type]
        with atomic_path(self.folder / CHECKPOINT) as temporary:
            save_file(tensors, temporary, metadata={name: str(value) for name, value in counts.items()})


def chunk_path(folder: Path, number: int) -> Path:
    """Return the path of a chunk."""
    return folder / f"chunk-{number:06d}.npz"


def _header(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or "identity" not in content:
        raise UserError(f"{path} is no header of a trajectory that this program writes; make it again")
    return content


class Trajectory:
    """The trajectory in a folder, as far as its checkpoint counts it.

    Positions are unwrapped: an atom that leaves the cell goes on. Frame 0 is the start.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / HEADER).is_file():
            raise UserError(f"{folder} holds no trajectory ({HEADER} is missing)")
        self.header = _header(self.folder / HEADER)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Steps, chunks, and exchanges tried and accepted."""
        from safetensors import safe_open

        path = self.folder / CHECKPOINT
        if not path.is_file():
            raise UserError(f"{self.folder} holds no frames yet; run the dynamics first")
        with safe_open(path, framework="np") as file:
            return {name: int(value) for name, value in file.metadata().items()}

    @property
    def names(self) -> list[str]:
        """Names of the recorded quantities."""
        with np.load(chunk_path(self.folder, 0), allow_pickle=False) as content:
            return list(content.files)

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """Yield one quantity chunk by chunk, so that long trajectories need little memory."""
        for number in range(self.counts["chunks"]):
            path = chunk_path(self.folder, number)
            try:
                with np.load(path, allow_pickle=False) as content:
                    yield content[name]
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                raise UserError(f"{path} is damaged ({error}); make the trajectory again") from error

    def read(self, name: str) -> np.ndarray:
        """Return one quantity of all frames, frames first; KeyError if it was not recorded."""
        if name not in self.names:
            raise KeyError(name)
        return np.concatenate(list(self.chunks(name)))

    @cached_property
    def steps(self) -> np.ndarray:
        """Steps of the frames [n_frames]."""
        return self.read("step")

    @property
    def times_ps(self) -> np.ndarray:
        """Times of the frames [n_frames], ps."""
        return self.steps * float(self.header["time_step_fs"]) / 1000

    @cached_property
    def starts(self) -> list[Atoms]:
        """The structures at the start, one a system, with the cells of the start."""
        from ase.io import read

        found = read(self.folder / START, index=":", format="extxyz")
        return found if isinstance(found, list) else [found]

    def atoms_of(self, system: int) -> slice:
        """Return the rows of a system in the quantities that there is one of for each atom."""
        ends = np.cumsum([len(item) for item in self.starts])
        return slice(int(ends[system] - len(self.starts[system])), int(ends[system]))

    def positions(self, system: int = 0) -> np.ndarray:
        """Return the unwrapped positions of a system [n_frames, n_atoms, 3], A."""
        rows = self.atoms_of(system)
        return np.concatenate([part[:, rows] for part in self.chunks("positions")])

    def cells(self, system: int = 0) -> np.ndarray:
        """Return the cells of a system [n_frames, 3, 3], A, rows are vectors."""
        if "cell" in self.names:
            return np.concatenate([part[:, system] for part in self.chunks("cell")])
        return np.repeat(np.array(self.starts[system].cell)[None], len(self.steps), axis=0)

    def per_atom(self, name: str, system: int = 0) -> np.ndarray | None:
        """Return ``magmoms`` (muB) or ``oxidation_states`` [n_frames, n_atoms]; None if not recorded."""
        if name not in self.names:
            return None
        rows = self.atoms_of(system)
        return np.concatenate([part[:, rows] for part in self.chunks(name)])
