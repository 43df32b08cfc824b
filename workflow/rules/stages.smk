"""Targets for dvc.yaml: one for each stage, ending where the next stage begins."""


localrules:
    dataset_all,
    faces_all,
    embeddings_all,
    training_all,
    references_all,
    report_all,


rule dataset_all:
    input:
        expand(RESULTS.frames(), shard=SHARDS),


rule faces_all:
    input:
        expand(RESULTS.faces(), shard=SHARDS),
        [faces_of(shard, encoder) for encoder in CONFIG.encoders for shard in SHARDS],


rule embeddings_all:
    input:
        expand(RESULTS.table().rows, encoder=SOURCES, task=TASKS),
        expand(RESULTS.copies(), task=TASKS),


rule training_all:
    input:
        EVERY_HEAD,


rule references_all:
    input:
        expand(RESULTS.references(), encoder=SOURCES, task=TASKS),


rule report_all:
    input:
        # This page shows the whole configuration, which is a parameter of the last stage only.
        RESULTS.first_page,
        rules.build_report.output,
        FINAL_HEADS,
        SUBMISSIONS,
