"""One search a model: genetic algorithm against random search at equal budget."""

SAMPLING = f"{RUN}/sampling"


rule search:
    input:
        card=rules.train.output.card,
        tensors=rules.train.output.tensors,
        # The exam's relaxations are in the shared cache; starting after it relaxes them once.
        exam=rules.exam.output.scores,
        reference=rules.exam_reference.output,
    output:
        found=f"{SAMPLING}/{{model}}/found.csv",
        history=f"{SAMPLING}/{{model}}/history.csv",
        structures=f"{SAMPLING}/{{model}}/found.extxyz",
        summary=f"{SAMPLING}/{{model}}/summary.json",
        figure=report(
            f"{SAMPLING}/{{model}}/progress.svg",
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
    params:
        settings=settings_of("sampling", "exam", "threads", "seed"),
        code=code_of(
            "sampling", "models", "relaxation.py", "relaxation_cache.py", "host.py"
        ),
        model_dir=subpath(input.card, parent=True),
        out=subpath(output.found, parent=True),
    message:
        "Searching ground states with {wildcards.model}"
    shell:
        "python -m workflow_lib search --config {CONFIG} --model-dir {params.model_dir}"
        " --reference {EXAM} --work {WORK} --out {params.out} > {log} 2>&1"


rule sampling_overview:
    input:
        searches=expand(rules.search.output.found, model=SEARCHED),
        reference=names_of(rules.exam_reference.output.table),
    output:
        table=report(
            f"{SAMPLING}/overview.csv",
            caption="captions/sampling_overview.rst",
            category="4 Search",
        ),
        pending=report(
            f"{SAMPLING}/pending.csv",
            caption="captions/pending.rst",
            category="4 Search",
        ),
        figure=report(
            f"{SAMPLING}/overview.svg",
            caption="captions/sampling_overview.rst",
            category="4 Search",
            labels={"model": "all", "figure": "GA against random search"},
        ),
    log:
        f"{RUN}/logs/sampling_overview.log",
    resources:
        mem_mb=2000,
    params:
        settings=settings_of("sampling"),
        code=code_of("sampling", "dft", "plotting.py"),
        searches=[f"{SAMPLING}/{m}" for m in SEARCHED],
    message:
        "Comparing the searches and listing what DFT has to answer"
    shell:
        "python -m workflow_lib sampling-overview --config {CONFIG}"
        " --searches {params.searches} --reference {EXAM} --out {SAMPLING} > {log} 2>&1"
