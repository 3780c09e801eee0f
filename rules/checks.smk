"""Relations that the products of any run must fulfil; one that does not hold fails the run."""

CHECKS = f"{RUN}/checks"


rule checks:
    input:
        frames=names_of(rules.dataset.output.frames),
        splits=names_of(rules.dataset.output.splits),
        reference=names_of(rules.charge_order_reference.output.table),
        states=expand(rules.charge_order.output.states, model=ASKED),
        ewald=names_of(rules.charge_order_ewald.output.states),
        searches=expand(rules.search.output.found, model=SEARCHED),
        formation=names_of(rules.thermodynamics.output.formation),
        hull=names_of(rules.thermodynamics.output.hull),
        voltage=names_of(rules.thermodynamics.output.voltage),
        host=CFG.host,
    output:
        checksums=f"{CHECKS}/checks.sha256.json",
        table=f"{CHECKS}/checks.csv",
    log:
        f"{RUN}/logs/checks.log",
    resources:
        mem_mb=memory(2000),
    params:
        settings=settings_of("redox", "thermodynamics"),
        code=code_of("checks"),
        charge_orders=[f"{CHARGE_ORDER}/{m}" for m in [*ASKED, "ewald"]],
        searches=[f"{SEARCH}/{m}" for m in SEARCHED],
    message:
        "Checking charge balance, splits, energies, hulls and voltages"
    shell:
        "python -m workflow_lib checks --config {CONFIG} --run {RUN}"
        " --charge-orders {params.charge_orders} --searches {params.searches} --out {CHECKS} > {log} 2>&1"
