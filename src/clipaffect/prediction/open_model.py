"""Open the model that a command or a script names: a bundle, a run's own, or the zero-shot one."""

from __future__ import annotations

from pathlib import Path

from clipaffect.bundle.load import OpenBundle, open_bundle
from clipaffect.bundle.zero_shot import ZERO_SHOT, default_config, zero_shot_model
from clipaffect.config.load import load_config
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
    run = Layout(Path(model)).model
    return open_bundle(run.folder if run.bundle.is_file() else Path(model), weights)
