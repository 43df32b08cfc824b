"""Studies: additional heads on the run's own features, with a page for each question.

in:  config/studies/*.yaml, the tables and the references of the run
out: studies/index.html, and the heads, scores, tables and page of each study

`snakemake studies` builds them; nothing else depends on them.
"""

STUDY = RESULTS.study("{study}")
WIDE_STUDY = RESULTS.study("{wide}")
ON_ENCODER = WIDE_STUDY.on()


wildcard_constraints:
    study=any_of(GRIDS),
    wide=any_of(WIDE),
    transfer=any_of(TRANSFERS),


rule studies:
    input:
        RESULTS.studies_page,


# The longest jobs, whose features already exist: started first, so that none runs alone at the end.
use rule train_heads as train_study with:
    input:
        **TABLE.files(),
        code=lambda wildcards: study_files(wildcards.study),
    output:
        **STUDY.heads().files(),
    log:
        LOGS / "train_study/{study}/{task}/{part}.log",
    benchmark:
        RESULTS.timings / "train_study/{study}/{task}/{part}.tsv"
    priority: 1
    resources:
        gpu=lambda wildcards: training_gpus(STUDIES[wildcards.study].config),
    params:
        settings=lambda wildcards: study_settings(
            wildcards.study, "heads", wildcards.task, "training"
        ),
        table=subpath(input.rows, parent=True),
        out=subpath(output.weights, parent=True),
        timings=str(RESULTS.timings / "train_study/{study}/{task}/{part}.json"),


use rule evaluate_heads as evaluate_study with:
    input:
        **TABLE.files(),
        code=lambda wildcards: study_files(wildcards.study),
        heads=[STUDY.heads(part=0).weights],
        listed=[STUDY.heads(part=0).listed],
        history=[STUDY.heads(part=0).history],
        copies=RESULTS.copies(),
        references=expand(RESULTS.references(), encoder=SOURCES, allow_missing=True),
        fits=expand(RESULTS.reference_fits(), encoder=SOURCES, allow_missing=True),
    output:
        **STUDY.evaluation().files(*SCORED),
    log:
        LOGS / "evaluate_study/{study}/{task}.log",
    benchmark:
        RESULTS.timings / "evaluate_study/{study}/{task}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDIES[wildcards.study].config,
            "evaluation",
            *evaluated(CONFIG, wildcards.task),
        ),
        encoder=CONFIG.encoder,
        table=subpath(input.rows, parent=True),
        heads=lambda wildcards, input: options("--heads", input.heads),
        references=lambda wildcards, input: options("--reference", input.references),
        out=subpath(output.scores, parent=True),


use rule compare_heads as compare_study with:
    input:
        STUDY.evaluation().person_counts,
    output:
        **STUDY.evaluation().files(*COMPARED),
    log:
        LOGS / "compare_study/{study}/{task}.log",
    benchmark:
        RESULTS.timings / "compare_study/{study}/{task}.tsv"
    params:
        settings=lambda wildcards: study_settings(
            wildcards.study, "comparison", wildcards.task, "training", "evaluation"
        ),
        encoder=CONFIG.encoder,
        out=subpath(output.intervals, parent=True),


use rule write_submission as submit_own with:
    input:
        **TABLE.files(),
        test=RESULTS.dataset.test_frames(),
        embeddings=expand(
            RESULTS.embeddings(CONFIG.encoder), shard=SHARDS, allow_missing=True
        ),
        code=lambda wildcards: study_files(wildcards.study),
        heads=[STUDY.heads(part=0).weights],
        listed=[STUDY.heads(part=0).listed],
    output:
        **STUDY.submission().files(),
    log:
        LOGS / "submit_own/{study}/{task}.log",
    benchmark:
        RESULTS.timings / "submit_own/{study}/{task}.tsv"
    params:
        settings=lambda wildcards: study_settings(
            wildcards.study, "submission", wildcards.task, "training", "evaluation"
        ),
        table=subpath(input.rows, parent=True),
        heads=lambda wildcards, input: options("--heads", input.heads),
        embeddings=lambda wildcards, input: options("--embeddings", input.embeddings),
        encoder=CONFIG.encoder,
        entry=f"--variant {OWN}",
        out=subpath(output.predictions, parent=True),


rule write_study:
    input:
        submissions=lambda wildcards: expand(
            RESULTS.study(wildcards.study).submission().predictions,
            task=TEST_TASKS if STUDIES[wildcards.study].study.own else [],
        ),
        summary=RESULTS.dataset.summary,
        rows=expand(TABLE.rows, task=TASKS),
        features=expand(TABLE.features, task=TASKS),
        evaluated=lambda wildcards: [
            path
            for task in TASKS
            for path in RESULTS.study(wildcards.study)
            .evaluation(task)
            .files(*SCORED, *COMPARED)
            .values()
        ],
        steps=CHOSEN_STEPS,
    output:
        **STUDY.files("page", "answer"),
    log:
        LOGS / "write_study/{study}.log",
    benchmark:
        RESULTS.timings / "write_study/{study}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        name="{study}",
        study=lambda wildcards: STUDIES[wildcards.study].study.model_dump_json(),
        results=RESULTS.folder,
        out=subpath(output.page, parent=True),
    shell:
        command(
            "rule write-study --settings {params.settings:q} {params.name:q} {params.study:q} "
            "{params.results:q} --out {params.out:q}"
        )


use rule train_heads as train_wide with:
    input:
        **RESULTS.table().files(),
        code=lambda wildcards: study_files(wildcards.wide),
    output:
        **ON_ENCODER.heads().files(),
    log:
        LOGS / "train_wide/{wide}/{encoder}/{task}/{part}.log",
    benchmark:
        RESULTS.timings / "train_wide/{wide}/{encoder}/{task}/{part}.tsv"
    resources:
        gpu=lambda wildcards: training_gpus(STUDIES[wildcards.wide].config),
    params:
        settings=lambda wildcards: study_settings(
            wildcards.wide, "heads", wildcards.task, "training"
        ),
        table=subpath(input.rows, parent=True),
        out=subpath(output.weights, parent=True),
        timings=str(RESULTS.timings / "train_wide/{wide}/{encoder}/{task}/{part}.json"),


use rule evaluate_heads as evaluate_wide with:
    input:
        **RESULTS.table().files(),
        code=lambda wildcards: study_files(wildcards.wide),
        heads=[ON_ENCODER.heads(part=0).weights],
        listed=[ON_ENCODER.heads(part=0).listed],
        history=[ON_ENCODER.heads(part=0).history],
        copies=RESULTS.copies(),
        references=[],
    output:
        **ON_ENCODER.evaluation().files(*SCORED),
    log:
        LOGS / "evaluate_wide/{wide}/{encoder}/{task}.log",
    benchmark:
        RESULTS.timings / "evaluate_wide/{wide}/{encoder}/{task}.tsv"
    params:
        settings=lambda wildcards: study_settings(
            wildcards.wide, "evaluation", wildcards.task, "training", "evaluation"
        ),
        encoder="{encoder}",
        table=subpath(input.rows, parent=True),
        heads=lambda wildcards, input: options("--heads", input.heads),
        references="",
        out=subpath(output.scores, parent=True),


use rule write_study as write_wide with:
    input:
        summary=RESULTS.dataset.summary,
        tables=EVERY_TABLE,
        scores=lambda wildcards: [
            path
            for encoder in STUDIES[wildcards.wide].encoders()
            for task in TASKS
            for path in RESULTS.study(wildcards.wide)
            .on(encoder)
            .evaluation(task)
            .files("scores", "rows")
            .values()
        ],
    output:
        **WIDE_STUDY.files("page", "answer"),
    log:
        LOGS / "write_wide/{wide}.log",
    benchmark:
        RESULTS.timings / "write_wide/{wide}.tsv"
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        name="{wide}",
        study=lambda wildcards: STUDIES[wildcards.wide].study.model_dump_json(),
        results=RESULTS.folder,
        out=subpath(output.page, parent=True),


use rule write_study as write_transfer with:
    input:
        record=RESULTS.report.record,
        tables=EVERY_TABLE,
        embeddings=expand(RESULTS.embeddings(CONFIG.encoder), shard=SHARDS),
        heads=EVERY_HEAD,
        listed=expand(RESULTS.heads().listed, task=TASKS, part=PARTS),
        code=USER_FILES,
        others=lambda wildcards: records_of(STUDIES[wildcards.transfer].study.runs),
    output:
        **RESULTS.study("{transfer}").files("page", "answer"),
    log:
        LOGS / "write_transfer/{transfer}.log",
    benchmark:
        RESULTS.timings / "write_transfer/{transfer}.tsv"
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        name="{transfer}",
        study=lambda wildcards: STUDIES[wildcards.transfer].study.model_dump_json(),
        results=RESULTS.folder,
        out=subpath(output.page, parent=True),


rule list_studies:
    input:
        [RESULTS.study(name).answer for name in [*STUDIES, *CARDS]],
    output:
        RESULTS.studies_page,
    log:
        LOGS / "list_studies.log",
    benchmark:
        RESULTS.timings / "list_studies.tsv"
    conda:
        ENV
    params:
        run=CONFIG.run,
        wrong=json.dumps(STUDY_ERRORS),
    shell:
        command(
            "rule list-studies {params.run:q} {input:q} --wrong {params.wrong:q} --out "
            "{output:q}"
        )
