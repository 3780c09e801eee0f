"""Checkpoints that survive being killed at any moment.

Each is one file, written under a temporary name, synced and renamed; its name contains its own
checksum, so that a damaged one is recognised and the one before it is used. The folder is named by
a hash of everything the numbers depend on, so that other data, settings or code never use an old
checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workflow_lib.core.code import NUMERICAL, code_checksum, packages_checksum
from workflow_lib.core.io import atomic_path, digest_of, write_json
from workflow_lib.frames.frame import Frame
from workflow_lib.models.registry import FAMILIES

_NAME = re.compile(r"epoch(\d{6})-batch(\d{6})-([0-9a-f]{16})\.pt")


def frames_checksum(frames: Iterable[Frame]) -> str:
    """Return a checksum of identifiers, structures and labels, in order."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(frame.frame_id.encode())
        for name in (
            *("numbers", "positions", "cell", "energy", "forces", "stress", "stress_converged"),
            *("magmoms", "charges", "oxidation_states"),
        ):
            value = getattr(frame, name)
            digest.update(b"-" if value is None else np.ascontiguousarray(value, dtype=float).tobytes())
    return digest.hexdigest()


def training_code(family: str) -> str:
    """Return a checksum of the trainer's code, of a family's adapter, and of the packages below them."""
    code = code_checksum("workflow_lib.stages.training.run", FAMILIES[family].module)
    return f"{code} {packages_checksum(*NUMERICAL)}"


class CheckpointStore:
    """The checkpoints of one training run; the two newest are kept."""

    def __init__(self, root: Path, identity: dict[str, Any]) -> None:
        self.hash = digest_of(identity)[:20]
        self.folder = Path(root) / self.hash
        if not (self.folder / "identity.json").exists():
            write_json(self.folder / "identity.json", identity)

    def _files(self) -> list[tuple[tuple[int, int], str, Path]]:
        """Return (epoch, batch), checksum and path of each checkpoint, the newest first."""
        found = []
        for path in self.folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match:
                found.append(((int(match[1]), int(match[2])), match[3], path))
        return sorted(found, reverse=True)

    def save(self, epoch: int, payload: dict[str, Any], batch: int = 0) -> Path:
        """Write the state after ``epoch`` epochs and ``batch`` batches; keep only this and the last one."""
        buffer = io.BytesIO()
        torch.save(payload, buffer)
        data = buffer.getvalue()
        checksum = hashlib.sha256(data).hexdigest()[:16]
        path = self.folder / f"epoch{epoch:06d}-batch{batch:06d}-{checksum}.pt"
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        self._sync_folder()
        for _, _, old in self._files()[2:]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """Return the newest intact checkpoint, or None; damaged ones are named and skipped."""
        for _, checksum, path in self._files():
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:16] == checksum:
                return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            print(
                f"checkpoint {path} is damaged (checksum differs): resuming from the one before it",
                file=sys.stderr,
            )
        return None

    def _sync_folder(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
