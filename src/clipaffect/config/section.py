"""What every part of the configuration shares."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict

# Names become folders and words of commands.
FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Section(BaseModel):
    """A part of the configuration; keys it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
