"""The results that the present configuration of a run names; a folder may hold those of earlier ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from workflow_lib.results import Run

LISTS = {
    **{"dynamics": "studies", "charge_inference": "studies", "ablation": "studies"},
    "phase_diagram": "systems",
}
"""Sections of the configuration whose results are there only with them, and what each lists by name."""

IDENTICAL = "charge_order/identical/"
"""Where the comparison on identical atoms is, which needs a table that the configuration names."""


class CurrentRun(Run):
    """A run without the models, studies and systems that its configuration no longer names.

    Models are those of the comparison table, which has all that the configuration asks for.
    """

    @cached_property
    def _models(self) -> frozenset[str]:
        return frozenset(self.table("comparison")["id"])

    @property
    def _identical_asked(self) -> bool:
        """Whether the run compares charge orders on identical atoms."""
        return bool(self.configuration.get("charge_order", {}).get("identical_atoms"))

    def _named(self, stage: str) -> frozenset[str]:
        """Return the names of a stage's studies or systems; none where it is not configured."""
        section = self.configuration.get(stage) or {}
        return frozenset(item["name"] for item in section.get(LISTS[stage], ()))

    def _paths(self, pattern: str) -> Iterator[Path]:
        stage = pattern.partition("/")[0]
        if pattern.startswith(IDENTICAL) and not self._identical_asked:
            return
        if stage == "sources" and not self.configuration.get("sources"):
            return
        if stage in LISTS:
            names = self._named(stage)
            if not names:
                return
        elif "{model}" in pattern:
            names = self._models
        for path in super()._paths(pattern):
            if "{model}" not in pattern or path.parent.name in names:
                yield path
