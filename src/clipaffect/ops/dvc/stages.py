"""The DVC stages of a run with its own configuration: runs/<run>/{config.yaml,dvc.yaml}.

The top-level dvc.yaml is for config/config.yaml. That of another run is derived from it, with other
paths and its own configuration. If the data is licensed, every output has ``push: false``, so that
no label, crop or feature reaches a remote.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from clipaffect.config import load_config
from clipaffect.config.models import Config
from clipaffect.config.stage_keys import TRAINING_ROWS
from clipaffect.core.errors import UserError
from clipaffect.core.files import write_text
from clipaffect.dataset.inventory import inventory

RUN = "clipaffect run"
ROOT_RUN, ROOT_CONFIG, ROOT_DATA = "results/demo/", "config/config.yaml", "resources/demo"
HEADER = """\
# The run '{run}' as DVC stages: dvc repro {folder}/dvc.yaml
# Written by `clipaffect dvc stages`; to be written again when the configuration gets a new key.
"""


def write_stages(configfile: Path, root: Path) -> Path:
    """Write a run's ``config.yaml`` and ``dvc.yaml``; returns their folder.

    Args:
        configfile: the run's configuration.
        root: the repository, with the dvc.yaml to start from.

    Raises:
        UserError: the configuration is wrong, or is the demo's, which uses the top-level dvc.yaml.
    """
    config = load_config(configfile)
    if (root / ROOT_CONFIG).exists() and configfile.resolve() == (root / ROOT_CONFIG).resolve():
        raise UserError(
            f"{ROOT_CONFIG} already belongs to the top-level dvc.yaml",
            where=configfile,
            fix="run 'dvc repro', or use your own configuration file",
        )
    folder = root / "runs" / config.run
    copy = folder / "config.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    if configfile.resolve() != copy.resolve():
        shutil.copyfile(configfile, copy)
    write_text(folder / "dvc.yaml", stages_text(copy, root))
    return folder


def check_stages(configfile: Path, root: Path) -> None:
    """Reject a dvc.yaml next to ``configfile`` that does not match the configuration.

    DVC tracks the keys that the configuration had when its stages were written. A key added later
    would change the results without triggering a stage.
    """
    stages = configfile.parent / "dvc.yaml"
    if stages.is_file() and stages.read_text(encoding="utf-8") != stages_text(configfile, root):
        raise UserError(
            "the stages were written for another configuration: keys, licence, tests or user code "
            "have changed since",
            where=stages,
            fix=f"run 'clipaffect dvc stages {configfile}' again",
        )


def stages_text(configfile: Path, root: Path) -> str:
    """The dvc.yaml of a run's own configuration."""
    config = load_config(configfile)
    template = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    given = yaml.safe_load(configfile.read_text(encoding="utf-8")) or {}
    relative = f"runs/{config.run}"
    stages = {"inventory": _inventory(relative)}
    for name, stage in template["stages"].items():
        stages[name] = _stage(name, stage, config, given, relative)
    head = HEADER.format(run=config.run, folder=relative)
    # Paths of plots are relative to the file that names them; those of stages to their wdir.
    plots = yaml.safe_dump({"plots": template["plots"]}, sort_keys=False)
    plots = plots.replace(ROOT_RUN, f"../../results/{config.run}/")
    return head + yaml.safe_dump({"stages": stages}, sort_keys=False) + plots


def write_inventory(configfile: Path, out: Path) -> None:
    """Write a digest of the names, sizes and times of a run's data, on which its index depends.

    DVC itself would read three million images on every call.
    """
    config = load_config(configfile)
    write_text(out, inventory(config.data, list(config.tasks().values())) + "\n")


def link_data_of_experiment(configfile: Path, root: Path) -> None:
    """Link the files that git ignores into the copy in which ``dvc exp run --temp`` works.

    These are data, features, weights and own code. The copy is a folder below ``.dvc/tmp/exps`` of
    the repository and holds what git tracks.

    Args:
        configfile: of the run.
        root: of the copy; nothing happens in a repository itself.
    """
    here = root.resolve()
    copies = [path for path in here.parents if path.parts[-3:] == (".dvc", "tmp", "exps")]
    if not copies:
        return
    repository = copies[0].parents[2]
    config = load_config(configfile)
    named = _texts(config.data.model_dump(mode="json"))
    named += [path for own in config.features.imported for path in config.features.files(own)]
    named += [encoder.file for encoder in config.encoders.values() if encoder.file]
    for name in (*named, *config.training.user_files()):
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not (repository / path).exists():
            continue
        # The first folder that the copy lacks: others may lie next to it.
        for folder in [*reversed(path.parents), path]:
            if not (here / folder).exists():
                (here / folder).symlink_to(repository / folder)
                break


def _texts(value: Any) -> list[str]:
    """All texts in a tree of lists and dictionaries."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]


def _inventory(folder: str) -> dict[str, Any]:
    return {
        "desc": "See whether the data has changed",
        "wdir": "../..",
        "cmd": f"clipaffect dvc inventory {folder}/config.yaml --out {folder}/inventory.txt",
        "always_changed": True,
        "outs": [{f"{folder}/inventory.txt": {"cache": False}}],
    }


def _stage(
    name: str, stage: dict[str, Any], config: Config, given: dict[str, Any], folder: str
) -> dict[str, Any]:
    """A stage of the demo's dvc.yaml for a run of its own."""
    results = f"results/{config.run}/"
    command = stage["cmd"].replace(RUN, f"{RUN} --configfile {folder}/config.yaml", 1)
    deps, outs, metrics = (
        [path.replace(ROOT_RUN, results) for path in stage.get(kind, [])]
        for kind in ("deps", "outs", "metrics")
    )
    deps = [path for path in deps if not path.startswith(ROOT_DATA)]
    if name == "dataset":
        deps.insert(0, f"{folder}/inventory.txt")
    if name == "report" and not config.postprocess.steps:
        outs.remove(f"{results}postprocess")
    if name == "report" and config.data.has_raters:
        command = command.replace("build_report ", "build_report measure_agreement ", 1)
    if name == "report" and config.trains_final_heads:
        command = command.replace("build_report ", "build_report train_final_heads ", 1)
        outs.append(f"{results}final")
    if name == "report" and config.data.test:
        rules = "write_submission write_entry" if config.submission.entries else "write_submission"
        command = command.replace("build_report ", f"build_report {rules} ", 1)
        outs.append(f"{results}submission")
        deps += [f"{results}embeddings", "src/clipaffect/submission"]
    if name == "embeddings":
        deps += [path for own in config.features.imported for path in config.features.files(own)]
    if name in ("training", "report"):
        deps += config.training.user_files()
    made: dict[str, Any] = {"desc": stage["desc"], "wdir": "../..", "cmd": command, "deps": deps}
    if keys := _keys(name, stage, config, given):  # an empty list would mean every key of the file
        made["params"] = [{f"{folder}/config.yaml": keys}]
    stays = config.data.licensed and not config.data.may_push
    for kind, paths in (("outs", outs), ("metrics", metrics)):
        if kind in stage:
            made[kind] = [{path: {"push": False}} for path in paths] if stays else paths
    return made


def _keys(name: str, stage: dict[str, Any], config: Config, given: dict[str, Any]) -> list[str]:
    """The keys of the run's own configuration file that a stage depends on."""
    keys = [key for parameters in stage["params"] for key in next(iter(parameters.values()))]
    if name in ("embeddings", "report"):
        keys.append("features")
    if name == "report":
        keys += ["final_heads", "submission"]
    if name == "references":
        keys += [f"training.{key}" for key in TRAINING_ROWS]
    if name == "faces" and any(encoder.crop for encoder in config.encoders.values()):
        keys.append("encoders")
    return [key for key in keys if _has(given, key)]


def _has(given: dict[str, Any], key: str) -> bool:
    """Whether a configuration file itself has a (dotted) key: DVC rejects missing keys."""
    head, _, rest = key.partition(".")
    if head not in given:
        return False
    return not rest or (isinstance(given[head], dict) and _has(given[head], rest))
