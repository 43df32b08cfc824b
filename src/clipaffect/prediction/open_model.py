"""Open the model that a command or a script names: a bundle, a run's own, or the zero-shot one.

The heads of a finished run are exported on first use.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from clipaffect.bundle.format import read_bundle
from clipaffect.bundle.load import OpenBundle, open_bundle
from clipaffect.bundle.zero_shot import ZERO_SHOT, default_config, zero_shot_model
from clipaffect.config.load import load_config, parse_config
from clipaffect.core.errors import UserError
from clipaffect.core.layout import Layout


def open_model(
    model: str, weights: dict[str, Path], configuration: Path | None, assets: Path
) -> OpenBundle:
    """Open a model.

    Args:
        model: the bundle's folder, ``results/<run>``, or ``zero-shot``.
        weights: by encoder, weights that the bundle identifies but does not contain.
        configuration: for a zero-shot model; the default is OpenAI's CLIP ViT-L/14.
        assets: folder of fetched assets.

    Raises:
        UserError: as ``open_bundle`` and ``zero_shot_model``, or an option does not apply.
    """
    if model == ZERO_SHOT:
        if weights:
            raise UserError(
                "--weights cannot be used with the zero-shot model",
                where="--weights",
                fix="remove it; set 'file' and 'sha256' of the encoder in the configuration",
            )
        config = load_config(configuration) if configuration else default_config()
        return zero_shot_model(config, assets)
    if configuration is not None:
        raise UserError(
            "a configuration can only be used with the zero-shot model",
            where="--configfile",
            fix="remove the option, or use --model zero-shot",
        )
    path = Path(model)
    if not path.is_dir():
        like = difflib.get_close_matches(model, [ZERO_SHOT], cutoff=0.8)
        raise UserError(
            "the model's folder does not exist",
            where=path if like else path.absolute(),
            fix=f"write --model {ZERO_SHOT}"
            if like
            else "give the results folder of a finished run, a folder written by "
            f"'clipaffect export-model', or {ZERO_SHOT}",
        )
    return open_bundle(_model_of_run(path, assets) or path, weights)


def _model_of_run(results: Path, assets: Path) -> Path | None:
    """The model of a finished run, exported if need be; None if the folder is not a run's."""
    layout = Layout(results)
    record, bundle = layout.report.record, layout.model.bundle
    if not record.is_file():
        return layout.model.folder if bundle.is_file() else None
    # Not at the top: to export needs packages that prediction does not.
    from clipaffect.bundle.export_model import export_model, source_digest  # noqa: PLC0415
    from clipaffect.report.run_record import read_record  # noqa: PLC0415

    config = parse_config(read_record(results)["config"], str(record))
    if not bundle.is_file() or read_bundle(bundle).made_from != source_digest(config, results):
        if not os.access(results, os.W_OK):
            raise UserError(
                "the run's model is not up to date, and the folder cannot be written to",
                where=results,
                fix=f"run 'clipaffect export-model {results} --out FOLDER' and use that folder",
            )
        export_model(results, assets, layout.model.folder)
    return layout.model.folder
