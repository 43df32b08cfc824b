"""Faces of a shard: detection, tracks, alignment, crops.

in:  the shard's manifest and frame index, the face networks
out: one row for each frame and annotated person, with status, box, points and crop; in a folder of
     its own where an encoder sees other crops than the run's
"""


rule align_faces:
    input:
        manifest=RESULTS / "dataset/manifests/{shard}.parquet",
        frames=RESULTS / "frames/{shard}.parquet",
        networks=(
            ASSETS / "face-networks/manifest.json"
            if CONFIG.data.searches_faces
            else []
        ),
    output:
        RESULTS / "faces/{shard}.parquet",
    log:
        LOGS / "align_faces/{shard}.log",
    benchmark:
        TIMINGS / "align_faces/{shard}.tsv"
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "detections", "faces"),
    shell:
        "clipaffect align-faces --settings {params.settings:q} {input.manifest:q} "
        "{input.frames:q} --out {output:q} > {log:q} 2>&1"


use rule align_faces as align_other_crops with:
    output:
        RESULTS / "faces/{crop}/{shard}.parquet",
    log:
        LOGS / "align_other_crops/{crop}/{shard}.log",
    benchmark:
        TIMINGS / "align_other_crops/{crop}/{shard}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            with_crop(wildcards.crop), "detections", "faces"
        ),
