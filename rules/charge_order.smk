"""Every model computes the enumerated charge-ordered states of the small cell."""

CHARGE_ORDER = f"{RUN}/charge_order"


rule charge_order_reference:
    input:
        frames=rules.dataset.output.frames,
        host=CFG.host,
        identical=CFG.charge_order.identical_atoms or [],
    output:
        checksums=f"{CHARGE_ORDER}/charge-order-reference.sha256.json",
        table=REFERENCE,
        larger=f"{CHARGE_ORDER}/larger_cells.csv",
        structures=f"{CHARGE_ORDER}/reference.extxyz",
        known=f"{CHARGE_ORDER}/known_states.json",
    log:
        f"{RUN}/logs/charge_order_reference.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        settings=settings_of("redox", "charge_order"),
        level=CFG.dataset.energy_reference,
        # What each model learns: the command refuses to let one relax cells that knows no stress.
        learnt={
            m.name: [m.init, training.epochs, [term.label for term in training.loss]]
            for m in CFG.models
            for training in [CFG.training_of(m.name)]
        },
        # The state whose relaxation the embedding follows must be there, before models train.
        followed=[CFG.embedding.reference_state, CFG.embedding.reference_x],
        code=code_of("charge-order-reference"),
    message:
        "Collecting the DFT reference"
    shell:
        "python -m workflow_lib charge-order-reference --config {CONFIG} --dataset {DATASET}"
        " --out {CHARGE_ORDER} > {log} 2>&1"


rule charge_order:
    input:
        model=model_files,
        reference=rules.charge_order_reference.output,
        splits=rules.dataset.output.splits,
        host=CFG.host,
    output:
        checksums=f"{CHARGE_ORDER}/{{model}}/charge-order.sha256.json",
        states=f"{CHARGE_ORDER}/{{model}}/states.csv",
        scores=f"{CHARGE_ORDER}/{{model}}/scores.json",
        structures=f"{CHARGE_ORDER}/{{model}}/structures.extxyz",
        figure=report(
            f"{CHARGE_ORDER}/{{model}}/states.svg",
            caption="captions/charge_order.rst",
            category="3 Charge orders",
            labels={"model": "{model}", "figure": "charge-ordered states"},
        ),
    log:
        f"{RUN}/logs/charge_order-{{model}}.log",
    benchmark:
        f"{RUN}/logs/charge_order-{{model}}.benchmark.tsv"
    threads: CFG.threads
    resources:
        mem_mb=3500,
        gpu=GPU,
    params:
        described=DESCRIBED,
        settings=settings_of("charge_order", "redox", "threads", "device"),
        code=lambda wildcards: code_of("charge-order", adapter_of(wildcards.model)),
        model=model_of,
        outside=outside_of,
        out=subpath(output.states, parent=True),
    message:
        "Computing the charge-ordered states with {wildcards.model}"
    shell:
        "python -m workflow_lib charge-order --config {CONFIG} --model {params.model}"
        " --reference {CHARGE_ORDER} --dataset {DATASET} --work {WORK}/relaxations --out {params.out}"
        " > {log} 2>&1"


rule charge_order_ewald:
    input:
        reference=rules.charge_order_reference.output,
        splits=rules.dataset.output.splits,
        host=CFG.host,
    output:
        checksums=f"{CHARGE_ORDER}/ewald/charge-order.sha256.json",
        states=f"{CHARGE_ORDER}/ewald/states.csv",
        scores=f"{CHARGE_ORDER}/ewald/scores.json",
    log:
        f"{RUN}/logs/charge_order_ewald.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        settings=settings_of("redox", "charge_order"),
        # The states that the models of the run have not seen.
        folds=CFG.dataset.folds.run,
        code=code_of("charge-order-ewald"),
    message:
        "Ranking the states by formal-charge Ewald energies"
    shell:
        "python -m workflow_lib charge-order-ewald --config {CONFIG} --reference {CHARGE_ORDER}"
        " --dataset {DATASET} --out {CHARGE_ORDER}/ewald > {log} 2>&1"


rule charge_order_overview:
    input:
        charge_orders=expand(rules.charge_order.output.checksums, model=ASKED),
        ewald=names_of(rules.charge_order_ewald.output),
    output:
        checksums=f"{CHARGE_ORDER}/charge-order-overview.sha256.json",
        table=report(
            f"{CHARGE_ORDER}/overview.csv",
            caption="captions/charge_order_overview.rst",
            category="3 Charge orders",
            labels={"model": "all", "figure": "table: overview"},
        ),
        figure=report(
            f"{CHARGE_ORDER}/overview.svg",
            caption="captions/charge_order_overview.rst",
            category="3 Charge orders",
            labels={"model": "all", "figure": "scores"},
        ),
    log:
        f"{RUN}/logs/charge_order_overview.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        settings=settings_of("charge_order"),
        code=code_of("charge-order-overview"),
        charge_orders=[f"{CHARGE_ORDER}/{m}" for m in [*ASKED, "ewald"]],
    message:
        "Comparing all models on the charge orders"
    shell:
        "python -m workflow_lib charge-order-overview --config {CONFIG} --charge-orders {params.charge_orders}"
        " --out {CHARGE_ORDER} > {log} 2>&1"


# This table is for testing only; no other stage reads it.
if CFG.charge_order.identical_atoms:

    rule charge_order_identical:
        input:
            frames=CFG.charge_order.identical_atoms,
            splits=names_of(rules.dataset.output.splits),
            trainings=expand(rules.train.output, model=MODELS),
            outside=[f for m in CFG.outside for f in m.files],
            host=CFG.host,
        output:
            checksums=f"{CHARGE_ORDER}/identical/charge-order-identical.sha256.json",
            orders=f"{CHARGE_ORDER}/identical/identical.csv",
            table=report(
                f"{CHARGE_ORDER}/identical/identical_scores.csv",
                caption="captions/charge_order_identical.rst",
                category="3 Charge orders",
                labels={"model": "all", "figure": "table: identical scores"},
            ),
            figure=report(
                f"{CHARGE_ORDER}/identical/identical.svg",
                caption="captions/charge_order_identical.rst",
                category="3 Charge orders",
                labels={
                    "model": "all",
                    "figure": "charge orders on identical atoms",
                },
            ),
        log:
            f"{RUN}/logs/charge_order_identical.log",
        threads: CFG.threads
        resources:
            mem_mb=3500,
            gpu=GPU,
        params:
            described=DESCRIBED,
            settings=settings_of("charge_order", "redox", "threads", "device"),
            level=CFG.dataset.energy_reference,
            code=code_of("charge-order-identical", *map(adapter_of, ASKED)),
            models=[*(f"{TRAINING}/{m}" for m in MODELS), *OUTSIDE],
            outside=settings_of("outside"),
        message:
            "Comparing all models on charge orders of identical atoms"
        shell:
            "python -m workflow_lib charge-order-identical --config {CONFIG}"
            " --models {params.models} --dataset {DATASET} --work {WORK}/identical"
            " --out {CHARGE_ORDER}/identical > {log} 2>&1"
