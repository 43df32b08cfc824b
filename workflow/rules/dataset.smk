"""Index the data set.

in:  the images, videos and labels that `data` names
out: a label-free manifest of each shard, the labels and test frames of each task, a summary
"""

from clipaffect.dataset.inventory import inventory


rule index_dataset:
    output:
        manifests=expand(RESULTS.dataset.manifest(), shard=SHARDS),
        labels=expand(RESULTS.dataset.labels(), task=TASKS),
        test=expand(RESULTS.dataset.test_frames(), task=TEST_TASKS),
        ratings=expand(RESULTS.dataset.ratings(), task=RATED_TASKS),
        summary=RESULTS.dataset.summary,
    log:
        LOGS / "index_dataset.log",
    benchmark:
        RESULTS.timings / "index_dataset.tsv"
    conda:
        ENV
    params:
        # A function, so that Snakemake does not format braces in user-given names.
        settings=lambda wildcards: settings_json(
            CONFIG, "dataset", "data", "tasks", "needs_images"
        ),
        # The files would be thousands of inputs; instead, any change to a file changes this digest.
        inventory=lambda wildcards: inventory(
            CONFIG.data, list(CONFIG.tasks().values())
        ),
        out=subpath(output.summary, parent=True),
    shell:
        command(
            "rule index-dataset --settings {params.settings:q} --out {params.out:q}"
        )


rule extract_frames:
    input:
        manifest=RESULTS.dataset.manifest(),
    output:
        RESULTS.frames(),
    log:
        LOGS / "extract_frames/{shard}.log",
    benchmark:
        RESULTS.timings / "extract_frames/{shard}.tsv"
    # The first page waits only for these, so they run before the long jobs.
    priority: 100
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "frames"),
    shell:
        command("rule extract-frames {input.manifest:q} --out {output:q}")
