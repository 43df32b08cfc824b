"""Configuration: the models, loading with helpful errors, and the generated reference."""

from clipaffect.config.load import load_config, parse_config
from clipaffect.config.models import Config

__all__ = ["Config", "load_config", "parse_config"]
