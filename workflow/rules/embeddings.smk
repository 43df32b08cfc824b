"""Embeddings of a shard by one encoder, or features from elsewhere; tables for training.

in:  the shard's faces, or files of features; for a table, the labels and every shard
out: one row for each row of faces, with a float16 feature; one memory-mappable table for each
     encoder and task
"""


rule embed_faces:
    input:
        manifest=RESULTS / "dataset/manifests/{shard}.parquet",
        faces=lambda wildcards: faces_of(wildcards.shard, wildcards.encoder),
        weights=lambda wildcards: weights_of(EVERY.encoders[wildcards.encoder]),
    output:
        RESULTS / "embeddings/{encoder}/{shard}.parquet",
    log:
        LOGS / "embed_faces/{encoder}/{shard}.log",
    benchmark:
        TIMINGS / "embed_faces/{encoder}/{shard}.tsv"
    wildcard_constraints:
        encoder=any_of(EVERY.encoders),
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            EVERY, "embeddings", f"encoders.{wildcards.encoder}"
        ),
    shell:
        "clipaffect embed-faces --settings {params.settings:q} {input.manifest:q} "
        "{input.faces:q} --out {output:q} > {log:q} 2>&1"


rule import_features:
    input:
        labels=expand(RESULTS / "dataset/labels/{task}.parquet", task=TASKS),
        test=expand(RESULTS / "dataset/test/{task}.parquet", task=TEST_TASKS),
        files=lambda wildcards: CONFIG.features.files(wildcards.imported),
    output:
        shards=expand(RESULTS / "embeddings/{{imported}}/{shard}.parquet", shard=SHARDS),
        counts=RESULTS / "embeddings/{imported}/import.json",
    log:
        LOGS / "import_features/{imported}.log",
    benchmark:
        TIMINGS / "import_features/{imported}.tsv"
    wildcard_constraints:
        imported=any_of(IMPORTED),
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "imported", f"features.{wildcards.imported}"
        ),
        labels=lambda wildcards, input: options("--labels", input.labels),
        test=lambda wildcards, input: options("--test", input.test),
        shards=CONFIG.data.shards,
    shell:
        "clipaffect import-features --settings {params.settings:q} {params.labels} "
        '{params.test} --shards {params.shards} --out "$(dirname {output.counts:q})" > {log:q} 2>&1'


rule join_features:
    input:
        lambda wildcards: expand(
            RESULTS / "embeddings/{encoder}/{{shard}}.parquet",
            encoder=JOINED[wildcards.joined],
        ),
    output:
        RESULTS / "embeddings/{joined}/{shard}.parquet",
    log:
        LOGS / "join_features/{joined}/{shard}.log",
    benchmark:
        TIMINGS / "join_features/{joined}/{shard}.tsv"
    wildcard_constraints:
        joined=any_of(JOINED),
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "joined"),
    shell:
        "clipaffect join-features {input:q} --out {output:q} > {log:q} 2>&1"


rule build_table:
    input:
        labels=RESULTS / "dataset/labels/{task}.parquet",
        embeddings=expand(
            RESULTS / "embeddings/{{encoder}}/{shard}.parquet", shard=SHARDS
        ),
    output:
        rows=RESULTS / "tables/{encoder}/{task}/rows.parquet",
        features=RESULTS / "tables/{encoder}/{task}/features.npy",
    log:
        LOGS / "build_table/{encoder}/{task}.log",
    benchmark:
        TIMINGS / "build_table/{encoder}/{task}.tsv"
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "table"),
    shell:
        "clipaffect build-table {input.labels:q} {input.embeddings:q} "
        '--out "$(dirname {output.rows:q})" > {log:q} 2>&1'
