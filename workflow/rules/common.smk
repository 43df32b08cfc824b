"""Shared by the workflow: the validated configuration, folders, how Python is called."""

import json
import re
import shlex
import sys
from pathlib import Path

import snakemake_executor_plugin_slurm
from snakemake.exceptions import WorkflowError

SOURCE = Path(workflow.basedir) / "src"
sys.path.insert(0, str(SOURCE))

from clipaffect.assets import known_assets
from clipaffect.config import parse_config
from clipaffect.config.encoders import weights_folder
from clipaffect.config.studies import OWN, usable_studies
from clipaffect.errors import UserError
from clipaffect.prediction.asked import asked_of
from clipaffect.slurm_outages import keep_unanswered
from clipaffect.stages import evaluated, settings_json, shard_names

# Of use on a cluster alone; which executor runs is not known here.
keep_unanswered(snakemake_executor_plugin_slurm.Executor)

try:
    CONFIG = parse_config(
        config, ", ".join(map(str, workflow.configfiles)) or "--config"
    )
except UserError as error:
    raise WorkflowError(str(error))

RESULTS = Path("results") / CONFIG.run
LOGS = Path("logs") / CONFIG.run
TIMINGS = RESULTS / "timings"
ASSETS = Path(CONFIG.paths.assets)
SHARDS = shard_names(CONFIG.data.shards)
TASKS = list(CONFIG.tasks())
TEST_TASKS = [task for task in TASKS if task in CONFIG.data.test]
SUBMISSIONS = expand(RESULTS / "submission/{task}/predictions.txt", task=TEST_TASKS)
# What heads and probes are fitted on: an encoder's embeddings, or features from elsewhere.
SOURCES = CONFIG.feature_names()
IMPORTED = CONFIG.features.imported
JOINED = CONFIG.features.join
PARTS = range(CONFIG.training.parts)
ENV = f"../envs/{CONFIG.environment}.yaml"


def quoted(word):
    """A word for the shell that passes through Snakemake's formatting of commands unchanged."""
    return shlex.quote(str(word)).replace("{", "{{").replace("}", "}}")


# In a conda job `python` is the environment's; elsewhere it is the one that runs Snakemake,
# whether or not its environment is activated.
IN_CONDA = any(
    method.name == "CONDA" for method in workflow.deployment_settings.deployment_method
)
PYTHON = "python" if IN_CONDA else quoted(sys.executable)

# In front of every command. Snakemake clears PYTHONPATH in conda jobs, so it is set again. One
# thread a job: the same bytes under any load, and many jobs side by side use the cores better.
shell.prefix(
    f"export PYTHONPATH={quoted(SOURCE.resolve())} PYTHONUNBUFFERED=1 "
    f"CLIPAFFECT_STORE={quoted(CONFIG.paths.store)} "
    f"CLIPAFFECT_ASSETS={quoted(CONFIG.paths.assets)} "
    f"CLIPAFFECT_SCRATCH={quoted(CONFIG.paths.scratch or '')} "
    "OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1; "
    f'clipaffect() {{{{ {PYTHON} -m clipaffect "$@"; }}}}; '
)


def options(name, paths, folder=False):
    """A command's option for each path, or for the folder it lies in."""
    chosen = [Path(path).parent if folder else path for path in paths]
    return " ".join(f"{name} {shlex.quote(str(path))}" for path in chosen)


def any_of(names):
    """A regular expression of some names, or of nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"


def faces_of(shard, encoder):
    """The faces of a shard that an encoder sees."""
    entry = EVERY.encoders.get(encoder)
    crop = None if entry is None else entry.crop
    own = "" if crop in (None, CONFIG.faces.crop) else f"{crop}/"
    return RESULTS / f"faces/{own}{shard}.parquet"


def records_of(runs):
    """What finished runs were; one that is not there is named by the job, which alone fails."""
    paths = [RESULTS.parent / run / "report/run.json" for run in runs]
    return [path for path in paths if path.exists()]


def with_crop(crop):
    """The run's configuration with faces cut in another way."""
    faces = CONFIG.faces.model_copy(update={"crop": crop})
    return CONFIG.model_copy(update={"faces": faces})


def weights_of(encoder):
    """The asset, fetched tag or file that an encoder's weights come from."""
    if encoder.asset is not None and not known_assets()[encoder.asset].ships:
        return [ASSETS / encoder.asset / "manifest.json"]
    if encoder.tag is not None:
        return [ASSETS / weights_folder(encoder.model, encoder.tag) / "manifest.json"]
    return [encoder.file] if encoder.file is not None else []


def prompted(encoder):
    """The settings that the prompts' features depend on: of an encoder that may be asked by them."""
    entry = CONFIG.encoders.get(encoder)
    may = entry is not None and entry.kind == "open_clip" and entry.random is None
    return [f"encoders.{encoder}"] if may else []


def prompt_weights(wildcards):
    """The weights whose text tower is asked."""
    if not prompted(wildcards.encoder):
        return []
    return weights_of(CONFIG.encoders[wildcards.encoder])


# What is asked of which model by `snakemake predict`: known before any job runs.
try:
    ASKED = asked_of(CONFIG)
except UserError as error:
    raise WorkflowError(str(error))
TAGGED = [e for e in [*CONFIG.encoders.values(), *ASKED.encoders.values()] if e.tag]

# A study that is wrong, or does not fit the run's recipe, is named on the studies' page.
STUDIES, STUDY_ERRORS = usable_studies(CONFIG)
# Studies that make features of their own; of other runs; and of heads on the run's features.
WIDE = [name for name, planned in STUDIES.items() if planned.universes.every]
TRANSFERS = [name for name, planned in STUDIES.items() if planned.study.runs]
GRIDS = [name for name in STUDIES if name not in [*WIDE, *TRANSFERS]]
# The run's configuration with the encoders of every study.
EVERY = CONFIG.model_copy(
    update={
        "encoders": CONFIG.encoders
        | {k: v for own in STUDIES.values() for k, v in own.config.encoders.items()}
    }
)


wildcard_constraints:
    shard=r"\d{4}",
    encoder=any_of([*SOURCES, *EVERY.encoders]),
    task=any_of(TASKS),
    part=r"\d+",
    asset=r"[a-z0-9-]+",
    crop="aligned|cropped",
