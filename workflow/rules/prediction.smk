"""Predict new videos with trained heads: `snakemake predict`, `snakemake model`.

in:  the videos that `prediction` names; a bundle, or this run's own heads
out: results/<run>/model, the bundle; results/<run>/prediction/, with a folder for each shard (and
     in it one for each video), a summary, and a page that links to those of the videos
"""

from clipaffect.dataset.inventory import states

PREDICTIONS = RESULTS.predictions
PREDICTION_SHARDS = shard_names(CONFIG.prediction.shards)


localrules:
    model,
    predict,


rule model:
    input:
        RESULTS.model.bundle,


rule predict:
    input:
        PREDICTIONS.page,


rule export_model:
    input:
        record=RESULTS.report.record,
        metrics=RESULTS.report.metrics,
        cards=expand(RESULTS.report.card(), task=TASKS),
        heads=EVERY_HEAD,
        listed=expand(RESULTS.heads().listed, task=TASKS, part=PARTS),
        choices=expand(RESULTS.postprocessing().choices, task=STEPPED),
        others=expand(RESULTS.postprocessing().heads, task=STEPPED),
        final=FINAL_HEADS,
        data=RESULTS.dataset.summary,
        frames=expand(RESULTS.frames(), shard=SHARDS),
        table=RESULTS.table(CONFIG.encoder, TASKS[0]).files().values(),
        code=USER_FILES,
    output:
        **RESULTS.model.files(),
        heads=expand(RESULTS.model.heads(), task=TASKS),
    log:
        LOGS / "export_model.log",
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "model"),
        results=RESULTS.folder,
        out=subpath(output.bundle, parent=True),
    shell:
        command("export-model {params.results:q} --out {params.out:q}")


rule find_videos:
    output:
        manifests=expand(PREDICTIONS.manifest(), shard=PREDICTION_SHARDS),
        listing=PREDICTIONS.listing,
    log:
        LOGS / "find_videos.log",
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "prediction", "prediction"),
        inventory=lambda wildcards: states(CONFIG.prediction.videos),
        out=subpath(output.listing, parent=True),
    shell:
        command("rule find-videos --settings {params.settings:q} --out {params.out:q}")


use rule extract_frames as index_videos with:
    input:
        manifest=PREDICTIONS.manifest(),
    output:
        PREDICTIONS.frames(),
    log:
        LOGS / "index_videos/{shard}.log",
    benchmark:
        RESULTS.timings / "index_videos/{shard}.tsv"


use rule align_faces as find_faces with:
    input:
        manifest=PREDICTIONS.manifest(),
        frames=PREDICTIONS.frames(),
        networks=ASSETS / "face-networks/manifest.json",
    output:
        PREDICTIONS.faces(),
    log:
        LOGS / "find_faces/{crop}/{shard}.log",
    benchmark:
        RESULTS.timings / "find_faces/{crop}/{shard}.tsv"
    params:
        settings=lambda wildcards: REQUEST.faces_settings(wildcards.crop),


use rule embed_faces as embed_videos with:
    input:
        manifest=PREDICTIONS.manifest(),
        faces=lambda wildcards: PREDICTIONS.faces(
            REQUEST.crop(wildcards.encoder), wildcards.shard
        ),
        weights=lambda wildcards: weights_of(REQUEST.encoders[wildcards.encoder]),
    output:
        PREDICTIONS.embeddings(),
    log:
        LOGS / "embed_videos/{encoder}/{shard}.log",
    benchmark:
        RESULTS.timings / "embed_videos/{encoder}/{shard}.tsv"
    wildcard_constraints:
        encoder=any_of(REQUEST.encoders),
    threads: lambda wildcards: embedding_threads(REQUEST.encoders[wildcards.encoder])
    resources:
        gpu=lambda wildcards: gpus_of(REQUEST.encoders[wildcards.encoder]),
    params:
        settings=lambda wildcards: REQUEST.encoder_settings(wildcards.encoder),


VIDEOS_EMBEDDED_TOGETHER = RESULTS.timings / "embed_videos_on_gpu/{encoder}.tsv"


ruleorder: embed_videos_on_gpu > embed_videos


use rule embed_on_gpu as embed_videos_on_gpu with:
    input:
        manifests=expand(PREDICTIONS.manifest(), shard=PREDICTION_SHARDS),
        faces=lambda wildcards: [
            PREDICTIONS.faces(REQUEST.crop(wildcards.encoder), own)
            for own in PREDICTION_SHARDS
        ],
        weights=lambda wildcards: weights_of(REQUEST.encoders[wildcards.encoder]),
    output:
        expand(PREDICTIONS.embeddings(), shard=PREDICTION_SHARDS, allow_missing=True),
    log:
        LOGS / "embed_videos_on_gpu/{encoder}.log",
    benchmark:
        VIDEOS_EMBEDDED_TOGETHER
    wildcard_constraints:
        encoder=any_of(
            together(
                REQUEST.encoders,
                PREDICTIONS.embeddings,
                PREDICTION_SHARDS,
                VIDEOS_EMBEDDED_TOGETHER,
            )
        ),
    threads: lambda wildcards: GPUS * embedding_threads(REQUEST.encoders[wildcards.encoder])
    params:
        settings=lambda wildcards: REQUEST.encoder_settings(wildcards.encoder),
        manifests=lambda wildcards, input: options("--manifest", input.manifests),
        out=subpath(output[0], parent=True),


rule predict_shard:
    input:
        model=REQUEST.model,
        manifest=PREDICTIONS.manifest(),
        faces=PREDICTIONS.faces(REQUEST.faces.crop),
        networks=(
            ASSETS / "face-networks/manifest.json"
            if CONFIG.prediction.landmarks
            else []
        ),
        embeddings=expand(
            PREDICTIONS.embeddings(), encoder=REQUEST.encoders, allow_missing=True
        ),
    output:
        directory(PREDICTIONS.shard()),
    log:
        LOGS / "predict_shard/{shard}.log",
    benchmark:
        RESULTS.timings / "predict_shard/{shard}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "prediction", "prediction"),
        embeddings=lambda wildcards, input: options("--embeddings", input.embeddings),
    shell:
        command(
            "rule predict-shard --settings {params.settings:q} {input.model:q} "
            "{input.manifest:q} {input.faces:q} {params.embeddings} --out {output:q}"
        )


rule list_predictions:
    input:
        model=REQUEST.model,
        listing=PREDICTIONS.listing,
        groups=CONFIG.prediction.groups or [],
        shards=expand(PREDICTIONS.shard(), shard=PREDICTION_SHARDS),
    output:
        **PREDICTIONS.files(
            "page", "summary", "columns", "all_frames", "all_frames_text", "people"
        ),
    log:
        LOGS / "list_predictions.log",
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "prediction", "prediction"),
        out=subpath(output.page, parent=True),
    shell:
        command(
            "rule list-predictions --settings {params.settings:q} {input.model:q} "
            "{input.listing:q} {input.shards:q} --out {params.out:q}"
        )
