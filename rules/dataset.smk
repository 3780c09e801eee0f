"""Frames of one level of theory, charge states assigned, split by charge-ordered state."""

DATASET = f"{RUN}/dataset"


rule dataset:
    input:
        frames=CFG.frames,
        host=CFG.host,
    output:
        checksums=f"{DATASET}/dataset.sha256.json",
        frames=f"{DATASET}/frames.parquet",
        splits=f"{DATASET}/splits.json",
        set_aside=report(
            f"{DATASET}/set_aside.csv",
            caption="captions/set_aside.rst",
            category="1 Data",
            labels={"model": "all", "figure": "table: set aside"},
        ),
        summary=f"{DATASET}/summary.json",
        figures=report(
            expand(
                f"{DATASET}/{{name}}.svg",
                name=[
                    "composition",
                    "redox",
                    "energy",
                    "coverage",
                    "charge_states",
                    "elements",
                ],
            ),
            caption="captions/dataset.rst",
            category="1 Data",
        ),
    log:
        f"{RUN}/logs/dataset.log",
    benchmark:
        f"{RUN}/logs/dataset.benchmark.tsv"
    resources:
        mem_mb=2000,
    params:
        described=DESCRIBED,
        settings=settings_of("dataset", "redox", "seed"),
        code=code_of("dataset"),
    message:
        "Assigning charge states and making folds"
    shell:
        "python -m workflow_lib dataset --config {CONFIG} --out {DATASET} > {log} 2>&1"
