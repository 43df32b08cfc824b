"""Definitions shared by all rules: the validated configuration, paths, and the Python command."""

import json
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

VERSION = "0.1.0"
CHECKOUT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
# When used as a module of another workflow, the rules use the installed package and have no side
# effects outside of it.
STANDALONE = Path(workflow.basedir).resolve() == CHECKOUT.resolve()
if STANDALONE:
    sys.path.insert(0, str(CHECKOUT / "src"))

try:
    import clipaffect
except ModuleNotFoundError:
    raise WorkflowError(
        f"the rules of clipaffect {VERSION} need its Python package, which is not installed\n"
        f"  fix: pip install {CHECKOUT}"
    )
if clipaffect.__version__ != VERSION:
    raise WorkflowError(
        f"the rules are from clipaffect {VERSION}, but the package is {clipaffect.__version__}\n"
        f"  where: {Path(clipaffect.__file__).parent}\n"
        f"  fix: pip install {CHECKOUT}, or use the snakefile of {clipaffect.__version__}"
    )

from clipaffect.config import parse_config
from clipaffect.config.encoders import weights_folder
from clipaffect.config.stage_keys import evaluated, settings_json, shard_names
from clipaffect.config.studies import OWN, usable_studies
from clipaffect.core.assets import known_assets
from clipaffect.core.errors import UserError
from clipaffect.core.layout import Layout
from clipaffect.core.local_gpus import local_gpus
from clipaffect.prediction.request import prediction_request

if STANDALONE:
    import snakemake_executor_plugin_slurm
    from clipaffect.ops import slurm_executor

    # Only needed on a cluster, but the executor is not known here.
    if slurm_executor.needs_correction():
        slurm_executor.correct(snakemake_executor_plugin_slurm)

try:
    CONFIG = parse_config(
        config, ", ".join(map(str, workflow.configfiles)) or "--config"
    )
    # The model and the settings of `snakemake predict`, known before any job runs.
    REQUEST = prediction_request(CONFIG)
    GPUS = local_gpus(own_torch=CONFIG.environment == "cpu")
except UserError as error:
    raise WorkflowError(str(error))

RESULTS = Layout(Path("results") / CONFIG.run)
LOGS = Path("logs") / CONFIG.run
ASSETS = Path(CONFIG.paths.assets)
SHARDS = shard_names(CONFIG.data.shards)
TASKS = list(CONFIG.tasks())
RATED_TASKS = TASKS if CONFIG.data.has_raters else []
TEST_TASKS = [task for task in TASKS if task in CONFIG.data.test]
# The features that heads and probes are trained on: embeddings of an encoder, or imported ones.
SOURCES = CONFIG.feature_names()
IMPORTED = CONFIG.features.imported
JOINED = CONFIG.features.join
PARTS = range(CONFIG.training.parts)
USER_FILES = CONFIG.training.user_files()
# The table of the encoder that heads are trained on.
TABLE = RESULTS.table(CONFIG.encoder)
EVERY_TABLE = [
    path
    for task in TASKS
    for path in RESULTS.table(CONFIG.encoder, task).files().values()
]
# Of the encoders whose heads' scores may be averaged with the run's own.
OTHER_TABLES, OTHER_FEATURES = (
    expand(path, encoder=CONFIG.postprocess.encoders, allow_missing=True)
    for path in RESULTS.table().files().values()
)
FINAL_HEADS = [
    RESULTS.final_heads(task).weights for task in TASKS if CONFIG.trains_final_heads
]
EVERY_HEAD = [RESULTS.heads(task, part).weights for task in TASKS for part in PARTS]
SCORED = (
    "scores",
    "rows",
    "metrics",
    "person_counts",
    "heads",
    "reference_fits",
    "frames",
    "provenance",
)
COMPARED = ("intervals", "comparisons", "resolution")
ENV = f"../envs/{CONFIG.environment}.yaml"


# In a conda job, `python` is that of the environment. Otherwise it is the one that runs Snakemake,
# whether or not its environment is activated.
IN_CONDA = any(
    method.name == "CONDA" for method in workflow.deployment_settings.deployment_method
)
# Conda environments do not contain the package itself. Each job uses one thread: results are then
# identical under any load, and many parallel jobs use the cores better.
CLIPAFFECT = shlex.join(
    [
        "env",
        *(
            [f"PYTHONPATH={(CHECKOUT / 'src').resolve()}"]
            if STANDALONE or IN_CONDA
            else []
        ),
        "PYTHONUNBUFFERED=1",
        f"CLIPAFFECT_STORE={CONFIG.paths.store}",
        f"CLIPAFFECT_ASSETS={CONFIG.paths.assets}",
        f"CLIPAFFECT_SCRATCH={CONFIG.paths.scratch or ''}",
        "OMP_NUM_THREADS=1",
        "OPENBLAS_NUM_THREADS=1",
        "MKL_NUM_THREADS=1",
        "python" if IN_CONDA else sys.executable,
        "-m",
        "clipaffect",
    ]
)


def command(arguments, *, gpu=False):
    """The command line for `shell`, with its output redirected to the job's log.

    With `gpu`, the job knows how many GPUs it was given, and does without them only if it was none.
    """
    # Snakemake formats text in braces.
    program = CLIPAFFECT.replace("{", "{{").replace("}", "}}")
    given = "CLIPAFFECT_GPUS_OF_JOB={resources.gpu} " if gpu else ""
    return f"{given}{program} {arguments} > {{log:q}} 2>&1"


def options(name, paths):
    """Command-line options, one for each path."""
    return " ".join(f"{name} {shlex.quote(str(path))}" for path in paths)


def submitted(task, entry=""):
    """The inputs that depend on what predicts an entry: embeddings, steps, final heads."""
    _, final, steps = CONFIG.submission_entry(entry)
    encoders = [CONFIG.encoder, *(CONFIG.postprocess.encoders if steps else ())]
    stepped = RESULTS.postprocessing(task).files("choices", "heads") if steps else {}
    return {
        "embeddings": [
            RESULTS.embeddings(encoder, shard)
            for encoder in encoders
            for shard in SHARDS
        ],
        "steps": list(stepped.values()),
        "final": [RESULTS.final_heads(task).weights] if final else [],
    }


def entry_options(task, entry=""):
    """What predicts an entry of the submission, for the command."""
    chosen, final, steps = CONFIG.submission_entry(entry)
    found = {
        "--variant": [chosen.variant] if chosen.variant else [],
        "--alpha": [] if chosen.alpha is None else [chosen.alpha],
        "--postprocessing": [RESULTS.postprocessing(task).folder] if steps else [],
        "--final": [RESULTS.final_heads(task).folder] if final else [],
    }
    return " ".join(options(name, values) for name, values in found.items())


def any_of(names):
    """A regular expression that matches any of some names, or nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def faces_of(shard, encoder):
    """The faces of a shard that an encoder sees."""
    entry = EVERY.encoders.get(encoder)
    crop = None if entry is None else entry.crop
    return RESULTS.faces(shard, "" if crop in (None, CONFIG.faces.crop) else crop)


def records_of(runs):
    """The existing records of other runs; only the job that needs a missing one fails."""
    paths = [Layout(Path("results") / run).report.record for run in runs]
    return [path for path in paths if path.exists()]


# A job never waits for a GPU on cores: on this machine Snakemake starts as many as there are GPUs.
if GPUS and workflow.is_main_process and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPUS)


def gpus_of(encoder):
    """The GPUs of a job that runs an encoder: those of `environment: cuda`, or of this machine."""
    return int(encoder.kind != "pixels" and (CONFIG.environment == "cuda" or GPUS > 0))


def embedding_threads(encoder):
    """One on a CPU, whose network shares it with the loader; on a GPU those of the loader."""
    return 1 + encoder.workers if gpus_of(encoder) else 1


def own_gpus():
    """The GPUs of a job that runs the encoder of the heads."""
    entry = CONFIG.encoders.get(CONFIG.encoder)
    return 0 if entry is None else gpus_of(entry)


def training_gpus(config):
    """The GPUs of a job that trains heads."""
    return int(config.training.device == "cuda")


def together(encoders, embeddings, shards, benchmark):
    """The networks among some encoders whose shards are embedded by one job.

    A job for each shard suits a cluster, one job for all a machine with GPUs. Finished features
    keep the way they were made in, so that another machine does not make them again.
    """

    def are_made_together(name):
        if all(Path(embeddings(name, shard)).exists() for shard in shards):
            return Path(str(benchmark).format(encoder=name)).exists()
        return GPUS > 0

    networks = [name for name, entry in encoders.items() if entry.kind != "pixels"]
    return [name for name in networks if are_made_together(name)]


def with_crop(crop):
    """The run's configuration with another kind of face crop."""
    faces = CONFIG.faces.model_copy(update={"crop": crop})
    return CONFIG.model_copy(update={"faces": faces})


def weights_of(encoder):
    """The asset, fetched tag or file that an encoder's weights come from."""
    if encoder.asset is not None and not known_assets()[encoder.asset].ships:
        return [ASSETS / encoder.asset / "manifest.json"]
    if encoder.tag is not None:
        return [ASSETS / weights_folder(encoder.model, encoder.tag) / "manifest.json"]
    return [encoder.file] if encoder.file is not None else []


def head_weights():
    """The weights of the encoder that heads are trained on."""
    entry = CONFIG.encoders.get(CONFIG.encoder)
    return [] if entry is None else weights_of(entry)


def prompted(encoder):
    """The settings that prompt features depend on, for an encoder with a text tower."""
    entry = CONFIG.encoders.get(encoder)
    may = entry is not None and entry.kind == "open_clip" and entry.random is None
    return [f"encoders.{encoder}"] if may else []


def prompt_weights(wildcards):
    """The weights of the text tower."""
    if not prompted(wildcards.encoder):
        return []
    return weights_of(CONFIG.encoders[wildcards.encoder])


TAGGED = [e for e in [*CONFIG.encoders.values(), *REQUEST.encoders.values()] if e.tag]

# Studies that are invalid or do not fit the run's recipe are listed on the studies page.
STUDIES, STUDY_ERRORS = usable_studies(CONFIG)
# Studies that compute their own features, that use other runs, and that use the run's features.
WIDE = [name for name, planned in STUDIES.items() if planned.combinations.every]
TRANSFERS = [name for name, planned in STUDIES.items() if planned.study.runs]
GRIDS = [name for name in STUDIES if name not in [*WIDE, *TRANSFERS]]
# The run's configuration with the encoders of every study.
EVERY = CONFIG.model_copy(
    update={
        "encoders": CONFIG.encoders
        | {k: v for own in STUDIES.values() for k, v in own.config.encoders.items()}
    }
)


def study_settings(name, stage, task, *sections):
    """The settings of a study's stage for one task."""
    return settings_json(STUDIES[name].config, stage, *sections, f"tasks.{task}")


def study_files(name):
    """The files of user code that the heads of a study run."""
    return STUDIES[name].config.training.user_files()


wildcard_constraints:
    shard=r"\d{4}",
    encoder=any_of([*SOURCES, *EVERY.encoders]),
    task=any_of(TASKS),
    part=r"\d+",
    asset=r"[a-z0-9-]+",
    crop="aligned|cropped",
