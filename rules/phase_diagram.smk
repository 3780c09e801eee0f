"""Phase diagrams: expansions fitted once for each system, replicas sampled side by side, one diagram."""

from workflow_lib import results_schema

PHASE_DIAGRAM = f"{RUN}/phase_diagram"
SYSTEMS = {s.name: s for s in CFG.phase_diagram.systems}


def potential_of(wildcards):
    """Return the files of the potential that gives the energies; none for DFT and for shipped weights.

    The charge orders and the search of a model of this run come first, so that relaxations in the shared
    cache are done only once, in batches that do not depend on which job is ahead.
    """
    system = SYSTEMS[wildcards.system]
    if system.potential == results_schema.DFT:
        return []
    model = own_model(system.potential)
    if model is None:
        return potential_files(system)
    before = [rules.charge_order.output.scores]
    before += [rules.search.output.summary] if model in SEARCHED else []
    return expand([*rules.train.output, *before], model=model)


def code_of_fit(wildcards):
    """Return the checksum of the fit's code and of the networks it may load by name."""
    potential = SYSTEMS[wildcards.system].potential
    if potential == results_schema.DFT:
        return code_of("phase-diagram-fit")
    model = own_model(potential)
    return code_of(
        "phase-diagram-fit", *([adapter_of(model)] if model else potential_code())
    )


wildcard_constraints:
    system="|".join(SYSTEMS),
    replica=r"\d+",


rule phase_diagram_fit:
    input:
        potential=potential_of,
        reference=rules.charge_order_reference.output,
        host=lambda wildcards: SYSTEMS[wildcards.system].host or CFG.host,
    output:
        checksums=f"{PHASE_DIAGRAM}/{{system}}/phase-diagram-fit.sha256.json",
        structures=f"{PHASE_DIAGRAM}/{{system}}/structures.csv",
        fit=report(
            f"{PHASE_DIAGRAM}/{{system}}/fit.csv",
            caption="captions/phase_diagram_fit.rst",
            category="7 Phase diagrams",
            labels={"model": "{system}", "figure": "table: fit"},
        ),
        summary=f"{PHASE_DIAGRAM}/{{system}}/summary.json",
        plain=f"{PHASE_DIAGRAM}/{{system}}/plain.json",
        figure=report(
            f"{PHASE_DIAGRAM}/{{system}}/fit.svg",
            caption="captions/phase_diagram_fit.rst",
            category="7 Phase diagrams",
            labels={"model": "{system}", "figure": "cluster expansion"},
        ),
    log:
        f"{RUN}/logs/phase_diagram_fit-{{system}}.log",
    threads: CFG.threads
    resources:
        mem_mb=3500,
        gpu=GPU,
    params:
        described=DESCRIBED,
        system=lambda wildcards: SYSTEMS[wildcards.system].model_dump(
            mode="json", exclude={"experiment"}
        ),
        structures=CFG.phase_diagram.structures.model_dump(mode="json"),
        accept_unconverged=CFG.thermodynamics.accept_unconverged,
        settings=settings_of("charge_order", "redox", "seed", "threads", "device"),
        code=code_of_fit,
        out=subpath(output.fit, parent=True),
    message:
        "Fitting the cluster expansions of {wildcards.system}"
    shell:
        "python -m workflow_lib phase-diagram-fit --config {CONFIG} --reference {CHARGE_ORDER}"
        " --trainings {TRAINING} --work {WORK} --out {params.out} > {log} 2>&1"


rule phase_diagram_sample:
    input:
        expansions=rules.phase_diagram_fit.output.checksums,
        plain=rules.phase_diagram_fit.output.plain,
        summary=rules.phase_diagram_fit.output.summary,
        host=lambda wildcards: SYSTEMS[wildcards.system].host or CFG.host,
    output:
        checksums=f"{PHASE_DIAGRAM}/{{system}}-r{{replica}}/phase-diagram-sample.sha256.json",
        isotherms=f"{PHASE_DIAGRAM}/{{system}}-r{{replica}}/isotherms.csv",
        thermal=f"{PHASE_DIAGRAM}/{{system}}-r{{replica}}/thermal.csv",
        entropy=f"{PHASE_DIAGRAM}/{{system}}-r{{replica}}/entropy.csv",
    log:
        f"{RUN}/logs/phase_diagram_sample-{{system}}-r{{replica}}.log",
    resources:
        mem_mb=3000,
    params:
        sampling=CFG.phase_diagram.sampling.model_dump(
            mode="json", exclude={"replicas"}
        ),
        settings=settings_of("redox", "seed"),
        code=code_of("phase-diagram-sample"),
        expansions=subpath(input.expansions, parent=True),
        out=subpath(output.isotherms, parent=True),
    message:
        "Sampling {wildcards.system}, replica {wildcards.replica}"
    shell:
        "python -m workflow_lib phase-diagram-sample --config {CONFIG} --expansions {params.expansions}"
        " --work {WORK}/phase_diagram_samples --out {params.out} > {log} 2>&1"


rule phase_diagram:
    input:
        fits=expand(rules.phase_diagram_fit.output, system=SYSTEMS),
        samples=expand(
            rules.phase_diagram_sample.output,
            system=SYSTEMS,
            replica=range(CFG.phase_diagram.sampling.replicas),
        ),
        host=sorted({system.host or CFG.host for system in SYSTEMS.values()}),
    output:
        checksums=f"{PHASE_DIAGRAM}/phase-diagram.sha256.json",
        isotherms=f"{PHASE_DIAGRAM}/isotherms.csv",
        free_energy=f"{PHASE_DIAGRAM}/free_energy.csv",
        entropy=f"{PHASE_DIAGRAM}/entropy.csv",
        boundaries=report(
            f"{PHASE_DIAGRAM}/boundaries.csv",
            caption="captions/phase_diagram.rst",
            category="7 Phase diagrams",
            labels={"model": "all", "figure": "table: boundaries"},
        ),
        features=report(
            f"{PHASE_DIAGRAM}/features.csv",
            caption="captions/phase_diagram.rst",
            category="7 Phase diagrams",
            labels={"model": "all", "figure": "table: features"},
        ),
        diagram=report(
            f"{PHASE_DIAGRAM}/diagram.svg",
            caption="captions/phase_diagram.rst",
            category="7 Phase diagrams",
            labels={"model": "all", "figure": "phase diagrams (CHGNet, Fig. 5)"},
        ),
        entropy_figure=report(
            f"{PHASE_DIAGRAM}/entropy.svg",
            caption="captions/phase_diagram_entropy.rst",
            category="7 Phase diagrams",
            labels={"model": "all", "figure": "entropy"},
        ),
        isotherm_figure=report(
            f"{PHASE_DIAGRAM}/isotherms.svg",
            caption="captions/phase_diagram_isotherms.rst",
            category="7 Phase diagrams",
            labels={"model": "all", "figure": "voltage and heat capacity"},
        ),
    log:
        f"{RUN}/logs/phase_diagram.log",
    resources:
        mem_mb=memory(3000),
    params:
        described=DESCRIBED,
        settings=settings_of("phase_diagram", "thermodynamics", "redox"),
        code=code_of("phase-diagram"),
        systems=[f"{PHASE_DIAGRAM}/{s}" for s in SYSTEMS],
    message:
        "Drawing the phase diagrams"
    shell:
        "python -m workflow_lib phase-diagram --config {CONFIG} --systems {params.systems}"
        " --out {PHASE_DIAGRAM} > {log} 2>&1"
