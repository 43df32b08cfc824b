"""Train the grid of heads, in parts; and the heads that are handed on, on everybody.

in:  the table of the encoder that heads are trained on
out: for each task and part: the weights, one row for each head with its status, the history; for
     each task: the weights of the final heads
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


rule train_final_heads:
    input:
        **TABLE.files(),
        code=USER_FILES,
        others=OTHER_TABLES,
        other_features=OTHER_FEATURES,
        choices=[RESULTS.postprocessing().choices] if CONFIG.postprocess.steps else [],
    output:
        **RESULTS.final_heads().files(),
    log:
        LOGS / "train_final_heads/{task}.log",
    benchmark:
        RESULTS.timings / "train_final_heads/{task}.tsv"
    conda:
        ENV
    resources:
        gpu=training_gpus(CONFIG),
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "final", "training", f"tasks.{wildcards.task}"
        ),
        encoder=CONFIG.encoder,
        table=subpath(input.rows, parent=True),
        others=lambda wildcards, input: options("--other", input.others),
        choices=lambda wildcards, input: options("--choices", input.choices),
        out=subpath(output.weights, parent=True),
    shell:
        command(
            "rule train-final-heads --settings {params.settings:q} {params.encoder:q} "
            "{params.table:q} {params.others} {params.choices} --out {params.out:q}"
        )
