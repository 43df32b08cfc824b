"""Score heads and references.

in:  the tables and all parts of the grid
out: frame scores and metrics of each task, intervals and paired tests; the post-processing steps;
     predictions for its test frames
"""

SUBMISSIONS = [
    RESULTS.submission(task, entry).predictions
    for task in TEST_TASKS
    for entry in ("", *CONFIG.submission.entries)
]


rule fit_references:
    input:
        **RESULTS.table().files(),
        weights=prompt_weights,
    output:
        scores=RESULTS.references(),
        fits=RESULTS.reference_fits(),
    log:
        LOGS / "fit_references/{encoder}/{task}.log",
    benchmark:
        RESULTS.timings / "fit_references/{encoder}/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG,
            "references",
            "probe",
            "training_rows",
            "zero_shot",
            f"tasks.{wildcards.task}",
            *prompted(wildcards.encoder),
        ),
        table=subpath(input.rows, parent=True),
    shell:
        command(
            "rule fit-references --settings {params.settings:q} {wildcards.encoder:q} "
            "{params.table:q} --out {output.scores:q}"
        )


rule evaluate_heads:
    input:
        **TABLE.files(),
        code=USER_FILES,
        heads=expand(RESULTS.heads().weights, part=PARTS, allow_missing=True),
        listed=expand(RESULTS.heads().listed, part=PARTS, allow_missing=True),
        history=expand(RESULTS.heads().history, part=PARTS, allow_missing=True),
        copies=RESULTS.copies(),
        references=expand(RESULTS.references(), encoder=SOURCES, allow_missing=True),
        fits=expand(RESULTS.reference_fits(), encoder=SOURCES, allow_missing=True),
    output:
        **RESULTS.evaluation().files(*SCORED),
    log:
        LOGS / "evaluate_heads/{task}.log",
    benchmark:
        RESULTS.timings / "evaluate_heads/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "evaluation", *evaluated(CONFIG, wildcards.task)
        ),
        encoder=CONFIG.encoder,
        table=subpath(input.rows, parent=True),
        heads=lambda wildcards, input: options("--heads", input.heads),
        references=lambda wildcards, input: options("--reference", input.references),
        out=subpath(output.scores, parent=True),
    shell:
        command(
            "rule evaluate-heads --settings {params.settings:q} {params.encoder:q} "
            "{params.table:q} {params.heads} --copies {input.copies:q} {params.references} "
            "--out {params.out:q}"
        )


rule compare_heads:
    input:
        RESULTS.evaluation().person_counts,
    output:
        **RESULTS.evaluation().files(*COMPARED),
    log:
        LOGS / "compare_heads/{task}.log",
    benchmark:
        RESULTS.timings / "compare_heads/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "comparison", "training", "evaluation", f"tasks.{wildcards.task}"
        ),
        encoder=CONFIG.encoder,
        out=subpath(output.intervals, parent=True),
    shell:
        command(
            "rule compare-heads --settings {params.settings:q} {params.encoder:q} {input:q} "
            "--out {params.out:q}"
        )


rule measure_agreement:
    input:
        ratings=RESULTS.dataset.ratings(),
        scored=RESULTS.evaluation().rows,
    output:
        RESULTS.agreement(),
    log:
        LOGS / "measure_agreement/{task}.log",
    benchmark:
        RESULTS.timings / "measure_agreement/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "agreement", f"tasks.{wildcards.task}"
        ),
    shell:
        command(
            "rule measure-agreement --settings {params.settings:q} {input.ratings:q} "
            "{input.scored:q} --out {output:q}"
        )


rule postprocess_scores:
    input:
        **TABLE.files(),
        code=USER_FILES,
        scores=RESULTS.evaluation().scores,
        labels=RESULTS.evaluation().rows,
        others=OTHER_TABLES,
        other_features=OTHER_FEATURES,
    output:
        **RESULTS.postprocessing().files(),
    log:
        LOGS / "postprocess_scores/{task}.log",
    benchmark:
        RESULTS.timings / "postprocess_scores/{task}.tsv"
    conda:
        ENV
    resources:
        gpu=training_gpus(CONFIG),
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
        table=subpath(input.rows, parent=True),
        scored=subpath(input.scores, parent=True),
        others=lambda wildcards, input: options("--other", input.others),
        out=subpath(output.steps, parent=True),
    shell:
        command(
            "rule postprocess-scores --settings {params.settings:q} {params.encoder:q} "
            "{params.table:q} {params.scored:q} {params.others} --out {params.out:q}"
        )


rule write_submission:
    input:
        unpack(lambda wildcards: submitted(wildcards.task)),
        **TABLE.files(),
        test=RESULTS.dataset.test_frames(),
        code=USER_FILES,
        heads=expand(RESULTS.heads().weights, part=PARTS, allow_missing=True),
        listed=expand(RESULTS.heads().listed, part=PARTS, allow_missing=True),
    output:
        **RESULTS.submission().files(),
    log:
        LOGS / "write_submission/{task}.log",
    benchmark:
        RESULTS.timings / "write_submission/{task}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "submission", "training", "evaluation", f"tasks.{wildcards.task}"
        ),
        encoder=CONFIG.encoder,
        table=subpath(input.rows, parent=True),
        heads=lambda wildcards, input: options("--heads", input.heads),
        embeddings=lambda wildcards, input: options("--embeddings", input.embeddings),
        entry=lambda wildcards: entry_options(wildcards.task),
        out=subpath(output.predictions, parent=True),
    shell:
        command(
            "rule write-submission --settings {params.settings:q} {params.encoder:q} "
            "{input.test:q} {params.table:q} {params.heads} {params.embeddings} {params.entry} "
            "--out {params.out:q}"
        )


use rule write_submission as write_entry with:
    input:
        unpack(lambda wildcards: submitted(wildcards.task, wildcards.entry)),
        **TABLE.files(),
        test=RESULTS.dataset.test_frames(),
        code=USER_FILES,
        heads=expand(RESULTS.heads().weights, part=PARTS, allow_missing=True),
        listed=expand(RESULTS.heads().listed, part=PARTS, allow_missing=True),
    output:
        **RESULTS.submission(entry="{entry}").files(),
    log:
        LOGS / "write_entry/{task}/{entry}.log",
    benchmark:
        RESULTS.timings / "write_entry/{task}/{entry}.tsv"
    wildcard_constraints:
        entry=any_of(CONFIG.submission.entries),
    params:
        settings=lambda wildcards: settings_json(
            CONFIG, "submission", "training", "evaluation", f"tasks.{wildcards.task}"
        ),
        encoder=CONFIG.encoder,
        table=subpath(input.rows, parent=True),
        heads=lambda wildcards, input: options("--heads", input.heads),
        embeddings=lambda wildcards, input: options("--embeddings", input.embeddings),
        entry=lambda wildcards: entry_options(wildcards.task, wildcards.entry),
        out=subpath(output.predictions, parent=True),
