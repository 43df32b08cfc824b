"""Embed the shards with an encoder or import features, and build the training tables.

in:  the shard's faces, or feature files; for a table, the labels and all shards
out: one row for each row of faces, with a float16 feature; one memory-mappable table for each
     encoder and task
"""


rule embed_faces:
    input:
        manifest=RESULTS.dataset.manifest(),
        faces=lambda wildcards: faces_of(wildcards.shard, wildcards.encoder),
        weights=lambda wildcards: weights_of(EVERY.encoders[wildcards.encoder]),
    output:
        RESULTS.embeddings(),
    log:
        LOGS / "embed_faces/{encoder}/{shard}.log",
    benchmark:
        RESULTS.timings / "embed_faces/{encoder}/{shard}.tsv"
    wildcard_constraints:
        encoder=any_of(EVERY.encoders),
    conda:
        ENV
    threads: lambda wildcards: embedding_threads(EVERY.encoders[wildcards.encoder])
    resources:
        gpu=lambda wildcards: gpus_of(EVERY.encoders[wildcards.encoder]),
    params:
        settings=lambda wildcards: settings_json(
            EVERY, "embeddings", f"encoders.{wildcards.encoder}"
        ),
    shell:
        command(
            "rule embed-faces --settings {params.settings:q} {input.manifest:q} "
            "{input.faces:q} --out {output:q}",
            gpu=True,
        )


EMBEDDED_TOGETHER = RESULTS.timings / "embed_on_gpu/{encoder}.tsv"


ruleorder: embed_on_gpu > embed_faces


# On a machine with GPUs: one job, with a process for each GPU.
rule embed_on_gpu:
    input:
        manifests=expand(RESULTS.dataset.manifest(), shard=SHARDS),
        faces=lambda wildcards: [faces_of(own, wildcards.encoder) for own in SHARDS],
        weights=lambda wildcards: weights_of(EVERY.encoders[wildcards.encoder]),
    output:
        expand(RESULTS.embeddings(), shard=SHARDS, allow_missing=True),
    log:
        LOGS / "embed_on_gpu/{encoder}.log",
    benchmark:
        EMBEDDED_TOGETHER
    wildcard_constraints:
        encoder=any_of(
            together(EVERY.encoders, RESULTS.embeddings, SHARDS, EMBEDDED_TOGETHER)
        ),
    conda:
        ENV
    threads: lambda wildcards: GPUS * embedding_threads(EVERY.encoders[wildcards.encoder])
    resources:
        gpu=GPUS,
    params:
        settings=lambda wildcards: settings_json(
            EVERY, "embeddings", f"encoders.{wildcards.encoder}"
        ),
        manifests=lambda wildcards, input: options("--manifest", input.manifests),
        out=subpath(output[0], parent=True),
    shell:
        command(
            "rule embed-on-gpu --settings {params.settings:q} {params.manifests} "
            "{input.faces:q} --gpus {resources.gpu} --out {params.out:q}",
            gpu=True,
        )


rule import_features:
    input:
        labels=expand(RESULTS.dataset.labels(), task=TASKS),
        test=expand(RESULTS.dataset.test_frames(), task=TEST_TASKS),
        files=lambda wildcards: CONFIG.features.files(wildcards.imported),
    output:
        shards=expand(
            RESULTS.embeddings("{imported}"), shard=SHARDS, allow_missing=True
        ),
        counts=RESULTS.import_counts("{imported}"),
    log:
        LOGS / "import_features/{imported}.log",
    benchmark:
        RESULTS.timings / "import_features/{imported}.tsv"
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
        out=subpath(output.counts, parent=True),
    shell:
        command(
            "rule import-features --settings {params.settings:q} {params.labels} "
            "{params.test} --shards {params.shards} --out {params.out:q}"
        )


rule join_features:
    input:
        lambda wildcards: expand(
            RESULTS.embeddings(),
            encoder=JOINED[wildcards.joined],
            shard=wildcards.shard,
        ),
    output:
        RESULTS.embeddings("{joined}"),
    log:
        LOGS / "join_features/{joined}/{shard}.log",
    benchmark:
        RESULTS.timings / "join_features/{joined}/{shard}.tsv"
    wildcard_constraints:
        joined=any_of(JOINED),
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "joined"),
    shell:
        command("rule join-features {input:q} --out {output:q}")


rule build_table:
    input:
        labels=RESULTS.dataset.labels(),
        embeddings=expand(RESULTS.embeddings(), shard=SHARDS, allow_missing=True),
    output:
        **RESULTS.table().files(),
    log:
        LOGS / "build_table/{encoder}/{task}.log",
    benchmark:
        RESULTS.timings / "build_table/{encoder}/{task}.tsv"
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "table"),
        out=subpath(output.rows, parent=True),
    shell:
        command(
            "rule build-table {input.labels:q} {input.embeddings:q} --out {params.out:q}"
        )


# Only what an encoder has looked at has crops.
LOOKS = any(
    own in EVERY.encoders for own in JOINED.get(CONFIG.encoder, [CONFIG.encoder])
)


rule find_copies:
    input:
        tables=EVERY_TABLE,
        faces=[faces_of(shard, CONFIG.encoder) for shard in SHARDS if LOOKS],
    output:
        expand(RESULTS.copies(), task=TASKS),
    log:
        LOGS / "find_copies.log",
    benchmark:
        RESULTS.timings / "find_copies.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "copies", "near_copies"),
        tables=[RESULTS.table(CONFIG.encoder, task).folder for task in TASKS],
        faces=lambda wildcards, input: options("--faces", input.faces),
        out=lambda wildcards, output: options("--out", output),
    shell:
        command(
            "rule find-copies --settings {params.settings:q} {params.tables:q} "
            "{params.faces} {params.out}"
        )
