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
    output:
        checksums=f"{CHECKS}/checks.sha256.json",
        table=f"{CHECKS}/checks.csv",
    log:
        f"{RUN}/logs/checks.log",
    resources:
        mem_mb=2000,
    params:
        settings=settings_of("redox", "thermodynamics"),
        code=code_of("checks"),
    message:
        "Checking charge balance, splits, energies, hulls and voltages"
    shell:
        "python -m workflow_lib checks --config {CONFIG} --run {RUN} --out {CHECKS} > {log} 2>&1"
