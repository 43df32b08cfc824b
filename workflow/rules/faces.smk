"""Faces of a shard: detection, tracks, alignment, crops.

in:  the shard's manifest and frame index, the face networks
out: one row for each frame and annotated person, with status, box, points and crop
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
