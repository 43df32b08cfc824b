"""Cards: questions that apply to every run, each with a page among the studies.

in:  the tables, heads and scores of the run; for some cards, its crops and the encoder
out: studies/<card>/ with page, answer and tables; counts for the two that recompute embeddings

`snakemake studies` builds them.
"""

# The inputs of each card; cards that cannot be built for this run are left out.
CARD_INPUTS = {
    "gain": EVALUATED,
    "traced-step": [*EVERY_TABLE, *USER_FILES],
    "costs": [*EVALUATED, *EVERY_TABLE],
    "negative-control": [
        RESULTS.dataset.summary,
        *EVERY_TABLE,
        *expand(RESULTS.study("negative-control").control(), task=TASKS),
    ],
}
if CONFIG.postprocess.steps:
    CARD_INPUTS["tail-card"] = [
        RESULTS.dataset.summary,
        *expand(RESULTS.postprocessing().cross_fitted, task=TASKS),
    ]
if CONFIG.encoder in CONFIG.encoders:
    CARD_INPUTS["limits"] = [
        *EVALUATED,
        *expand(RESULTS.study("limits").person_counts(), task=TASKS),
    ]
if CONFIG.encoder in CONFIG.encoders and CONFIG.encoders[CONFIG.encoder].model:
    CARD_INPUTS["fine-tuning"] = [
        RESULTS.dataset.summary,
        *expand(TABLE.rows, task=TASKS),
        *expand(RESULTS.study("fine-tuning").person_counts(), task=TASKS),
    ]
CARDS = [*CARD_INPUTS, *(["loss-slices"] if "sharpness" in GRIDS else [])]
CARD = RESULTS.study("{card}")


wildcard_constraints:
    card=any_of(CARD_INPUTS),


rule write_card:
    input:
        lambda wildcards: CARD_INPUTS[wildcards.card],
    output:
        **CARD.files("page", "answer"),
    log:
        LOGS / "write_card/{card}.log",
    benchmark:
        RESULTS.timings / "write_card/{card}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        results=RESULTS.folder,
        out=subpath(output.page, parent=True),
    shell:
        command(
            "rule write-card --settings {params.settings:q} {wildcards.card:q} "
            "{params.results:q} --out {params.out:q}"
        )


rule disturb_crops:
    input:
        tables=EVERY_TABLE,
        faces=[faces_of(shard, CONFIG.encoder) for shard in SHARDS],
        weights=head_weights(),
        heads=EVERY_HEAD,
        listed=expand(RESULTS.heads().listed, task=TASKS, part=PARTS),
        code=USER_FILES,
    output:
        expand(RESULTS.study("limits").person_counts(), task=TASKS),
    log:
        LOGS / "disturb_crops.log",
    benchmark:
        RESULTS.timings / "disturb_crops.tsv"
    conda:
        ENV
    resources:
        gpu=own_gpus(),
    params:
        settings=lambda wildcards: settings_json(CONFIG, "limits", "config"),
        results=RESULTS.folder,
        out=subpath(output[0], parent=True),
    shell:
        command(
            "rule disturb-crops --settings {params.settings:q} {params.results:q} "
            "{input.faces:q} --out {params.out:q}",
            gpu=True,
        )


rule permute_labels:
    input:
        **TABLE.files(),
        code=USER_FILES,
    output:
        RESULTS.study("negative-control").control(),
    log:
        LOGS / "permute_labels/{task}.log",
    benchmark:
        RESULTS.timings / "permute_labels/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "control", "training", f"tasks.{wildcards.task}"
        ),
        table=subpath(input.rows, parent=True),
    shell:
        command(
            "rule permute-labels --settings {params.settings:q} {params.table:q} "
            "--out {output:q}"
        )


rule fine_tune:
    input:
        tables=EVERY_TABLE,
        faces=[faces_of(shard, CONFIG.encoder) for shard in SHARDS],
        weights=head_weights(),
        heads=expand(RESULTS.heads().weights, part=PARTS, allow_missing=True),
        listed=expand(RESULTS.heads().listed, part=PARTS, allow_missing=True),
        code=USER_FILES,
    output:
        RESULTS.study("fine-tuning").person_counts(),
    log:
        LOGS / "fine_tune/{task}.log",
    benchmark:
        RESULTS.timings / "fine_tune/{task}.tsv"
    conda:
        ENV
    resources:
        gpu=own_gpus(),
    params:
        settings=lambda wildcards: settings_json(CONFIG, "fine_tuning", "config"),
        results=RESULTS.folder,
    shell:
        command(
            "rule fine-tune --settings {params.settings:q} {wildcards.task:q} "
            "{params.results:q} {input.faces:q} --out {output:q}",
            gpu=True,
        )


rule slice_heads:
    input:
        tables=EVERY_TABLE,
        heads=expand(RESULTS.study("sharpness").heads(part=0).weights, task=TASKS),
        listed=expand(RESULTS.study("sharpness").heads(part=0).listed, task=TASKS),
    output:
        **RESULTS.study("loss-slices").files("page", "answer"),
    log:
        LOGS / "slice_heads.log",
    benchmark:
        RESULTS.timings / "slice_heads.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        study=lambda wildcards: STUDIES["sharpness"].study.model_dump_json(),
        results=RESULTS.folder,
        out=subpath(output.page, parent=True),
    shell:
        command(
            "rule slice-heads --settings {params.settings:q} {params.study:q} "
            "{params.results:q} --out {params.out:q}"
        )
