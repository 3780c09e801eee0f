"""Charge states that a shipped potential reads from moments after random removals of ions."""

CHARGE_INFERENCE = f"{RUN}/charge_inference"
MATERIALS = {study.name: study for study in CFG.charge_inference.studies}


rule charge_inference:
    input:
        lambda wildcards: potential_files(MATERIALS[wildcards.material]),
        crystal=lambda wildcards: crystal_files(MATERIALS[wildcards.material].crystal),
    output:
        checksums=f"{CHARGE_INFERENCE}/{{material}}/charge-inference.sha256.json",
        atoms=f"{CHARGE_INFERENCE}/{{material}}/atoms.csv",
        removals=report(
            f"{CHARGE_INFERENCE}/{{material}}/removals.csv",
            caption="captions/charge_inference.rst",
            category="7 Charge-informed studies",
            labels={"model": "{material}", "figure": "table: removals"},
        ),
        summary=f"{CHARGE_INFERENCE}/{{material}}/summary.json",
        figure=report(
            f"{CHARGE_INFERENCE}/{{material}}/charges.svg",
            caption="captions/charge_inference.rst",
            category="7 Charge-informed studies",
            labels={
                "model": "{material}",
                "figure": "charge states (Fig. 3 of the CHGNet paper)",
            },
        ),
    log:
        f"{RUN}/logs/charge_inference-{{material}}.log",
    benchmark:
        f"{RUN}/logs/charge_inference-{{material}}.benchmark.tsv"
    wildcard_constraints:
        material="|".join(MATERIALS),
    threads: CFG.threads
    resources:
        mem_mb=4000,
        gpu=GPU,
    params:
        study=lambda wildcards: MATERIALS[wildcards.material].model_dump(mode="json"),
        settings=settings_of("threads", "seed", "device"),
        code=code_of("charge-inference", *potential_code()),
        described=lambda wildcards: described_study(MATERIALS[wildcards.material]),
        out=subpath(output.atoms, parent=True),
    message:
        "Reading charge states of {wildcards.material}"
    shell:
        "python -m workflow_lib charge-inference --config {CONFIG} --study {wildcards.material}"
        " --work {WORK}/charge_inference/{wildcards.material} --out {params.out} > {log} 2>&1"
