"""One search per model: genetic algorithm against random search at equal budget."""

SEARCH = f"{RUN}/search"


rule search:
    input:
        model=model_files,
        # Starts after the charge-order stage, so that relaxations in the shared cache are done only once.
        charge_order=rules.charge_order.output.scores,
        reference=rules.charge_order_reference.output,
        host=CFG.host,
    output:
        checksums=f"{SEARCH}/{{model}}/search.sha256.json",
        found=f"{SEARCH}/{{model}}/found.csv",
        history=f"{SEARCH}/{{model}}/history.csv",
        structures=f"{SEARCH}/{{model}}/found.extxyz",
        summary=f"{SEARCH}/{{model}}/summary.json",
        figure=report(
            f"{SEARCH}/{{model}}/progress.svg",
            caption="captions/search.rst",
            category="4 Search",
            labels={"model": "{model}", "figure": "search progress"},
        ),
    log:
        f"{RUN}/logs/search-{{model}}.log",
    benchmark:
        f"{RUN}/logs/search-{{model}}.benchmark.tsv"
    threads: CFG.threads
    resources:
        mem_mb=3500,
        gpu=GPU,
    params:
        described=DESCRIBED,
        settings=settings_of(
            "search", "charge_order", "redox", "threads", "seed", "device"
        ),
        code=lambda wildcards: code_of("search", adapter_of(wildcards.model)),
        model=model_of,
        outside=outside_of,
        out=subpath(output.found, parent=True),
    message:
        "Searching ground states with {wildcards.model}"
    shell:
        "python -m workflow_lib search --config {CONFIG} --model {params.model}"
        " --reference {CHARGE_ORDER} --work {WORK} --out {params.out} > {log} 2>&1"


rule search_overview:
    input:
        searches=expand(rules.search.output.checksums, model=SEARCHED),
        reference=names_of(rules.charge_order_reference.output.known),
        host=CFG.host,
    output:
        checksums=f"{SEARCH}/search-overview.sha256.json",
        table=report(
            f"{SEARCH}/overview.csv",
            caption="captions/search_overview.rst",
            category="4 Search",
            labels={"model": "all", "figure": "table: overview"},
        ),
        pending=report(
            f"{SEARCH}/pending.csv",
            caption="captions/pending.rst",
            category="4 Search",
            labels={"model": "all", "figure": "table: pending"},
        ),
        figure=report(
            f"{SEARCH}/overview.svg",
            caption="captions/search_overview.rst",
            category="4 Search",
            labels={"model": "all", "figure": "GA against random search"},
        ),
    log:
        f"{RUN}/logs/search_overview.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        settings=settings_of("search", "redox"),
        code=code_of("search-overview"),
        searches=[f"{SEARCH}/{m}" for m in SEARCHED],
    message:
        "Comparing the searches and listing the arrangements for DFT"
    shell:
        "python -m workflow_lib search-overview --config {CONFIG}"
        " --searches {params.searches} --reference {CHARGE_ORDER} --out {SEARCH} > {log} 2>&1"
