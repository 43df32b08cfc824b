"""Pages that a person reads.

in:  summary and frame index for the first page; the evaluation of every task for the report
out: start.html within minutes; report/index.html with figures, tables and metrics.json; what the
     jobs took, under timings/
"""

# Imported features alone need no image.
LOOKED_AT = SHARDS if CONFIG.encoders else []
FIGURES = [
    (f"{figure}_{task}", task, label)
    for task in TASKS
    for figure, label in (
        ("beside", "Every setting and reference"),
        ("alpha", "Macro F1 over alpha"),
        ("targets", "F1 of each class or unit"),
        ("confusion", "Confusion at the headline alpha"),
        ("calibration", "Calibration at the headline alpha"),
    )
]
TABLES = {
    "scores": "Macro F1 of every setting, with intervals",
    "comparisons": "Paired comparisons",
    "steps": "What each step after the head brings",
    "targets": "F1 of each class and unit",
    "runs": "Every head and reference",
    "coverage": "Frames by status",
}


rule first_page:
    input:
        summary=RESULTS / "dataset/summary.json",
        frames=expand(RESULTS / "frames/{shard}.parquet", shard=LOOKED_AT),
    output:
        RESULTS / "start.html",
    log:
        LOGS / "first_page.log",
    benchmark:
        TIMINGS / "first_page.tsv"
    priority: 100
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        results=RESULTS,
    shell:
        "clipaffect first-page --settings {params.settings:q} {params.results:q} --out {output:q} "
        "> {log:q} 2>&1"


rule build_report:
    input:
        summary=RESULTS / "dataset/summary.json",
        faces=expand(RESULTS / "faces/{shard}.parquet", shard=LOOKED_AT),
        imports=expand(RESULTS / "embeddings/{imported}/import.json", imported=IMPORTED),
        rows=expand(
            RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet", task=TASKS
        ),
        metrics=expand(RESULTS / "evaluation/{task}/metrics.parquet", task=TASKS),
        source=expand(RESULTS / "evaluation/{task}/source.json", task=TASKS),
        comparisons=expand(
            RESULTS / "evaluation/{task}/comparisons.parquet", task=TASKS
        ),
        steps=expand(
            RESULTS / "postprocess/{task}/steps.parquet",
            task=TASKS if CONFIG.postprocess.steps else [],
        ),
        bundles=expand(
            RESULTS / "models/{task}/{part}/heads.safetensors", task=TASKS, part=PARTS
        ),
    output:
        page=report(
            RESULTS / "report/index.html",
            caption="../report/page.rst",
            category="Report",
            labels={"what": "The whole report"},
        ),
        metrics=RESULTS / "report/metrics.json",
        markdown=RESULTS / "report/report.md",
        record=RESULTS / "report/run.json",
        cards=expand(RESULTS / "report/cards/{task}.md", task=TASKS),
        tables=[
            report(
                RESULTS / f"report/tables/{name}.csv",
                caption=f"../report/{name}.rst",
                category="Tables",
                labels={"what": label},
            )
            for name, label in TABLES.items()
        ],
        latex=expand(RESULTS / "report/tables/{table}.tex", table=TABLES),
        figures=[
            report(
                RESULTS / f"report/figures/{name}.svg",
                caption=f"../report/{name.split('_')[0]}.rst",
                category="Figures",
                subcategory=task,
                labels={"what": label, "task": task},
            )
            for name, task, label in FIGURES
        ],
        pictures=[
            RESULTS / f"report/figures/{name}.{kind}"
            for name, _, _ in FIGURES
            for kind in ("png", "pdf")
        ],
    log:
        LOGS / "build_report.log",
    benchmark:
        TIMINGS / "build_report.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        results=RESULTS,
    shell:
        "clipaffect build-report --settings {params.settings:q} {params.results:q} "
        '--out "$(dirname {output.page:q})" > {log:q} 2>&1'


rule show_timings:
    input:
        RESULTS / "report/index.html",
    output:
        TIMINGS / "index.html",
    log:
        LOGS / "show_timings.log",
    conda:
        ENV
    params:
        run=CONFIG.run,
    shell:
        'clipaffect show-timings {params.run:q} "$(dirname {output:q})" > {log:q} 2>&1'
