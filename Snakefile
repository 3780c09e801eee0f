"""Charge states in machine-learned potentials of NaxFePO4: from DFT frames to hull and voltage.

Validates the configuration, then lists the targets; the stages are in rules/.
"""

import hashlib
import os
import sys
from pathlib import Path

import snakemake.logging
from snakemake.exceptions import WorkflowError

from workflow_lib.config import FAMILIES, Config
from workflow_lib.config_files import load_studies
from workflow_lib.config_runnable import require_runnable
from workflow_lib.core.errors import UserError
from workflow_lib.models.outside_settings import SHIPPED, is_calculator, module_files
from workflow_lib.results_models import named_models
from workflow_lib.workflow.code import code_of
from workflow_lib.workflow.failed_log import last_lines
from workflow_lib.core.io import atomic_path, read_json
from workflow_lib.workflow.folder_owner import require_own
from workflow_lib.workflow.persistence import records_decide
from workflow_lib.workflow.report_text import caption_text, script_safe_reports
from workflow_lib.workflow.run_folder import clear_run, old_folders
from workflow_lib.workflow.run_owner import own_run
from workflow_lib.workflow.slurm_outage import keep_jobs

# Jobs run the Python that runs Snakemake, even if its environment is not activated.
os.environ["PATH"] = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]
)

# Snakemake's own function repeats the whole log of a failed job, however long it is.
snakemake.logging.show_logs = last_lines

if not workflow.configfiles:

    configfile: "config/config.yaml"


# The files are read again by strict rules. Snakemake's own reading of them (`no` is false, `010` is
# eight, the last of two equal keys counts) is not used anywhere below.
try:
    CFG = load_studies(*workflow.configfiles, overrides=workflow.config_settings.config)
    require_runnable(CFG)
except UserError as error:
    raise WorkflowError(str(error))

# What has to run again is decided by records in the run folder, which go where the results go.
records_decide(CFG.folder)

RUN = str(CFG.folder)
WORK = f"{RUN}/work"
CONFIG = f"{RUN}/config.json"
REFERENCE = f"{RUN}/charge_order/reference.csv"
# A run with studies of shipped potentials alone trains nothing.
COMPARES = isinstance(CFG, Config)
TRAINED = {str(m): m for m in CFG.trained()} if COMPARES else {}
MODELS = list(TRAINED)
OUTSIDE = {str(m.identity): m for m in CFG.outside} if COMPARES else {}
ASKED = [*MODELS, *OUTSIDE]
WRITTEN = CFG.model_dump(mode="json")
SEARCHED = named_models(WRITTEN, "search")
EMBEDDED = named_models(WRITTEN, "embedding")


def adapter_of(model):
    """Return the module that runs a model's network; it is loaded by name, which no import shows."""
    if model in OUTSIDE:
        return "workflow_lib.models.outside"
    return FAMILIES[CFG.model(TRAINED[model].name).family].module


def model_of(wildcards):
    """Return what the commands call a model: its folder, or the id of one that is not trained here."""
    name = wildcards.model
    return f"{TRAINING}/{name}" if name in TRAINED else name


def model_files(wildcards):
    """Return the files of a trained model; of another, those that decide what it answers."""
    name = wildcards.model
    if name not in TRAINED:
        return OUTSIDE[name].files if name in OUTSIDE else []
    return expand([rules.train.output.card, rules.train.output.tensors], model=name)


def outside_of(wildcards):
    """Return the settings of a model that is not trained here, on which its results depend."""
    chosen = OUTSIDE.get(wildcards.model)
    return chosen and chosen.model_dump(mode="json")


def potential_code():
    """Return the modules that run the potential of a study; they are loaded by name, which no import shows."""
    return sorted({family.module for family in FAMILIES.values()})


def own_model(potential):
    """Return the id of the model of this run that a potential is, by its id or, however spelled, its folder."""
    folder = Path(potential).resolve()
    for name in TRAINED:
        if potential == name or Path(f"{TRAINING}/{name}").resolve() == folder:
            return name
    return None


def potential_files(study):
    """Return the files of a study's potential: of a trained model, or the user's module of a calculator.

    A model of this run is trained first: its files are named as the rule promises them.
    """
    potential = study.potential
    if potential in SHIPPED:
        return []
    if model := own_model(potential):
        return expand(
            [rules.train.output.card, rules.train.output.tensors], model=model
        )
    if is_calculator(potential):
        return module_files(potential)
    return [str(Path(potential) / name) for name in ("card.json", "model.safetensors")]


def crystal_files(crystal):
    """Return the file that a study's crystal is read from; none for one that is built from its sites."""
    return [] if crystal.file is None else [crystal.file]


def settings_of(*sections):
    """Return the sections a rule depends on, so that only rules which read a changed key run again."""
    return CFG.model_dump(mode="json", include=set(sections))


def described():
    """Return the names for captions: host, redox couple and level of this run, never those of the demo."""
    try:
        host = read_json(CFG.host)
        names = {"host": host["name"], "mobile": host["mobile"]}
    except (UserError, KeyError, TypeError) as error:
        raise WorkflowError(f"{CFG.host} is no host description: {error}")
    low, high = (f"{CFG.redox.element}{s.oxidation}+" for s in CFG.redox.states)
    names |= {"element": CFG.redox.element, "low": low, "high": high}
    names |= {"level": CFG.dataset.energy_reference}
    return {key: caption_text(value) for key, value in names.items()}


def described_study(study):
    """Return the texts of a study that captions show."""
    texts = {"name": study.name, "potential": study.potential, "differs": study.differs}
    return {key: caption_text(value) for key, value in texts.items()}


def names_of(outputs):
    """Return the outputs of another rule as plain names, for rules that collect from all models.

    If an input of a rule is another rule's output object, Snakemake hashes every list of inputs once
    for each file in it: planning 10,000 jobs took three times as long.
    """
    return expand(outputs)


def memory(megabytes):
    """Return the memory of a job for which a cluster's profile names none: more at each attempt."""
    return lambda wildcards, attempt: megabytes * attempt


def gpus(wildcards):
    """Return the number of GPUs of a job that trains a model, from the configuration alone.

    Never more than one: SLURM would start a job of two GPUs once per GPU.
    """
    return int(CFG.training_of(TRAINED[wildcards.model].name).device == "cuda")


# The only texts that captions may name: nothing in them is taken for markup.
DESCRIBED = described() if COMPARES else {}
config["described"] = DESCRIBED | {"run": CFG.run}
script_safe_reports()
GPU = int(
    CFG.device == "cuda"
)  # of a job that evaluates models; never more than one, as above


# Snakemake calls this only in the main process (jobs get --no-hooks), before it starts any job.
onstart:
    try:
        require_own(RUN)
        for line in old_folders(CFG.folder):
            print(line, file=sys.stderr)
        # A SLURM executor names its jobs by this ID; the others have none.
        own_run(Path(RUN), getattr(workflow.scheduler._executor, "run_uuid", None))
        clear_run(Path(RUN))
        keep_jobs(workflow.scheduler._executor)
        # The commands read the resolved configuration from a file. It is not the output of a rule: such
        # a rule would run whenever any key changed, and Snakemake could not see which rules' keys did.
        with atomic_path(CONFIG) as temporary:
            temporary.write_text(CFG.model_dump_json(indent=2) + "\n")
    except (UserError, OSError) as error:
        raise WorkflowError(str(error))


wildcard_constraints:
    model="|".join(ASKED) or "none",
    source="|".join(CFG.sources.items) if COMPARES and CFG.sources else "none",


if COMPARES and CFG.sources:

    include: "rules/sources.smk"


if COMPARES:

    include: "rules/dataset.smk"
    include: "rules/training.smk"
    include: "rules/charge_order.smk"
    include: "rules/search.smk"
    include: "rules/dft.smk"
    include: "rules/thermodynamics.smk"
    include: "rules/embedding.smk"
    include: "rules/comparison.smk"
    include: "rules/checks.smk"

    if CFG.phase_diagram:

        include: "rules/phase_diagram.smk"

    if CFG.ablation:

        include: "rules/ablation.smk"


if CFG.charge_inference:

    include: "rules/charge_inference.smk"


if CFG.dynamics:

    include: "rules/dynamics.smk"


include: "rules/provenance.smk"


if COMPARES:

    include: "rules/report.smk"


rule all:
    default_target: True
    input:
        rules.provenance.input,
        rules.provenance.output,
        rules.report.output if COMPARES else [],


report: f"rules/captions/{'workflow' if COMPARES else 'studies'}.rst"
