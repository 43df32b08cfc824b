"""Pages that a person reads.

in:  summary and frame index for the first page; the evaluation of every task for the report
out: start.html within minutes; report/index.html with figures, tables and metrics.json
"""

# Imported features alone need no image.
LOOKED_AT = SHARDS if CONFIG.encoders else []
FIGURES = [
    (f"{figure}_{task}", task, label)
    for task in TASKS
    for figure, label in (
        ("alpha", "Macro F1 over alpha"),
        ("targets", "F1 of each class or unit"),
        ("confusion", "Confusion at the headline alpha"),
    )
]


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
        comparisons=expand(
            RESULTS / "evaluation/{task}/comparisons.parquet", task=TASKS
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
        runs=report(
            RESULTS / "report/runs.csv",
            caption="../report/runs.rst",
            category="Tables",
            labels={"what": "Macro F1 of every head and reference"},
        ),
        coverage=report(
            RESULTS / "report/coverage.csv",
            caption="../report/coverage.rst",
            category="Tables",
            labels={"what": "Frames by status"},
        ),
        targets=report(
            RESULTS / "report/targets.csv",
            caption="../report/targets.rst",
            category="Tables",
            labels={"what": "F1 of each class and unit"},
        ),
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
        pictures=[RESULTS / f"report/figures/{name}.png" for name, _, _ in FIGURES],
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
