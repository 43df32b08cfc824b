"""Build the pages for readers.

in:  summary and frame index for the first page; the evaluation of every task for the report
out: start.html within minutes; report/index.html with figures, tables and metrics.json; the cost of
     the jobs, under timings/
"""

# Imported features need no images.
LOOKED_AT = SHARDS if CONFIG.encoders else []
STEPPED = TASKS if CONFIG.postprocess.steps else []
FIGURES = [
    (f"{figure}_{task}", task, label)
    for task in TASKS
    for figure, label in (
        ("differences", "Differences from ERM"),
        ("alpha", "Macro F1 over alpha"),
        ("targets", "F1 of each class or unit"),
        ("confusion", "Confusion at the headline alpha"),
        ("calibration", "Calibration at the headline alpha"),
        ("classes", "Shares of the classes or units"),
    )
]
if STEPPED:
    FIGURES.append(("steps", "", "Macro F1 after each step behind the head"))
TABLES = {
    "scores": "Macro F1 of every setting, with intervals",
    "comparisons": "Paired comparisons",
    "steps": "What each step after the head brings",
    "targets": "F1 of each class and unit",
    "runs": "Every head and reference",
    "coverage": "Frames by status",
}
CHOSEN_STEPS = [
    path
    for task in STEPPED
    for path in RESULTS.postprocessing(task).files("steps", "choices").values()
]
CONTROL = RESULTS.study("negative-control").answer
# The inputs of the tables and pages of results.
EVALUATED = [
    RESULTS.dataset.summary,
    *expand(TABLE.rows, task=TASKS),
    *(
        path
        for task in TASKS
        for path in RESULTS.evaluation(task).files(*SCORED, *COMPARED).values()
    ),
    *map(RESULTS.agreement, RATED_TASKS),
    *CHOSEN_STEPS,
]


rule first_page:
    input:
        summary=RESULTS.dataset.summary,
        frames=expand(RESULTS.frames(), shard=LOOKED_AT),
    output:
        RESULTS.first_page,
    log:
        LOGS / "first_page.log",
    benchmark:
        RESULTS.timings / "first_page.tsv"
    priority: 100
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        results=RESULTS.folder,
    shell:
        command(
            "rule first-page --settings {params.settings:q} {params.results:q} --out "
            "{output:q}"
        )


rule build_report:
    input:
        evaluated=EVALUATED,
        labels=expand(RESULTS.dataset.labels(), task=TASKS),
        tables=EVERY_TABLE,
        copies=expand(RESULTS.copies(), task=TASKS),
        faces=expand(RESULTS.faces(), shard=LOOKED_AT),
        imports=[RESULTS.import_counts(imported) for imported in IMPORTED],
        heads=EVERY_HEAD,
        code=USER_FILES,
        # Once the studies have been run, the report keeps their negative control up to date.
        control=lambda wildcards: [CONTROL] if CONTROL.exists() else [],
    output:
        **RESULTS.report.files("main_table", "ablation_table", "citation", "finished"),
        page=report(
            RESULTS.report.page,
            caption="../report/page.rst",
            category="Report",
            labels={"what": "The whole report"},
        ),
        metrics=RESULTS.report.metrics,
        markdown=RESULTS.report.markdown,
        record=RESULTS.report.record,
        cards=expand(RESULTS.report.card(), task=TASKS),
        tables=[
            report(
                RESULTS.report.tables / f"{name}.csv",
                caption=f"../report/{name}.rst",
                category="Tables",
                labels={"what": label},
            )
            for name, label in TABLES.items()
        ],
        latex=[RESULTS.report.tables / f"{name}.tex" for name in TABLES],
        figures=[
            report(
                RESULTS.report.figures / f"{name}.svg",
                caption=f"../report/{name.split('_')[0]}.rst",
                category="Figures",
                subcategory=task,
                labels={"what": label, "task": task},
            )
            for name, task, label in FIGURES
        ],
        pictures=[
            RESULTS.report.figures / f"{name}{kind}"
            for name, _, _ in FIGURES
            for kind in (".png", ".pdf", "_column.pdf")
        ],
    log:
        LOGS / "build_report.log",
    benchmark:
        RESULTS.timings / "build_report.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        results=RESULTS.folder,
        out=subpath(output.page, parent=True),
    shell:
        command(
            "rule build-report --settings {params.settings:q} {params.results:q} --out "
            "{params.out:q}"
        )


rule show_timings:
    input:
        RESULTS.report.page,
    output:
        RESULTS.timings / "index.html",
    log:
        LOGS / "show_timings.log",
    conda:
        ENV
    params:
        run=CONFIG.run,
        timings=subpath(output[0], parent=True),
    shell:
        command("rule show-timings {params.run:q} {params.timings:q}")
