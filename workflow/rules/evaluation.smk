"""Scores of heads and references.

in:  the tables, every part of the grid
out: frame scores and tidy metrics of each task, intervals and paired tests; predictions of its
     test frames
"""


rule fit_references:
    input:
        rows=RESULTS / "tables/{encoder}/{task}/rows.parquet",
        features=RESULTS / "tables/{encoder}/{task}/features.npy",
        weights=prompt_weights,
    output:
        RESULTS / "references/{encoder}/{task}.parquet",
    log:
        LOGS / "fit_references/{encoder}/{task}.log",
    benchmark:
        TIMINGS / "fit_references/{encoder}/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG,
            "references",
            "probe",
            "zero_shot",
            f"tasks.{wildcards.task}",
            *prompted(wildcards.encoder),
        ),
    shell:
        "clipaffect fit-references --settings {params.settings:q} "
        '{wildcards.encoder:q} "$(dirname {input.rows:q})" --out {output:q} > {log:q} 2>&1'


rule evaluate_heads:
    input:
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        code=CONFIG.training.user_files(),
        bundles=expand(RESULTS / "models/{{task}}/{part}/heads.safetensors", part=PARTS),
        references=expand(
            RESULTS / "references/{encoder}/{{task}}.parquet", encoder=SOURCES
        ),
    output:
        scores=RESULTS / "evaluation/{task}/scores.parquet",
        rows=RESULTS / "evaluation/{task}/rows.parquet",
        metrics=RESULTS / "evaluation/{task}/metrics.parquet",
        clusters=RESULTS / "evaluation/{task}/clusters.parquet",
        heads=RESULTS / "evaluation/{task}/heads.parquet",
        frames=RESULTS / "evaluation/{task}/frames.json",
        source=RESULTS / "evaluation/{task}/source.json",
    log:
        LOGS / "evaluate_heads/{task}.log",
    benchmark:
        TIMINGS / "evaluate_heads/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "evaluation", *evaluated(CONFIG, wildcards.task)
        ),
        encoder=CONFIG.encoder,
        bundles=lambda wildcards, input: options("--bundle", input.bundles, folder=True),
        references=lambda wildcards, input: options("--reference", input.references),
    shell:
        "clipaffect evaluate-heads --settings {params.settings:q} "
        '{params.encoder:q} "$(dirname {input.rows:q})" {params.bundles} {params.references} '
        '--out "$(dirname {output.scores:q})" > {log:q} 2>&1'


rule compare_heads:
    input:
        RESULTS / "evaluation/{task}/clusters.parquet",
    output:
        intervals=RESULTS / "evaluation/{task}/intervals.parquet",
        comparisons=RESULTS / "evaluation/{task}/comparisons.parquet",
        resolution=RESULTS / "evaluation/{task}/resolution.json",
    log:
        LOGS / "compare_heads/{task}.log",
    benchmark:
        TIMINGS / "compare_heads/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "comparison", "training", "evaluation", f"tasks.{wildcards.task}"
        ),
        encoder=CONFIG.encoder,
    shell:
        "clipaffect compare-heads --settings {params.settings:q} {params.encoder:q} {input:q} "
        '--out "$(dirname {output.intervals:q})" > {log:q} 2>&1'


rule postprocess_scores:
    input:
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        code=CONFIG.training.user_files(),
        scores=RESULTS / "evaluation/{task}/scores.parquet",
        labels=RESULTS / "evaluation/{task}/rows.parquet",
        others=expand(
            RESULTS / "tables/{encoder}/{{task}}/rows.parquet",
            encoder=CONFIG.postprocess.encoders,
        ),
        other_features=expand(
            RESULTS / "tables/{encoder}/{{task}}/features.npy",
            encoder=CONFIG.postprocess.encoders,
        ),
    output:
        steps=RESULTS / "postprocess/{task}/steps.parquet",
        choices=RESULTS / "postprocess/{task}/choices.json",
        scores=RESULTS / "postprocess/{task}/scores.parquet",
        cross=RESULTS / "postprocess/{task}/cross.parquet",
        heads=RESULTS / "postprocess/{task}/heads.safetensors",
    log:
        LOGS / "postprocess_scores/{task}.log",
    benchmark:
        TIMINGS / "postprocess_scores/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG,
            "postprocess",
            "postprocess",
            "training",
            "evaluation",
            f"tasks.{wildcards.task}",
        ),
        encoder=CONFIG.encoder,
        others=lambda wildcards, input: options("--other", input.others, folder=True),
    shell:
        "clipaffect postprocess-scores --settings {params.settings:q} {params.encoder:q} "
        '"$(dirname {input.rows:q})" "$(dirname {input.scores:q})" {params.others} '
        '--out "$(dirname {output.steps:q})" > {log:q} 2>&1'


rule write_submission:
    input:
        test=RESULTS / "dataset/test/{task}.parquet",
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        embeddings=expand(
            RESULTS / f"embeddings/{CONFIG.encoder}" / "{shard}.parquet", shard=SHARDS
        ),
        code=CONFIG.training.user_files(),
        bundles=expand(RESULTS / "models/{{task}}/{part}/heads.safetensors", part=PARTS),
    output:
        predictions=RESULTS / "submission/{task}/predictions.txt",
        coverage=RESULTS / "submission/{task}/coverage.json",
    log:
        LOGS / "write_submission/{task}.log",
    benchmark:
        TIMINGS / "write_submission/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "submission", "training", "evaluation", f"tasks.{wildcards.task}"
        ),
        bundles=lambda wildcards, input: options("--bundle", input.bundles, folder=True),
        embeddings=lambda wildcards, input: options("--embeddings", input.embeddings),
        variant="",
    shell:
        "clipaffect write-submission --settings {params.settings:q} "
        '{input.test:q} "$(dirname {input.rows:q})" {params.bundles} {params.embeddings} '
        "{params.variant} "
        '--out "$(dirname {output.predictions:q})" > {log:q} 2>&1'
