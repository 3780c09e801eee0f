"""What made each result: collected from the records of all jobs, when all results are there."""

RESULTS = []
if COMPARES:
    RESULTS += [
        rules.comparison.output,
        rules.checks.output,
        rules.dataset.output,
        rules.charge_order_overview.output,
        rules.charge_order_identical.output if CFG.charge_order.identical_atoms else [],
        rules.search_overview.output,
        rules.dft.output,
        rules.thermodynamics.output,
        rules.embedding_overview.output,
        rules.phase_diagram.output if CFG.phase_diagram else [],
        rules.ablation.output if CFG.ablation else [],
    ]
if CFG.charge_inference:
    RESULTS += expand(rules.charge_inference.output, material=MATERIALS)
if CFG.dynamics:
    RESULTS += [output_of_study(name) for name in DYNAMIC_STUDIES]


rule provenance:
    input:
        results=RESULTS,
        named=[CFG.host, CFG.frames] if COMPARES else [],
    output:
        provenance=f"{RUN}/provenance.json",
    log:
        f"{RUN}/logs/provenance.log",
    resources:
        mem_mb=memory(500),
    params:
        configuration=CFG.model_dump(mode="json"),
        code=code_of("provenance"),
    message:
        "Writing the provenance"
    shell:
        "python -m workflow_lib provenance --config {CONFIG} --results {input.results:q}"
        " --out {output.provenance} > {log} 2>&1"


# A second's work: not worth a place in a queue.
localrules:
    provenance,
