"""Fetch pinned weights.

in:  only the network (these rules run locally, because compute nodes are often offline)
out: assets/<name>/manifest.json and the asset's files, each verified by its sha256;
     assets/weights/<model>--<tag>/manifest.json for the weights of open_clip tags
"""


localrules:
    fetch_asset,
    fetch_weights,


rule fetch_asset:
    output:
        ASSETS / "{asset}/manifest.json",
    log:
        LOGS / "fetch_asset/{asset}.log",
    retries: 2
    conda:
        ENV
    params:
        out=subpath(output[0], parent=True),
    shell:
        command("rule fetch-asset {wildcards.asset:q} {params.out:q}")


rule fetch_weights:
    output:
        ASSETS / "weights/{model}--{tag}/manifest.json",
    log:
        LOGS / "fetch_weights/{model}--{tag}.log",
    wildcard_constraints:
        model=any_of(e.model for e in TAGGED),
        tag=any_of(e.tag for e in TAGGED),
    retries: 2
    conda:
        ENV
    shell:
        command("rule fetch-weights {wildcards.model:q} {wildcards.tag:q}")
