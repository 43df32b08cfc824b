"""Train and evaluate CVaR + SAM heads for facial expressions and action units in video.

Run `snakemake --cores 8` (add `--use-conda` to let Snakemake build the environment). The default
configuration, config/config.yaml, is the demo; `--configfile FILE` selects another one. Results are
written to results/<run>/, and finished work is cached in the work store (paths.store).
"""

from snakemake.utils import min_version

min_version("9.0")

# Configurations are never merged: the default is read only if no other is given, so that its
# encoders and data do not mix with those of a user.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/assets.smk"
include: "workflow/rules/dataset.smk"
include: "workflow/rules/faces.smk"
include: "workflow/rules/embeddings.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/cards.smk"
include: "workflow/rules/studies.smk"
include: "workflow/rules/prediction.smk"
include: "workflow/rules/stages.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        RESULTS.first_page,
        # All outputs, because after an update that adds an output, Snakemake notices a missing
        # file only if it is requested.
        rules.build_report.output,
        RESULTS.timings / "index.html",
        FINAL_HEADS,
        SUBMISSIONS,


onsuccess:
    print(f"\nDone. Open {RESULTS.report.page} in a browser.\n")
