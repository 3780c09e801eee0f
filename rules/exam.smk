"""Every model answers the enumerated charge-ordered states of the small cell."""

EXAM = f"{RUN}/exam"


rule exam_reference:
    input:
        frames=rules.dataset.output.frames,
    output:
        table=REFERENCE,
        structures=f"{EXAM}/reference.extxyz",
    log:
        f"{RUN}/logs/exam_reference.log",
    resources:
        mem_mb=2000,
    params:
        code=code_of("exam/reference.py", "host.py"),
    message:
        "Collecting the DFT answers"
    shell:
        "python -m workflow_lib exam-reference --config {CONFIG} --dataset {DATASET}"
        " --out {EXAM} > {log} 2>&1"


rule exam:
    input:
        card=rules.train.output.card,
        tensors=rules.train.output.tensors,
        reference=rules.exam_reference.output,
        splits=rules.dataset.output.splits,
    output:
        states=f"{EXAM}/{{model}}/states.csv",
        scores=f"{EXAM}/{{model}}/scores.json",
        structures=f"{EXAM}/{{model}}/structures.extxyz",
        figure=report(
            f"{EXAM}/{{model}}/states.svg",
            caption="captions/exam.rst",
            category="3 Exam",
            labels={"model": "{model}", "figure": "16 states"},
        ),
    log:
        f"{RUN}/logs/exam-{{model}}.log",
    benchmark:
        f"{RUN}/logs/exam-{{model}}.benchmark.tsv"
    threads: CFG.threads
    resources:
        mem_mb=3500,
    params:
        settings=settings_of("exam", "threads"),
        code=code_of(
            "exam", "models", "relaxation.py", "relaxation_cache.py", "host.py"
        ),
        model_dir=subpath(input.card, parent=True),
        out=subpath(output.states, parent=True),
    message:
        "Examining {wildcards.model}"
    shell:
        "python -m workflow_lib exam --config {CONFIG} --model-dir {params.model_dir}"
        " --reference {EXAM} --dataset {DATASET} --work {WORK}/relaxations --out {params.out}"
        " > {log} 2>&1"


rule exam_ewald:
    input:
        reference=rules.exam_reference.output,
        splits=rules.dataset.output.splits,
    output:
        states=f"{EXAM}/ewald/states.csv",
        scores=f"{EXAM}/ewald/scores.json",
    log:
        f"{RUN}/logs/exam_ewald.log",
    resources:
        mem_mb=2000,
    params:
        settings=settings_of("redox"),
        code=code_of("exam", "host.py"),
    message:
        "Ranking the states by formal-charge Ewald energies"
    shell:
        "python -m workflow_lib exam-ewald --config {CONFIG} --reference {EXAM}"
        " --dataset {DATASET} --out {EXAM}/ewald > {log} 2>&1"


rule exam_overview:
    input:
        exams=expand(rules.exam.output.scores, model=MODELS),
        ewald=names_of(rules.exam_ewald.output),
    output:
        table=report(
            f"{EXAM}/overview.csv",
            caption="captions/exam_overview.rst",
            category="3 Exam",
        ),
        figure=report(
            f"{EXAM}/overview.svg",
            caption="captions/exam_overview.rst",
            category="3 Exam",
            labels={"model": "all", "figure": "scores"},
        ),
    log:
        f"{RUN}/logs/exam_overview.log",
    resources:
        mem_mb=2000,
    params:
        code=code_of("exam", "plotting.py"),
        exams=[f"{EXAM}/{m}" for m in [*MODELS, "ewald"]],
    message:
        "Comparing the exams"
    shell:
        "python -m workflow_lib exam-overview --config {CONFIG} --exams {params.exams}"
        " --out {EXAM} > {log} 2>&1"


# The table is one for testing only: no other stage reads it.
if CFG.exam.identical_atoms:

    rule exam_identical:
        input:
            frames=CFG.exam.identical_atoms,
            splits=names_of(rules.dataset.output.splits),
            trainings=expand(rules.train.output, model=MODELS),
        output:
            orders=f"{EXAM}/identical/identical.csv",
            table=report(
                f"{EXAM}/identical/identical_scores.csv",
                caption="captions/exam_identical.rst",
                category="3 Exam",
            ),
            figure=report(
                f"{EXAM}/identical/identical.svg",
                caption="captions/exam_identical.rst",
                category="3 Exam",
                labels={
                    "model": "all",
                    "figure": "charge orders on identical atoms",
                },
            ),
        log:
            f"{RUN}/logs/exam_identical.log",
        threads: CFG.threads
        resources:
            mem_mb=3500,
        params:
            settings=settings_of("redox", "threads"),
            code=code_of("exam", "models", "host.py", "redox.py"),
            trainings=[f"{TRAINING}/{m}" for m in MODELS],
        message:
            "Asking all models about charge orders on identical atoms"
        shell:
            "python -m workflow_lib exam-identical --config {CONFIG}"
            " --trainings {params.trainings} --dataset {DATASET} --out {EXAM}/identical"
            " > {log} 2>&1"
