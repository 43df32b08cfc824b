"""The grid of heads, in parts.

in:  the table of the encoder that heads are trained on
out: for each task and part, a bundle: weights, one row a head with its status, the history
"""


rule train_heads:
    input:
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        code=CONFIG.training.user_files(),
    output:
        weights=RESULTS / "models/{task}/{part}/heads.safetensors",
        heads=RESULTS / "models/{task}/{part}/heads.parquet",
        history=RESULTS / "models/{task}/{part}/history.parquet",
    log:
        LOGS / "train_heads/{task}/{part}.log",
    benchmark:
        TIMINGS / "train_heads/{task}/{part}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "heads", "training", f"tasks.{wildcards.task}"
        ),
        timings=str(TIMINGS / "train_heads/{task}/{part}.json"),
    shell:
        "clipaffect train-heads --settings {params.settings:q} "
        '"$(dirname {input.rows:q})" {wildcards.part} '
        '--out "$(dirname {output.weights:q})" --timings {params.timings:q} > {log:q} 2>&1'
