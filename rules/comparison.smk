"""One table, models by metrics; timings are separate, so that two runs give identical tables."""

COMPARISON = f"{RUN}/comparison"


rule comparison:
    input:
        trainings=expand(rules.train.output, model=MODELS),
        charge_orders=expand(rules.charge_order.output.checksums, model=ASKED),
        ewald=names_of(rules.charge_order_ewald.output),
        searches=expand(rules.search.output.checksums, model=SEARCHED),
        thermodynamics=names_of(rules.thermodynamics.output.scores),
        embeddings=expand(rules.embedding.output.checksums, model=EMBEDDED),
    output:
        checksums=f"{COMPARISON}/comparison.sha256.json",
        table=report(
            f"{COMPARISON}/comparison.csv",
            caption="captions/comparison.rst",
            category="0 Comparison",
            labels={"model": "all", "figure": "table: comparison"},
        ),
        contrasts=report(
            f"{COMPARISON}/contrasts.csv",
            caption="captions/contrasts.rst",
            category="0 Comparison",
            labels={"model": "all", "figure": "table: what the label changes"},
        ),
        figure=report(
            f"{COMPARISON}/comparison.svg",
            caption="captions/comparison.rst",
            category="0 Comparison",
            labels={"model": "all", "figure": "comparison"},
        ),
        timings=report(
            f"{COMPARISON}/timings.csv",
            caption="captions/timings.rst",
            category="0 Comparison",
            labels={"model": "all", "figure": "table: timings"},
        ),
    log:
        f"{RUN}/logs/comparison.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        settings=settings_of("charge_order", "redox"),
        code=code_of("comparison"),
        trainings=[f"{TRAINING}/{m}" for m in MODELS],
        charge_orders=[f"{CHARGE_ORDER}/{m}" for m in [*ASKED, "ewald"]],
        searches=[f"{SEARCH}/{m}" for m in SEARCHED],
        embeddings=[f"{EMBEDDING}/{m}" for m in EMBEDDED],
    message:
        "Writing the comparison table"
    shell:
        "python -m workflow_lib comparison --config {CONFIG} --trainings {params.trainings}"
        " --charge-orders {params.charge_orders} --searches {params.searches} --thermodynamics {THERMODYNAMICS}"
        " --embeddings {params.embeddings} --out {COMPARISON}"
        " > {log} 2>&1"
