"""Formation energies, convex hull and voltage of every model, compared with DFT."""

THERMODYNAMICS = f"{RUN}/thermodynamics"


rule thermodynamics:
    input:
        host=CFG.host,
        reference=names_of(rules.charge_order_reference.output.table),
        larger=rules.charge_order_reference.output.larger,
        charge_orders=expand(rules.charge_order.output.states, model=ASKED),
        searches=expand(rules.search.output.found, model=SEARCHED),
        dft=names_of(rules.dft.output),
    output:
        checksums=f"{THERMODYNAMICS}/thermodynamics.sha256.json",
        formation=f"{THERMODYNAMICS}/formation.csv",
        hull=f"{THERMODYNAMICS}/hull.csv",
        voltage=f"{THERMODYNAMICS}/voltage.csv",
        scores=report(
            f"{THERMODYNAMICS}/scores.csv",
            caption="captions/thermodynamics_scores.rst",
            category="5 Thermodynamics",
            labels={"model": "all", "figure": "table: scores"},
        ),
        summary=f"{THERMODYNAMICS}/summary.csv",
        hull_figure=report(
            f"{THERMODYNAMICS}/hull.svg",
            caption="captions/hull.rst",
            category="5 Thermodynamics",
            labels={"model": "all", "figure": "convex hull"},
        ),
        voltage_figure=report(
            f"{THERMODYNAMICS}/voltage.svg",
            caption="captions/voltage.rst",
            category="5 Thermodynamics",
            labels={"model": "all", "figure": "open-circuit voltage"},
        ),
        found_figure=report(
            f"{THERMODYNAMICS}/found.svg",
            caption="captions/found.rst",
            category="5 Thermodynamics",
            labels={
                "model": "all",
                "figure": "what the searches found (Fig. 1 of the abstract)",
            },
        ),
    log:
        f"{RUN}/logs/thermodynamics.log",
    resources:
        mem_mb=memory(2000),
    params:
        described=DESCRIBED,
        settings=settings_of("thermodynamics", "charge_order", "redox"),
        metals=[
            caption_text(f"{m.element} {m.energy_ev} at {m.level} ({m.source})")
            for m in CFG.thermodynamics.metals
        ],
        code=code_of("thermodynamics"),
        charge_orders=[f"{CHARGE_ORDER}/{m}" for m in ASKED],
        searches=[f"{SEARCH}/{m}" for m in SEARCHED],
    message:
        "Drawing convex hulls and voltages"
    shell:
        "python -m workflow_lib thermodynamics --config {CONFIG} --reference {CHARGE_ORDER}"
        " --charge-orders {params.charge_orders} --searches {params.searches} --dft {DFT} --out {THERMODYNAMICS} > {log} 2>&1"
