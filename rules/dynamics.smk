"""Molecular dynamics of the studies; trajectories live in work/, not in outputs."""

DYNAMICS = f"{RUN}/dynamics"
DYNAMIC_STUDIES = {study.name: study for study in CFG.dynamics.studies}
TRAJECTORIES = {job.id: job for job in CFG.dynamics.trajectories()}
HOURS = CFG.dynamics.max_wall_hours
# Minutes: half an hour beyond the time of the last chunk that is begun; a day a job without a time.
RUNTIME = (
    (lambda wildcards, attempt: 1440 * attempt)
    if HOURS is None
    else int(60 * HOURS) + 30
)


def trajectory_params(name):
    """Everything of the configuration that one trajectory depends on."""
    job = TRAJECTORIES[name]
    own = job.study.model_dump(
        mode="json", include={"potential", "replicas", "start", "run"}
    )
    crystal = job.system.crystal.model_dump(mode="json")
    return own | {"crystal": crystal, "temperature": job.temperature}


def output_of_study(name):
    """Return the checksums of a study's results, the last file that its job writes."""
    return f"{DYNAMICS}/{name}/dynamics-study.sha256.json"


rule dynamics:
    input:
        lambda wildcards: potential_files(TRAJECTORIES[wildcards.trajectory].study),
        crystal=lambda wildcards: crystal_files(
            TRAJECTORIES[wildcards.trajectory].system.crystal
        ),
    output:
        checksums=f"{DYNAMICS}/{{trajectory}}/dynamics.sha256.json",
        summary=f"{DYNAMICS}/{{trajectory}}/summary.json",
    log:
        f"{RUN}/logs/dynamics-{{trajectory}}.log",
    benchmark:
        f"{RUN}/logs/dynamics-{{trajectory}}.benchmark.tsv"
    wildcard_constraints:
        trajectory="|".join(TRAJECTORIES),
    # A trajectory of days is a sequence of jobs: one that is out of time fails, the next goes on. One that
    # fails for another reason leaves a file in work/, with which the later attempts end at once. One job
    # alone is tried again as those of other rules are.
    retries: CFG.dynamics.jobs - 1 or None
    threads: CFG.threads
    resources:
        runtime=RUNTIME,
        mem_mb=4000,
        gpu=GPU,
        attempt=lambda wildcards, attempt: attempt,
    params:
        study=lambda wildcards: trajectory_params(wildcards.trajectory),
        settings=settings_of("threads", "seed", "device"),
        code=code_of("dynamics", *potential_code()),
        out=subpath(output.summary, parent=True),
    message:
        "Running the dynamics {wildcards.trajectory}"
    shell:
        "python -m workflow_lib dynamics --config {CONFIG} --trajectory {wildcards.trajectory}"
        " --attempt {resources.attempt}"
        " --work {WORK}/dynamics/{wildcards.trajectory} --out {params.out} > {log} 2>&1"


def trajectories_of(wildcards):
    """Return the checksums of the trajectories of a study."""
    jobs = DYNAMIC_STUDIES[wildcards.study].jobs()
    return [f"{DYNAMICS}/{job.id}/dynamics.sha256.json" for job in jobs]


def studies_with(kind):
    """Return the names of the studies of a kind, as a wildcard's constraint."""
    names = [name for name, study in DYNAMIC_STUDIES.items() if study.kind == kind]
    return "|".join(names) or "none"


rule dynamics_moments:
    input:
        trajectories_of,
    output:
        checksums=f"{DYNAMICS}/{{study}}/dynamics-study.sha256.json",
        document=f"{DYNAMICS}/{{study}}/study.json",
        table=f"{DYNAMICS}/{{study}}/series.csv",
        figure=report(
            f"{DYNAMICS}/{{study}}/moments.svg",
            caption="captions/dynamics_moments.rst",
            category="7 Charge-informed studies",
            labels={
                "model": "{study}",
                "figure": "moments (Fig. 4 of the CHGNet paper)",
            },
        ),
    log:
        f"{RUN}/logs/dynamics_moments-{{study}}.log",
    wildcard_constraints:
        study=studies_with("moments"),
    resources:
        mem_mb=memory(4000),
    params:
        study=lambda wildcards: DYNAMIC_STUDIES[wildcards.study].model_dump(mode="json"),
        code=code_of("dynamics-study"),
        described=lambda wildcards: described_study(DYNAMIC_STUDIES[wildcards.study]),
        trajectories=lambda wildcards: [
            f"{DYNAMICS}/{job.id}" for job in DYNAMIC_STUDIES[wildcards.study].jobs()
        ],
        out=subpath(output.document, parent=True),
    message:
        "Reading the trajectories of {wildcards.study}"
    shell:
        "python -m workflow_lib dynamics-study --config {CONFIG} --study {wildcards.study}"
        " --trajectories {params.trajectories} --out {params.out} > {log} 2>&1"


use rule dynamics_moments as dynamics_diffusion with:
    output:
        checksums=f"{DYNAMICS}/{{study}}/dynamics-study.sha256.json",
        document=f"{DYNAMICS}/{{study}}/study.json",
        table=f"{DYNAMICS}/{{study}}/diffusion.csv",
        figure=report(
            f"{DYNAMICS}/{{study}}/diffusion.svg",
            caption="captions/dynamics_diffusion.rst",
            category="7 Charge-informed studies",
            labels={
                "model": "{study}",
                "figure": "diffusion (Fig. 6 of the CHGNet paper)",
            },
        ),
    log:
        f"{RUN}/logs/dynamics_diffusion-{{study}}.log",
    wildcard_constraints:
        study=studies_with("diffusion"),


use rule dynamics_moments as dynamics_hopping with:
    output:
        checksums=f"{DYNAMICS}/{{study}}/dynamics-study.sha256.json",
        document=f"{DYNAMICS}/{{study}}/study.json",
        table=f"{DYNAMICS}/{{study}}/hopping.csv",
        figure=report(
            f"{DYNAMICS}/{{study}}/hopping.svg",
            caption="captions/dynamics_hopping.rst",
            category="7 Charge-informed studies",
            labels={"model": "{study}", "figure": "hops of electrons and ions"},
        ),
    log:
        f"{RUN}/logs/dynamics_hopping-{{study}}.log",
    wildcard_constraints:
        study=studies_with("hopping"),
