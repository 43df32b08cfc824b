"""Train the grid of heads, in parts.

in:  the table of the encoder that heads are trained on
out: for each task and part: the weights, one row for each head with its status, the history
"""


rule train_heads:
    input:
        **TABLE.files(),
        code=USER_FILES,
    output:
        **RESULTS.heads().files(),
    log:
        LOGS / "train_heads/{task}/{part}.log",
    benchmark:
        RESULTS.timings / "train_heads/{task}/{part}.tsv"
    conda:
        ENV
    resources:
        gpu=training_gpus(CONFIG),
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "heads", "training", f"tasks.{wildcards.task}"
        ),
        table=subpath(input.rows, parent=True),
        out=subpath(output.weights, parent=True),
        timings=str(RESULTS.timings / "train_heads/{task}/{part}.json"),
    shell:
        command(
            "rule train-heads --settings {params.settings:q} {params.table:q} "
            "{wildcards.part} --out {params.out:q} --timings {params.timings:q}"
        )
