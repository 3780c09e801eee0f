"""One table, model x metric; timings apart, so that two runs give identical tables."""

BENCHMARK = f"{RUN}/benchmark"


rule benchmark:
    input:
        trainings=expand(rules.train.output, model=MODELS),
        exams=expand(rules.exam.output.scores, model=MODELS),
        ewald=names_of(rules.exam_ewald.output),
        searches=expand(rules.search.output.summary, model=SEARCHED),
        thermodynamics=names_of(rules.thermodynamics.output.scores),
        embeddings=expand(rules.embedding.output.scores, model=MODELS),
    output:
        table=report(
            f"{BENCHMARK}/benchmark.csv",
            caption="captions/benchmark.rst",
            category="0 Benchmark",
        ),
        figure=report(
            f"{BENCHMARK}/benchmark.svg",
            caption="captions/benchmark.rst",
            category="0 Benchmark",
            labels={"model": "all", "figure": "benchmark"},
        ),
        timings=report(
            f"{BENCHMARK}/timings.csv",
            caption="captions/timings.rst",
            category="0 Benchmark",
        ),
        provenance=f"{RUN}/provenance.json",
    log:
        f"{RUN}/logs/benchmark.log",
    resources:
        mem_mb=2000,
    params:
        code=code_of("benchmark", "plotting.py"),
        trainings=[f"{TRAINING}/{m}" for m in MODELS],
        exams=[f"{EXAM}/{m}" for m in [*MODELS, "ewald"]],
        searches=[f"{SAMPLING}/{m}" for m in SEARCHED],
        embeddings=[f"{EMBEDDING}/{m}" for m in MODELS],
    message:
        "Writing the benchmark table"
    shell:
        "(python -m workflow_lib benchmark --config {CONFIG} --trainings {params.trainings}"
        " --exams {params.exams} --searches {params.searches} --thermodynamics {THERMODYNAMICS}"
        " --embeddings {params.embeddings} --out {BENCHMARK}"
        " && python -m workflow_lib provenance --config {CONFIG} --out {output.provenance})"
        " > {log} 2>&1"
