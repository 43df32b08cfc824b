"""Cards: questions that every run can be asked, each with a page beside the studies'.

in:  the tables, heads and scores of the run; for some its crops and the encoder
out: studies/<card>/ with page, answer, tables; counts of the two that embed again

`snakemake studies` makes them.
"""

TABLES_OF_TASKS = expand(
    RESULTS / f"tables/{CONFIG.encoder}" / "{task}/{file}",
    task=TASKS,
    file=["rows.parquet", "features.npy"],
)
# What the report reads of the evaluation.
SCORED = [
    *expand(
        RESULTS / "evaluation/{task}/{file}",
        task=TASKS,
        file=[
            "metrics.parquet",
            "clusters.parquet",
            "heads.parquet",
            "comparisons.parquet",
            "source.json",
        ],
    ),
    *expand(
        RESULTS / "postprocess/{task}/steps.parquet",
        task=TASKS if CONFIG.postprocess.steps else [],
    ),
]
# What each card looks at; those that cannot be made here are not among them.
CARD_INPUTS = {
    "gain": SCORED,
    "traced-step": [*TABLES_OF_TASKS, *CONFIG.training.user_files()],
    "costs": [*SCORED, *TABLES_OF_TASKS],
}
if CONFIG.postprocess.steps:
    CARD_INPUTS["tail-card"] = expand(
        RESULTS / "postprocess/{task}/cross.parquet", task=TASKS
    )
if CONFIG.encoder in CONFIG.encoders:
    CARD_INPUTS["limits"] = [
        *SCORED,
        *expand(RESULTS / "studies/limits/counts/{task}.parquet", task=TASKS),
    ]
if CONFIG.encoder in CONFIG.encoders and CONFIG.encoders[CONFIG.encoder].model:
    CARD_INPUTS["fine-tuning"] = expand(
        RESULTS / "studies/fine-tuning/counts/{task}.parquet", task=TASKS
    )
CARDS = [*CARD_INPUTS, *(["loss-slices"] if "sharpness" in GRIDS else [])]


wildcard_constraints:
    card=any_of(CARD_INPUTS),


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


rule disturb_crops:
    input:
        tables=TABLES_OF_TASKS,
        faces=[faces_of(shard, CONFIG.encoder) for shard in SHARDS],
        weights=(
            weights_of(CONFIG.encoders[CONFIG.encoder])
            if CONFIG.encoder in CONFIG.encoders
            else []
        ),
        bundles=expand(
            RESULTS / "models/{task}/{part}/heads.safetensors", task=TASKS, part=PARTS
        ),
        code=CONFIG.training.user_files(),
    output:
        expand(RESULTS / "studies/limits/counts/{task}.parquet", task=TASKS),
    log:
        LOGS / "disturb_crops.log",
    benchmark:
        TIMINGS / "disturb_crops.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "limits", "config"),
        results=RESULTS,
        folder=RESULTS / "studies/limits/counts",
    shell:
        "clipaffect study disturb --settings {params.settings:q} {params.results:q} "
        "{input.faces:q} --out {params.folder:q} > {log:q} 2>&1"


rule tune_block:
    input:
        tables=TABLES_OF_TASKS,
        faces=[faces_of(shard, CONFIG.encoder) for shard in SHARDS],
        weights=(
            weights_of(CONFIG.encoders[CONFIG.encoder])
            if CONFIG.encoder in CONFIG.encoders
            else []
        ),
        bundles=expand(RESULTS / "models/{{task}}/{part}/heads.safetensors", part=PARTS),
        code=CONFIG.training.user_files(),
    output:
        RESULTS / "studies/fine-tuning/counts/{task}.parquet",
    log:
        LOGS / "tune_block/{task}.log",
    benchmark:
        TIMINGS / "tune_block/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "fine_tuning", "config"),
        results=RESULTS,
    shell:
        "clipaffect study tune --settings {params.settings:q} {wildcards.task:q} "
        "{params.results:q} {input.faces:q} --out {output:q} > {log:q} 2>&1"


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
        study=lambda wildcards: STUDIES["sharpness"].study.model_dump_json(),
        results=RESULTS,
    shell:
        "clipaffect study slices --settings {params.settings:q} {params.study:q} "
        '{params.results:q} --out "$(dirname {output.page:q})" > {log:q} 2>&1'
