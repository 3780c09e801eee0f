"""One trained model per name, variant, fold and seed; checkpoints live in work/, not in outputs."""

TRAINING = f"{RUN}/training"


def training_params(model):
    """Everything of the configuration that this one model depends on."""
    name = TRAINED[model].name
    named = CFG.model(name)
    return {
        "family": named.family,
        "init": named.init,
        "hyperparameters": CFG.hyperparameters(name).model_dump(mode="json"),
        "training": CFG.training_of(name).model_dump(mode="json"),
    }


rule train:
    input:
        frames=rules.dataset.output.frames,
        splits=rules.dataset.output.splits,
    output:
        checksums=f"{TRAINING}/{{model}}/train.sha256.json",
        card=f"{TRAINING}/{{model}}/card.json",
        tensors=f"{TRAINING}/{{model}}/model.safetensors",
        history=f"{TRAINING}/{{model}}/history.csv",
        metrics=f"{TRAINING}/{{model}}/metrics.csv",
        frames=f"{TRAINING}/{{model}}/frames.parquet",
        parity=f"{TRAINING}/{{model}}/parity.parquet",
        labels=f"{TRAINING}/{{model}}/labels.json",
        timings=f"{TRAINING}/{{model}}/timings.json",
        learning=report(
            f"{TRAINING}/{{model}}/learning.svg",
            caption="captions/learning.rst",
            category="2 Training",
            labels={"model": "{model}", "figure": "learning curve"},
        ),
        figure=report(
            f"{TRAINING}/{{model}}/parity.svg",
            caption="captions/parity.rst",
            category="2 Training",
            labels={"model": "{model}", "figure": "parity"},
        ),
    log:
        f"{RUN}/logs/train-{{model}}.log",
    benchmark:
        f"{RUN}/logs/train-{{model}}.benchmark.tsv"
    wildcard_constraints:
        model="|".join(MODELS) or "none",
    threads: CFG.threads
    resources:
        mem_mb=3500,
        gpu=gpus,
    params:
        model=lambda wildcards: training_params(wildcards.model),
        # Which frames a variant on the subset may learn: the files of the dataset are the same for any.
        chemistry=[CFG.dataset.subset_elements, CFG.dataset.required_elements],
        settings=settings_of("redox", "threads"),
        code=lambda wildcards: code_of("train", adapter_of(wildcards.model)),
        out=subpath(output.card, parent=True),
    message:
        "Training {wildcards.model}"
    shell:
        "python -m workflow_lib train --config {CONFIG} --model {wildcards.model}"
        " --dataset {DATASET} --work {WORK}/checkpoints --out {params.out} > {log} 2>&1"
