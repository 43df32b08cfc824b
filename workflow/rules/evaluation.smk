"""Scores of heads and references.

in:  the tables, every part of the grid
out: frame scores and tidy metrics of each task
"""


rule fit_references:
    input:
        rows=RESULTS / "tables/{encoder}/{task}/rows.parquet",
        features=RESULTS / "tables/{encoder}/{task}/features.npy",
    output:
        RESULTS / "references/{encoder}/{task}.parquet",
    log:
        LOGS / "fit_references/{encoder}/{task}.log",
    benchmark:
        TIMINGS / "fit_references/{encoder}/{task}.tsv"
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "references", "probe"),
    shell:
        "clipaffect fit-references --settings {params.settings:q} {wildcards.task} "
        '{wildcards.encoder:q} "$(dirname {input.rows:q})" --out {output:q} > {log:q} 2>&1'


rule evaluate_heads:
    input:
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        code=CONFIG.training.user_files(),
        bundles=expand(RESULTS / "models/{{task}}/{part}/heads.safetensors", part=PARTS),
        references=expand(
            RESULTS / "references/{encoder}/{{task}}.parquet", encoder=CONFIG.encoders
        ),
    output:
        scores=RESULTS / "evaluation/{task}/scores.parquet",
        metrics=RESULTS / "evaluation/{task}/metrics.parquet",
        heads=RESULTS / "evaluation/{task}/heads.parquet",
    log:
        LOGS / "evaluate_heads/{task}.log",
    benchmark:
        TIMINGS / "evaluate_heads/{task}.tsv"
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "evaluation", "training"),
        encoder=CONFIG.encoder,
        bundles=lambda wildcards, input: " ".join(
            f"--bundle {shlex.quote(str(Path(path).parent))}" for path in input.bundles
        ),
        references=lambda wildcards, input: " ".join(
            f"--reference {shlex.quote(str(path))}" for path in input.references
        ),
    shell:
        "clipaffect evaluate-heads --settings {params.settings:q} {wildcards.task} "
        '{params.encoder:q} "$(dirname {input.rows:q})" {params.bundles} {params.references} '
        '--out "$(dirname {output.scores:q})" > {log:q} 2>&1'
