"""From videos of faces to a macro-F1 report: expressions and action units, CVaR + SAM heads.

Call `snakemake --cores 8` (add `--use-conda` to let Snakemake build the environment). The default
configuration, config/config.yaml, is the demo; `--configfile FILE` takes another one instead of
it. Results go to results/<run>/, finished work to the store (paths.store).
"""

from snakemake.utils import min_version

min_version("9.0")

# A configuration stands alone: the default is read only where no other is named, so that its
# encoders and data never mix with a user's.
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
        # All of them: where a newer version of the workflow writes more, Snakemake sees that a
        # file is missing only if it is asked for.
        rules.build_report.output,
        RESULTS.timings / "index.html",
        SUBMISSIONS,


onsuccess:
    print(f"\nDone. Open {RESULTS.report.page} in a browser.\n")
