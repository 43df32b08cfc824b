"""Pinned weights.

in:  nothing but the network (a local rule: compute nodes are often offline)
out: assets/<name>/manifest.json with the asset's files beside it, each verified by its sha256
"""


localrules:
    fetch_asset,


rule fetch_asset:
    output:
        ASSETS / "{asset}/manifest.json",
    log:
        LOGS / "fetch_asset/{asset}.log",
    retries: 2
    conda:
        ENV
    shell:
        'clipaffect fetch-asset {wildcards.asset:q} "$(dirname {output:q})" > {log:q} 2>&1'
