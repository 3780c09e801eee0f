"""Charge states in machine-learned potentials of NaxFePO4: from DFT frames to hull and voltage.

Validates the configuration, then lists the targets; the stages are in rules/.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import snakemake.logging
from snakemake.exceptions import WorkflowError

from workflow_lib.config import FAMILIES, validate_config
from workflow_lib.core.errors import UserError
from workflow_lib.workflow.failed_log import last_lines
from workflow_lib.core.io import atomic_path
from workflow_lib.workflow.folder_owner import require_own
from workflow_lib.workflow.run_owner import own_run
from workflow_lib.workflow.slurm_outage import keep_jobs

# Jobs run the Python that runs Snakemake, also where its environment is not activated.
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]
)

# Snakemake's own repeats a failed job's log whole, however long it is.
snakemake.logging.show_logs = last_lines

if not workflow.configfiles:

    configfile: "config/config.yaml"


try:
    CFG = validate_config(
        config, ", ".join(map(str, workflow.configfiles)) or "configuration"
    )
except UserError as error:
    raise WorkflowError(str(error))

RUN = f"results/{CFG.run}"
WORK = f"{RUN}/work"
CONFIG = f"{RUN}/config.json"
REFERENCE = f"{RUN}/exam/reference.csv"
TRAINED = {str(m): m for m in CFG.trained()}
MODELS = list(TRAINED)
SEARCHED = [str(m) for m in CFG.trained(controls=False)]


def code_of(*parts):
    """Checksum of library code: a rule whose code changed runs again, a touched file does not."""
    digest = hashlib.sha256()
    for part in sorted(parts):
        path = Path(workflow.basedir) / "workflow_lib" / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def settings_of(*sections):
    """The sections a rule depends on, so that only rules which read a changed key run again."""
    return {s: json.loads(CFG.model_dump_json(include={s}))[s] for s in sections}


def names_of(outputs):
    """Outputs of another rule by name alone, for rules that collect from all models.

    Where one input of a rule is another rule's output itself, Snakemake hashes every list of inputs
    once for each file in it: planning 10,000 jobs took three times as long.
    """
    return expand(outputs)


def gpus(wildcards):
    """GPUs of a job that trains a model: a request follows from the configuration alone.

    Never more than one: SLURM would start a job of two GPUs once per GPU.
    """
    return int(CFG.training_of(TRAINED[wildcards.model].name).device == "cuda")


# Snakemake calls this in the main process alone (jobs get --no-hooks), before it starts any job.
onstart:
    try:
        require_own(RUN)
        # A SLURM executor names its jobs by this ID; the others have none.
        own_run(Path(RUN), getattr(workflow.scheduler._executor, "run_uuid", None))
        keep_jobs(workflow.scheduler._executor)
        # The verbs read the resolved configuration from a file. It is no rule's output: a rule that
        # ran whenever any key changed would keep Snakemake from seeing whose keys did.
        with atomic_path(CONFIG) as temporary:
            temporary.write_text(CFG.model_dump_json(indent=2) + "\n")
    except (UserError, OSError) as error:
        raise WorkflowError(str(error))


wildcard_constraints:
    model="|".join(map(str, MODELS)) or "none",
    source="|".join(CFG.sources.items) if CFG.sources else "none",


if CFG.sources:

    include: "rules/sources.smk"


include: "rules/dataset.smk"
include: "rules/training.smk"
include: "rules/exam.smk"
include: "rules/sampling.smk"
include: "rules/dft.smk"
include: "rules/thermodynamics.smk"
include: "rules/embedding.smk"
include: "rules/benchmark.smk"


rule all:
    default_target: True
    input:
        rules.benchmark.output,
        rules.dataset.output,
        rules.exam_overview.output,
        rules.exam_identical.output if CFG.exam.identical_atoms else [],
        rules.sampling_overview.output,
        rules.dft.output,
        rules.thermodynamics.output,
        rules.embedding_overview.output,


report: "rules/captions/workflow.rst"
