"""Studies: further heads on the run's own features, each question with its page.

in:  config/studies/*.yaml, the tables and the references of the run
out: studies/index.html, and for each study its heads, scores, tables and page

`snakemake studies` makes them; nothing else depends on them.
"""

STUDY = RESULTS / "studies/{study}"
TABLES_OF_TASKS = expand(
    RESULTS / f"tables/{CONFIG.encoder}" / "{task}/{file}",
    task=TASKS,
    file=["rows.parquet", "features.npy"],
)
# What each card looks at; those that cannot be made here are not among them.
CARD_INPUTS = {
    "gain": expand(
        RESULTS / "evaluation/{task}/{file}.parquet",
        task=TASKS,
        file=["comparisons", "clusters", "metrics"],
    ),
    "traced-step": [*TABLES_OF_TASKS, *CONFIG.training.user_files()],
}
if CONFIG.postprocess.steps:
    CARD_INPUTS["tail-card"] = expand(
        RESULTS / "postprocess/{task}/cross.parquet", task=TASKS
    )
CARDS = [*CARD_INPUTS, *(["loss-slices"] if "sharpness" in STUDIES else [])]


wildcard_constraints:
    study=any_of(STUDIES),
    card=any_of(CARD_INPUTS),


rule studies:
    input:
        RESULTS / "studies/index.html",


use rule train_heads as train_study with:
    input:
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        code=lambda wildcards: STUDY_CONFIGS[wildcards.study].training.user_files(),
    output:
        weights=STUDY / "models/{task}/{part}/heads.safetensors",
        heads=STUDY / "models/{task}/{part}/heads.parquet",
        history=STUDY / "models/{task}/{part}/history.parquet",
    log:
        LOGS / "train_study/{study}/{task}/{part}.log",
    benchmark:
        TIMINGS / "train_study/{study}/{task}/{part}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDY_CONFIGS[wildcards.study],
            "heads",
            "training",
            f"tasks.{wildcards.task}",
        ),
        timings=str(TIMINGS / "train_study/{study}/{task}/{part}.json"),


use rule evaluate_heads as evaluate_study with:
    input:
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        code=lambda wildcards: STUDY_CONFIGS[wildcards.study].training.user_files(),
        bundles=[STUDY / "models/{task}/0/heads.safetensors"],
        references=expand(
            RESULTS / "references/{encoder}/{{task}}.parquet", encoder=SOURCES
        ),
    output:
        scores=STUDY / "evaluation/{task}/scores.parquet",
        rows=STUDY / "evaluation/{task}/rows.parquet",
        metrics=STUDY / "evaluation/{task}/metrics.parquet",
        clusters=STUDY / "evaluation/{task}/clusters.parquet",
        heads=STUDY / "evaluation/{task}/heads.parquet",
        frames=STUDY / "evaluation/{task}/frames.json",
        source=STUDY / "evaluation/{task}/source.json",
    log:
        LOGS / "evaluate_study/{study}/{task}.log",
    benchmark:
        TIMINGS / "evaluate_study/{study}/{task}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDY_CONFIGS[wildcards.study],
            "evaluation",
            *evaluated(CONFIG, wildcards.task),
        ),
        encoder=CONFIG.encoder,
        bundles=lambda wildcards, input: options("--bundle", input.bundles, folder=True),
        references=lambda wildcards, input: options("--reference", input.references),


use rule compare_heads as compare_study with:
    input:
        STUDY / "evaluation/{task}/clusters.parquet",
    output:
        intervals=STUDY / "evaluation/{task}/intervals.parquet",
        comparisons=STUDY / "evaluation/{task}/comparisons.parquet",
        resolution=STUDY / "evaluation/{task}/resolution.json",
    log:
        LOGS / "compare_study/{study}/{task}.log",
    benchmark:
        TIMINGS / "compare_study/{study}/{task}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDY_CONFIGS[wildcards.study],
            "comparison",
            "training",
            "evaluation",
            f"tasks.{wildcards.task}",
        ),
        encoder=CONFIG.encoder,


rule write_study:
    input:
        summary=RESULTS / "dataset/summary.json",
        rows=expand(
            RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet", task=TASKS
        ),
        source=expand(
            STUDY / "evaluation/{task}/source.json", task=TASKS, allow_missing=True
        ),
        comparisons=expand(
            STUDY / "evaluation/{task}/comparisons.parquet",
            task=TASKS,
            allow_missing=True,
        ),
    output:
        page=STUDY / "index.html",
        answer=STUDY / "answer.json",
    log:
        LOGS / "write_study/{study}.log",
    benchmark:
        TIMINGS / "write_study/{study}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        study=lambda wildcards: STUDIES[wildcards.study].model_dump_json(),
        results=RESULTS,
    shell:
        "clipaffect study page --settings {params.settings:q} {wildcards.study:q} "
        '{params.study:q} {params.results:q} --out "$(dirname {output.page:q})" '
        "> {log:q} 2>&1"


rule write_card:
    input:
        summary=RESULTS / "dataset/summary.json",
        made=lambda wildcards: CARD_INPUTS[wildcards.card],
    output:
        page=RESULTS / "studies/{card}/index.html",
        answer=RESULTS / "studies/{card}/answer.json",
    log:
        LOGS / "write_card/{card}.log",
    benchmark:
        TIMINGS / "write_card/{card}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        results=RESULTS,
    shell:
        "clipaffect study card --settings {params.settings:q} {wildcards.card:q} "
        '{params.results:q} --out "$(dirname {output.page:q})" > {log:q} 2>&1'


rule slice_heads:
    input:
        tables=TABLES_OF_TASKS,
        bundles=expand(
            RESULTS / "studies/sharpness/models/{task}/0/heads.safetensors", task=TASKS
        ),
    output:
        page=RESULTS / "studies/loss-slices/index.html",
        answer=RESULTS / "studies/loss-slices/answer.json",
    log:
        LOGS / "slice_heads.log",
    benchmark:
        TIMINGS / "slice_heads.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        study=lambda wildcards: STUDIES["sharpness"].model_dump_json(),
        results=RESULTS,
    shell:
        "clipaffect study slices --settings {params.settings:q} {params.study:q} "
        '{params.results:q} --out "$(dirname {output.page:q})" > {log:q} 2>&1'


rule list_studies:
    input:
        expand(RESULTS / "studies/{name}/answer.json", name=[*STUDIES, *CARDS]),
    output:
        RESULTS / "studies/index.html",
    log:
        LOGS / "list_studies.log",
    benchmark:
        TIMINGS / "list_studies.tsv"
    conda:
        ENV
    params:
        run=CONFIG.run,
        wrong=json.dumps(STUDY_ERRORS),
    shell:
        "clipaffect study index {params.run:q} {input:q} --wrong {params.wrong:q} "
        "--out {output:q} > {log:q} 2>&1"
