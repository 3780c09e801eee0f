"""The page of the run: its answer first, then everything behind it, in one file."""

REPORT = f"{RUN}/report"


rule report:
    input:
        checks=names_of(rules.checks.output),
        comparison=names_of(rules.comparison.output),
        dataset=names_of(rules.dataset.output),
        charge_order=names_of(rules.charge_order_overview.output),
        states=expand(rules.charge_order.output.states, model=ASKED),
        identical=(
            names_of(rules.charge_order_identical.output)
            if CFG.charge_order.identical_atoms
            else []
        ),
        search=names_of(rules.search_overview.output),
        found=expand(rules.search.output.found, model=SEARCHED),
        thermodynamics=names_of(rules.thermodynamics.output),
        embedding=names_of(rules.embedding_overview.output),
        embeddings=expand(rules.embedding.output.scores, model=EMBEDDED),
        phase_diagram=(
            names_of(rules.phase_diagram.output) if CFG.phase_diagram else []
        ),
        provenance=names_of(rules.provenance.output),
        beside=CFG.report.beside or [],
        # Only a checkout has it.
        citations=[name for name in ["CITATION.cff"] if Path(name).is_file()],
    output:
        checksums=f"{REPORT}/report.sha256.json",
        page=f"{REPORT}/index.html",
        answer=f"{REPORT}/answer.json",
    log:
        f"{RUN}/logs/report.log",
    resources:
        mem_mb=memory(3000),
    params:
        settings=settings_of("report"),
        code=code_of("report"),
    message:
        "Writing the page of the run: {output.page}"
    shell:
        "python -m workflow_lib report {RUN} --out {REPORT} > {log} 2>&1"
