"""What the node embeddings that feed the energy contain about the charge states."""

EMBEDDING = f"{RUN}/embedding"


rule embedding:
    input:
        model=model_files,
        frames=rules.dataset.output.frames,
        splits=rules.dataset.output.splits,
        reference=rules.charge_order_reference.output,
        host=CFG.host,
    output:
        checksums=f"{EMBEDDING}/{{model}}/embedding.sha256.json",
        points=f"{EMBEDDING}/{{model}}/points.parquet",
        scores=f"{EMBEDDING}/{{model}}/scores.json",
        figure=report(
            f"{EMBEDDING}/{{model}}/pca.svg",
            caption="captions/embedding.rst",
            category="6 Embeddings",
            labels={"model": "{model}", "figure": "principal components"},
        ),
    log:
        f"{RUN}/logs/embedding-{{model}}.log",
    benchmark:
        f"{RUN}/logs/embedding-{{model}}.benchmark.tsv"
    threads: CFG.threads
    resources:
        mem_mb=3500,
        gpu=GPU,
    params:
        described=DESCRIBED,
        settings=settings_of(
            "embedding", "charge_order", "redox", "threads", "seed", "device"
        ),
        # Whose atoms are compared: the files of the dataset are the same for any.
        chemistry=[CFG.dataset.subset_elements, CFG.dataset.required_elements],
        code=lambda wildcards: code_of("embedding", adapter_of(wildcards.model)),
        model=model_of,
        outside=outside_of,
        out=subpath(output.points, parent=True),
    message:
        "Reading the embeddings of {wildcards.model}"
    shell:
        "python -m workflow_lib embedding --config {CONFIG} --model {params.model}"
        " --dataset {DATASET} --reference {CHARGE_ORDER} --work {WORK}/embedding --out {params.out}"
        " > {log} 2>&1"


rule embedding_overview:
    input:
        embeddings=expand(rules.embedding.output, model=EMBEDDED),
    output:
        checksums=f"{EMBEDDING}/embedding-overview.sha256.json",
        table=report(
            f"{EMBEDDING}/overview.csv",
            caption="captions/embedding_overview.rst",
            category="6 Embeddings",
            labels={"model": "all", "figure": "table: overview"},
        ),
        figure=report(
            f"{EMBEDDING}/overview.svg",
            caption="captions/embedding_overview.rst",
            category="6 Embeddings",
            labels={
                "model": "all",
                "figure": "principal components (Fig. 2 of the abstract)",
            },
        ),
    log:
        f"{RUN}/logs/embedding_overview.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        code=code_of("embedding-overview"),
        embeddings=[f"{EMBEDDING}/{m}" for m in EMBEDDED],
    message:
        "Drawing the embeddings of all models"
    shell:
        "python -m workflow_lib embedding-overview --config {CONFIG}"
        " --embeddings {params.embeddings} --out {EMBEDDING} > {log} 2>&1"
