"""Pairs of models that differ in one thing, their errors on the same held-out numbers."""

ABLATION = f"{RUN}/ablation"
ABLATED = {
    name for study in CFG.ablation.studies for name in (study.without, study.changed)
}
ABLATED_MODELS = [name for name in MODELS if TRAINED[name].name in ABLATED]


rule ablation:
    input:
        expand(rules.train.output, model=ABLATED_MODELS),
    output:
        checksums=f"{ABLATION}/ablation.sha256.json",
        table=report(
            f"{ABLATION}/ablation.csv",
            caption="captions/ablation.rst",
            category="7 Charge-informed studies",
            labels={"model": "all", "figure": "table: errors without and with"},
        ),
        figure=report(
            f"{ABLATION}/ablation.svg",
            caption="captions/ablation.rst",
            category="7 Charge-informed studies",
            labels={
                "model": "all",
                "figure": "errors without and with (CHGNet, Table I)",
            },
        ),
    log:
        f"{RUN}/logs/ablation.log",
    resources:
        mem_mb=memory(1500),
    params:
        described={
            "differs": caption_text(
                " ".join(study.differs for study in CFG.ablation.studies)
            )
        },
        settings=settings_of("ablation"),
        code=code_of("ablation"),
        trainings=[f"{TRAINING}/{m}" for m in ABLATED_MODELS],
    message:
        "Comparing models that differ in one thing"
    shell:
        "python -m workflow_lib ablation --config {CONFIG} --trainings {params.trainings} --out {ABLATION}"
        " > {log} 2>&1"
