"""Anybody's videos, answered by trained heads: `snakemake predict`, `snakemake model`.

in:  the videos that `prediction` names; a bundle, or this run's own heads
out: results/<run>/model, the bundle; results/<run>/prediction/, a folder for each shard with one for
     each video, a summary and a page that leads to every video's
"""

from clipaffect.dataset.inventory import states

PREDICTED = RESULTS / "prediction"
PREDICTION_SHARDS = shard_names(CONFIG.prediction.shards)


localrules:
    model,
    predict,


rule model:
    input:
        RESULTS / "model/bundle.json",


rule predict:
    input:
        PREDICTED / "index.html",


rule export_model:
    input:
        report=[
            RESULTS / "report" / name
            for name in ("run.json", "metrics.json", *(f"cards/{t}.md" for t in TASKS))
        ],
        heads=expand(
            RESULTS / "models/{task}/{part}/heads.{kind}",
            task=TASKS,
            part=PARTS,
            kind=["safetensors", "parquet"],
        ),
        steps=(
            expand(
                RESULTS / "postprocess/{task}/{file}",
                task=TASKS,
                file=["choices.json", "heads.safetensors"],
            )
            if CONFIG.postprocess.steps
            else []
        ),
    output:
        RESULTS / "model/bundle.json",
        RESULTS / "model/README.md",
        RESULTS / "model/preprocessing.json",
        expand(RESULTS / "model/heads/{task}.safetensors", task=TASKS),
    log:
        LOGS / "export_model.log",
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "model"),
        results=RESULTS,
        folder=RESULTS / "model",
    shell:
        "clipaffect export {params.results:q} --out {params.folder:q} > {log:q} 2>&1"


rule find_videos:
    output:
        manifests=expand(
            PREDICTED / "manifests/{shard}.parquet", shard=PREDICTION_SHARDS
        ),
        files=PREDICTED / "files.json",
    log:
        LOGS / "find_videos.log",
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "prediction", "prediction"),
        inventory=lambda wildcards: states(CONFIG.prediction.videos),
        folder=PREDICTED,
    shell:
        "clipaffect find-videos --settings {params.settings:q} --out {params.folder:q} "
        "> {log:q} 2>&1"


use rule extract_frames as index_videos with:
    input:
        manifest=PREDICTED / "manifests/{shard}.parquet",
    output:
        PREDICTED / "frames/{shard}.parquet",
    log:
        LOGS / "index_videos/{shard}.log",
    benchmark:
        TIMINGS / "index_videos/{shard}.tsv"


use rule align_faces as find_faces with:
    input:
        manifest=PREDICTED / "manifests/{shard}.parquet",
        frames=PREDICTED / "frames/{shard}.parquet",
        networks=ASSETS / "face-networks/manifest.json",
    output:
        PREDICTED / "faces/{crop}/{shard}.parquet",
    log:
        LOGS / "find_faces/{crop}/{shard}.log",
    benchmark:
        TIMINGS / "find_faces/{crop}/{shard}.tsv"
    params:
        settings=lambda wildcards: ASKED.faces_settings(wildcards.crop),


rule embed_videos:
    input:
        manifest=PREDICTED / "manifests/{shard}.parquet",
        faces=lambda wildcards: PREDICTED
        / f"faces/{ASKED.crop(wildcards.encoder)}/{wildcards.shard}.parquet",
        weights=lambda wildcards: weights_of(ASKED.encoders[wildcards.encoder]),
    output:
        PREDICTED / "embeddings/{encoder}/{shard}.parquet",
    log:
        LOGS / "embed_videos/{encoder}/{shard}.log",
    benchmark:
        TIMINGS / "embed_videos/{encoder}/{shard}.tsv"
    wildcard_constraints:
        encoder=any_of(ASKED.encoders),
    conda:
        ENV
    params:
        settings=lambda wildcards: ASKED.encoder_settings(wildcards.encoder),
    shell:
        "clipaffect embed-faces --settings {params.settings:q} {input.manifest:q} "
        "{input.faces:q} --out {output:q} > {log:q} 2>&1"


rule answer_shard:
    input:
        model=ASKED.model,
        manifest=PREDICTED / "manifests/{shard}.parquet",
        faces=PREDICTED / f"faces/{ASKED.faces.crop}" / "{shard}.parquet",
        embeddings=expand(
            PREDICTED / "embeddings/{encoder}/{{shard}}.parquet",
            encoder=ASKED.encoders,
        ),
    output:
        directory(PREDICTED / "{shard}"),
    log:
        LOGS / "answer_shard/{shard}.log",
    benchmark:
        TIMINGS / "answer_shard/{shard}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "prediction", "prediction"),
        embeddings=lambda wildcards, input: options("--embeddings", input.embeddings),
    shell:
        "clipaffect answer-shard --settings {params.settings:q} {input.model:q} "
        "{input.manifest:q} {input.faces:q} {params.embeddings} --out {output:q} > {log:q} 2>&1"


rule list_answers:
    input:
        model=ASKED.model,
        files=PREDICTED / "files.json",
        shards=expand(PREDICTED / "{shard}", shard=PREDICTION_SHARDS),
    output:
        page=PREDICTED / "index.html",
        summary=PREDICTED / "summary.csv",
        columns=PREDICTED / "columns.csv",
    log:
        LOGS / "list_answers.log",
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "prediction", "prediction"),
        folder=PREDICTED,
    shell:
        "clipaffect list-answers --settings {params.settings:q} {input.model:q} {input.files:q} "
        "{input.shards:q} --out {params.folder:q} > {log:q} 2>&1"
