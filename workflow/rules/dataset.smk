"""The data set's index.

in:  the images, videos and labels that `data` names
out: a label-free manifest of each shard, the labels and test frames of each task, a summary
"""

from clipaffect.dataset.inventory import inventory


rule index_dataset:
    output:
        manifests=expand(RESULTS / "dataset/manifests/{shard}.parquet", shard=SHARDS),
        labels=expand(RESULTS / "dataset/labels/{task}.parquet", task=TASKS),
        test=expand(RESULTS / "dataset/test/{task}.parquet", task=TEST_TASKS),
        summary=RESULTS / "dataset/summary.json",
    log:
        LOGS / "index_dataset.log",
    benchmark:
        TIMINGS / "index_dataset.tsv"
    conda:
        ENV
    params:
        # A function: braces in a user's names are not for Snakemake to format.
        settings=lambda wildcards: settings_json(
            CONFIG, "dataset", "data", "tasks", "needs_images"
        ),
        # The files themselves would be thousands of inputs; any change to one changes this.
        inventory=lambda wildcards: inventory(
            CONFIG.data, list(CONFIG.tasks().values())
        ),
        folder=RESULTS / "dataset",
    shell:
        "clipaffect index-dataset --settings {params.settings:q} --out {params.folder:q} "
        "> {log:q} 2>&1"


rule extract_frames:
    input:
        manifest=RESULTS / "dataset/manifests/{shard}.parquet",
    output:
        RESULTS / "frames/{shard}.parquet",
    log:
        LOGS / "extract_frames/{shard}.log",
    benchmark:
        TIMINGS / "extract_frames/{shard}.tsv"
    # The first page waits for these alone: they go before the long jobs.
    priority: 100
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "frames"),
    shell:
        "clipaffect extract-frames {input.manifest:q} --out {output:q} "
        "> {log:q} 2>&1"
