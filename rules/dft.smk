"""DFT energies of the arrangements that searches ask for: from the store, an engine, or pending."""

DFT = f"{RUN}/dft"


def store_content(wildcards):
    """Checksum of names and sizes in the store: an answer computed elsewhere counts at once."""
    logs = sorted(Path(CFG.dft.store).glob("*.jsonl"))
    listing = "".join(f"{log.name} {log.stat().st_size};" for log in logs)
    return hashlib.sha256(listing.encode()).hexdigest()[:16]


def answers_asked(wildcards):
    """One job a calculation where an engine is configured; the store answers those it has."""
    if CFG.dft.engine == "none":
        return []
    jobs = Path(checkpoints.dft_plan.get().output.jobs)
    return [
        f"{DFT}/done/{job.stem}.sha256.json" for job in sorted(jobs.glob("*.jsonl"))
    ]


checkpoint dft_plan:
    input:
        pending=rules.search_overview.output.pending,
        host=CFG.host,
    output:
        jobs=directory(f"{DFT}/jobs"),
    log:
        f"{RUN}/logs/dft_plan.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        settings=settings_of("dft", "redox"),
        code=code_of("dft-plan"),
    message:
        "Turning pending arrangements into calculations"
    shell:
        "python -m workflow_lib dft-plan --config {CONFIG} --pending {input.pending}"
        " --each {output.jobs} > {log} 2>&1"


rule dft_compute:
    input:
        job=f"{DFT}/jobs/{{digest}}.jsonl",
    output:
        # It names the answer in the store: if that is removed or changes, the job runs again.
        done=f"{DFT}/done/{{digest}}.sha256.json",
    log:
        f"{RUN}/logs/dft-{{digest}}.log",
    benchmark:
        f"{RUN}/logs/dft-{{digest}}.benchmark.tsv"
    wildcard_constraints:
        # It comes from file names in a folder, and becomes part of a command.
        digest="[0-9a-f]+",
    resources:
        mem_mb=4000,
    params:
        settings=settings_of("dft", "redox"),
        code=code_of("dft-run"),
    message:
        "Computing {wildcards.digest} with DFT"
    shell:
        "python -m workflow_lib dft-run --config {CONFIG} --jobs {input.job}"
        " --out {output.done} > {log} 2>&1"


rule dft:
    input:
        pending=rules.search_overview.output.pending,
        host=CFG.host,
        done=answers_asked,
    output:
        checksums=f"{DFT}/dft-energies.sha256.json",
        energies=report(
            f"{DFT}/energies.csv",
            caption="captions/dft.rst",
            category="4 Search",
            labels={"model": "all", "figure": "table: energies"},
        ),
    log:
        f"{RUN}/logs/dft.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        settings=settings_of("dft", "redox"),
        code=code_of("dft-energies"),
        store=store_content,
        place=caption_text(CFG.dft.store),
    message:
        "Collecting the DFT energies of the arrangements found"
    shell:
        "python -m workflow_lib dft-energies --config {CONFIG} --pending {input.pending}"
        " --out {DFT} > {log} 2>&1"
