"""Studies: further heads on the run's own features, each question with its page.

in:  config/studies/*.yaml, the tables and the references of the run
out: studies/index.html, and for each study its heads, scores, tables and page

`snakemake studies` makes them; nothing else depends on them.
"""

STUDY = RESULTS / "studies/{study}"
WIDE_HEADS = RESULTS / "studies/{wide}/on/{encoder}"


wildcard_constraints:
    study=any_of(GRIDS),
    wide=any_of(WIDE),
    transfer=any_of(TRANSFERS),


rule studies:
    input:
        RESULTS / "studies/index.html",


# The longest jobs, whose features are there: begun first, none of them runs on alone at the end.
use rule train_heads as train_study with:
    input:
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        code=lambda wildcards: STUDIES[wildcards.study].config.training.user_files(),
    output:
        weights=STUDY / "models/{task}/{part}/heads.safetensors",
        heads=STUDY / "models/{task}/{part}/heads.parquet",
        history=STUDY / "models/{task}/{part}/history.parquet",
    log:
        LOGS / "train_study/{study}/{task}/{part}.log",
    benchmark:
        TIMINGS / "train_study/{study}/{task}/{part}.tsv"
    priority: 1
    params:
        settings=lambda wildcards: settings_json(
            STUDIES[wildcards.study].config,
            "heads",
            "training",
            f"tasks.{wildcards.task}",
        ),
        timings=str(TIMINGS / "train_study/{study}/{task}/{part}.json"),


use rule evaluate_heads as evaluate_study with:
    input:
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        code=lambda wildcards: STUDIES[wildcards.study].config.training.user_files(),
        bundles=[STUDY / "models/{task}/0/heads.safetensors"],
        references=expand(
            RESULTS / "references/{encoder}/{{task}}.parquet", encoder=SOURCES
        ),
    output:
        scores=STUDY / "evaluation/{task}/scores.parquet",
        rows=STUDY / "evaluation/{task}/rows.parquet",
        metrics=STUDY / "evaluation/{task}/metrics.parquet",
        clusters=STUDY / "evaluation/{task}/clusters.parquet",
        heads=STUDY / "evaluation/{task}/heads.parquet",
        frames=STUDY / "evaluation/{task}/frames.json",
        source=STUDY / "evaluation/{task}/source.json",
    log:
        LOGS / "evaluate_study/{study}/{task}.log",
    benchmark:
        TIMINGS / "evaluate_study/{study}/{task}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDIES[wildcards.study].config,
            "evaluation",
            *evaluated(CONFIG, wildcards.task),
        ),
        encoder=CONFIG.encoder,
        bundles=lambda wildcards, input: options("--bundle", input.bundles, folder=True),
        references=lambda wildcards, input: options("--reference", input.references),


use rule compare_heads as compare_study with:
    input:
        STUDY / "evaluation/{task}/clusters.parquet",
    output:
        intervals=STUDY / "evaluation/{task}/intervals.parquet",
        comparisons=STUDY / "evaluation/{task}/comparisons.parquet",
        resolution=STUDY / "evaluation/{task}/resolution.json",
    log:
        LOGS / "compare_study/{study}/{task}.log",
    benchmark:
        TIMINGS / "compare_study/{study}/{task}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDIES[wildcards.study].config,
            "comparison",
            "training",
            "evaluation",
            f"tasks.{wildcards.task}",
        ),
        encoder=CONFIG.encoder,


use rule write_submission as submit_own with:
    input:
        test=RESULTS / "dataset/test/{task}.parquet",
        rows=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet",
        features=RESULTS / f"tables/{CONFIG.encoder}" / "{task}/features.npy",
        embeddings=expand(
            RESULTS / f"embeddings/{CONFIG.encoder}" / "{shard}.parquet", shard=SHARDS
        ),
        code=lambda wildcards: STUDIES[wildcards.study].config.training.user_files(),
        bundles=[STUDY / "models/{task}/0/heads.safetensors"],
    output:
        predictions=STUDY / "submission/{task}/predictions.txt",
        coverage=STUDY / "submission/{task}/coverage.json",
    log:
        LOGS / "submit_own/{study}/{task}.log",
    benchmark:
        TIMINGS / "submit_own/{study}/{task}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDIES[wildcards.study].config,
            "submission",
            "training",
            "evaluation",
            f"tasks.{wildcards.task}",
        ),
        bundles=lambda wildcards, input: options("--bundle", input.bundles, folder=True),
        embeddings=lambda wildcards, input: options("--embeddings", input.embeddings),
        variant=f"--variant {OWN}",


rule write_study:
    input:
        submissions=lambda wildcards: expand(
            RESULTS
            / f"studies/{wildcards.study}/submission"
            / "{task}/predictions.txt",
            task=TEST_TASKS if STUDIES[wildcards.study].study.own else [],
        ),
        summary=RESULTS / "dataset/summary.json",
        rows=expand(
            RESULTS / f"tables/{CONFIG.encoder}" / "{task}/rows.parquet", task=TASKS
        ),
        source=expand(
            STUDY / "evaluation/{task}/source.json", task=TASKS, allow_missing=True
        ),
        comparisons=expand(
            STUDY / "evaluation/{task}/comparisons.parquet",
            task=TASKS,
            allow_missing=True,
        ),
    output:
        page=STUDY / "index.html",
        answer=STUDY / "answer.json",
    log:
        LOGS / "write_study/{study}.log",
    benchmark:
        TIMINGS / "write_study/{study}.tsv"
    conda:
        ENV
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        name="{study}",
        study=lambda wildcards: STUDIES[wildcards.study].study.model_dump_json(),
        results=RESULTS,
    shell:
        "clipaffect study page --settings {params.settings:q} {params.name:q} "
        '{params.study:q} {params.results:q} --out "$(dirname {output.page:q})" '
        "> {log:q} 2>&1"


use rule train_heads as train_wide with:
    input:
        rows=RESULTS / "tables/{encoder}/{task}/rows.parquet",
        features=RESULTS / "tables/{encoder}/{task}/features.npy",
        code=lambda wildcards: STUDIES[wildcards.wide].config.training.user_files(),
    output:
        weights=WIDE_HEADS / "models/{task}/{part}/heads.safetensors",
        heads=WIDE_HEADS / "models/{task}/{part}/heads.parquet",
        history=WIDE_HEADS / "models/{task}/{part}/history.parquet",
    log:
        LOGS / "train_wide/{wide}/{encoder}/{task}/{part}.log",
    benchmark:
        TIMINGS / "train_wide/{wide}/{encoder}/{task}/{part}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDIES[wildcards.wide].config,
            "heads",
            "training",
            f"tasks.{wildcards.task}",
        ),
        timings=str(TIMINGS / "train_wide/{wide}/{encoder}/{task}/{part}.json"),


use rule evaluate_heads as evaluate_wide with:
    input:
        rows=RESULTS / "tables/{encoder}/{task}/rows.parquet",
        features=RESULTS / "tables/{encoder}/{task}/features.npy",
        code=lambda wildcards: STUDIES[wildcards.wide].config.training.user_files(),
        bundles=[WIDE_HEADS / "models/{task}/0/heads.safetensors"],
        references=[],
    output:
        scores=WIDE_HEADS / "evaluation/{task}/scores.parquet",
        rows=WIDE_HEADS / "evaluation/{task}/rows.parquet",
        metrics=WIDE_HEADS / "evaluation/{task}/metrics.parquet",
        clusters=WIDE_HEADS / "evaluation/{task}/clusters.parquet",
        heads=WIDE_HEADS / "evaluation/{task}/heads.parquet",
        frames=WIDE_HEADS / "evaluation/{task}/frames.json",
        source=WIDE_HEADS / "evaluation/{task}/source.json",
    log:
        LOGS / "evaluate_wide/{wide}/{encoder}/{task}.log",
    benchmark:
        TIMINGS / "evaluate_wide/{wide}/{encoder}/{task}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            STUDIES[wildcards.wide].config,
            "evaluation",
            "training",
            "evaluation",
            f"tasks.{wildcards.task}",
        ),
        encoder="{encoder}",
        bundles=lambda wildcards, input: options("--bundle", input.bundles, folder=True),
        references="",


use rule write_study as write_wide with:
    input:
        summary=RESULTS / "dataset/summary.json",
        rows=TABLES_OF_TASKS,
        scores=lambda wildcards: expand(
            RESULTS / "studies/{wide}/on/{encoder}/evaluation/{task}/scores.parquet",
            wide=wildcards.wide,
            encoder=STUDIES[wildcards.wide].encoders(),
            task=TASKS,
        ),
    output:
        page=RESULTS / "studies/{wide}/index.html",
        answer=RESULTS / "studies/{wide}/answer.json",
    log:
        LOGS / "write_wide/{wide}.log",
    benchmark:
        TIMINGS / "write_wide/{wide}.tsv"
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        name="{wide}",
        study=lambda wildcards: STUDIES[wildcards.wide].study.model_dump_json(),
        results=RESULTS,


use rule write_study as write_transfer with:
    input:
        record=RESULTS / "report/run.json",
        tables=TABLES_OF_TASKS,
        bundles=expand(
            RESULTS / "models/{task}/{part}/heads.safetensors", task=TASKS, part=PARTS
        ),
        code=CONFIG.training.user_files(),
        others=lambda wildcards: records_of(STUDIES[wildcards.transfer].study.runs),
    output:
        page=RESULTS / "studies/{transfer}/index.html",
        answer=RESULTS / "studies/{transfer}/answer.json",
    log:
        LOGS / "write_transfer/{transfer}.log",
    benchmark:
        TIMINGS / "write_transfer/{transfer}.tsv"
    params:
        settings=lambda wildcards: settings_json(CONFIG, "report", "config"),
        name="{transfer}",
        study=lambda wildcards: STUDIES[wildcards.transfer].study.model_dump_json(),
        results=RESULTS,


rule list_studies:
    input:
        expand(RESULTS / "studies/{name}/answer.json", name=[*STUDIES, *CARDS]),
    output:
        RESULTS / "studies/index.html",
    log:
        LOGS / "list_studies.log",
    benchmark:
        TIMINGS / "list_studies.tsv"
    conda:
        ENV
    params:
        run=CONFIG.run,
        wrong=json.dumps(STUDY_ERRORS),
    shell:
        "clipaffect study index {params.run:q} {input:q} --wrong {params.wrong:q} "
        "--out {output:q} > {log:q} 2>&1"
