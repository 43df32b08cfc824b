"""Detect, track, align and crop the faces of a shard.

in:  the shard's manifest and frame index, the face networks
out: one row for each frame and annotated person, with status, box, landmarks and crop; in a
     separate folder for encoders that use other crops than the run
"""


rule align_faces:
    input:
        manifest=RESULTS.dataset.manifest(),
        frames=RESULTS.frames(),
        networks=(
            ASSETS / "face-networks/manifest.json"
            if CONFIG.data.searches_faces
            else []
        ),
    output:
        RESULTS.faces(),
    log:
        LOGS / "align_faces/{shard}.log",
    benchmark:
        RESULTS.timings / "align_faces/{shard}.tsv"
    conda:
        ENV
    params:
        settings=settings_json(CONFIG, "detections", "faces"),
    shell:
        command(
            "rule align-faces --settings {params.settings:q} {input.manifest:q} "
            "{input.frames:q} --out {output:q}"
        )


use rule align_faces as align_other_crops with:
    output:
        RESULTS.faces(crop="{crop}"),
    log:
        LOGS / "align_other_crops/{crop}/{shard}.log",
    benchmark:
        RESULTS.timings / "align_other_crops/{crop}/{shard}.tsv"
    params:
        settings=lambda wildcards: settings_json(
            with_crop(wildcards.crop), "detections", "faces"
        ),
