"""The embedding stage: what the models' node embeddings contain about the charge states."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workflow_lib.cli.common import folder, folders, model_option, stage

if TYPE_CHECKING:
    from workflow_lib.config import Config


@stage(model_option, folder("--dataset"), folder("--reference"), folder("--work"))
def embedding(config: Config, model: str, dataset: Path, reference: Path, work: Path, out: Path) -> None:
    """Separate charge states in a model's embeddings."""
    from workflow_lib.core.threads import use_threads

    use_threads(config.threads)
    from workflow_lib.lattice.host import Host
    from workflow_lib.results_models import load_potential
    from workflow_lib.results_reading import checked, read_table, stress_converged
    from workflow_lib.stages.embedding.run import run_embedding

    states = read_table("charge_order/reference", reference)
    run_embedding(
        model=load_potential(model, config.outside, config.device),
        frames_path=checked(dataset / "frames.parquet", "dataset"),
        splits_path=checked(dataset / "splits.json", "dataset"),
        reference_dir=reference,
        host=Host.load(config.host, config.redox),
        settings=config.embedding,
        polaron_distortion=config.charge_order.polaron_distortion,
        stop=config.charge_order.stop(stress_converged=stress_converged(states)),
        subset=config.dataset,
        seed=config.seed,
        work=work,
        out=out,
    )


@stage(folders("--embeddings"))
def embedding_overview(config: Config, embeddings: list[Path], out: Path) -> None:
    """Compare the embeddings of all models."""
    from workflow_lib.stages.embedding.figures import embedding_overview as run

    run(embeddings, out)
