"""The figure of one system's expansions; ``structures.csv`` holds the data."""

from __future__ import annotations

from pathlib import Path

from workflow_lib.core.io import save_figure
from workflow_lib.core.plotting import OKABE_ITO, style, x_label
from workflow_lib.lattice.host import Host
from workflow_lib.stages.phase_diagram.fit import Fitted, formation_of
from workflow_lib.stages.phase_diagram.settings import DECORATED


def draw_fit(fitted: Fitted, host: Host, label: str, stem: Path) -> None:
    """Draw formation energies of the structures and what fits that have not seen them say."""
    import matplotlib.pyplot as plt

    style()
    names = list(fitted.expansions)
    figure, axes = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.0), squeeze=False, sharey=True)
    for panel, name in zip(axes[0], names, strict=True):
        x, formation = formation_of(*fitted.data[name], host)
        fit = fitted.expansions[name].fit
        assert fit is not None
        held = fit.held_out * 1000 / host.formula_units
        panel.scatter(x, formation, s=16, facecolors="none", edgecolors="0.2", label="relaxed")
        panel.scatter(x, held, s=9, color=OKABE_ITO[0], marker="x", lw=0.8, label="expansion, held out")
        panel.set_title(f"{'with' if name == DECORATED else 'without'} charge states")
        panel.set_xlabel(x_label(host.mobile))
    axes[0][0].set_ylabel("formation energy\n(meV per formula unit)")
    axes[0][-1].legend()
    figure.suptitle(label)
    save_figure(figure, stem)
