"""Public data, fetched once for all runs and read into one frame table."""

from workflow_lib.stages.sources.fetch import used_in_place
from workflow_lib.stages.sources.table import find_source

SOURCES = f"{RUN}/sources"


def local_files(wildcards):
    """Return the files of a local source: if one changes, appears or goes, the source is fetched again."""
    try:
        name, source = find_source(wildcards.source, CFG.sources.table)
        only = CFG.sources.wanted(name)
        return [
            str(path) for path in used_in_place(name, source, CFG.sources.folder, only)
        ]
    except UserError as error:
        raise WorkflowError(str(error))


# The output is the record of all files with their checksums, so that its content says what changed. Another run
# may fetch other files of the same source, so the record in the shared folder may not be this run's.
rule fetch:
    input:
        local_files,
    output:
        f"{SOURCES}/{{source}}.fetched",
    log:
        f"{RUN}/logs/fetch_{{source}}.log",
    resources:
        mem_mb=memory(1000),
    params:
        table=CFG.sources.table,
        source=lambda wildcards: find_source(wildcards.source, CFG.sources.table)[
            1
        ].model_dump(mode="json"),
        folder=CFG.sources.folder,
        only=lambda wildcards: [
            f"--only={pattern}" for pattern in CFG.sources.wanted(wildcards.source)
        ],
        code=code_of("fetch"),
    message:
        "Fetching {wildcards.source}"
    shell:
        "python -m workflow_lib fetch --source {wildcards.source} --sources {params.table:q}"
        " --out {params.folder:q} {params.only:q} --record {output:q} > {log} 2>&1"


# Compute nodes have no network, so the fetch runs where Snakemake does.
localrules:
    fetch,


rule sources:
    input:
        expand(f"{SOURCES}/{{source}}.fetched", source=CFG.sources.items),
    output:
        checksums=f"{SOURCES}/sources.sha256.json",
        frames=f"{SOURCES}/frames.parquet",
        summary=f"{SOURCES}/summary.json",
        duplicates=f"{SOURCES}/duplicates.csv",
        set_aside=report(
            f"{SOURCES}/set_aside.csv",
            caption="captions/damaged.rst",
            category="1 Data",
            labels={"model": "all", "figure": "table: set aside"},
        ),
        citations=report(
            f"{SOURCES}/citations.csv",
            caption="captions/citations.rst",
            category="1 Data",
            labels={"model": "all", "figure": "table: citations"},
        ),
    log:
        f"{RUN}/logs/sources.log",
    benchmark:
        f"{RUN}/logs/sources.benchmark.tsv"
    threads: 8
    resources:
        mem_mb=4000,
    params:
        settings=settings_of("sources", "redox"),
        level=CFG.dataset.energy_reference,
        code=code_of("sources"),
    message:
        "Reading the fetched files into one frame table"
    shell:
        "python -m workflow_lib sources --config {CONFIG} --out {SOURCES} --fetched {input:q}"
        " --jobs {threads} > {log} 2>&1"
