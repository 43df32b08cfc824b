"""Settings of the data set: where images, videos and labels lie, and who is in which split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from clipaffect.config.section import Section, folder_name, unique
from clipaffect.core.tasks import AFFECTNET, CHALLENGE, RAF_DB, Task

DEMO_VIDEOS = "resources/demo/videos"
MOST_CLASSES = 127  # a label is one signed byte
# Columns of the tables that labels are kept in.
RESERVED = frozenset(
    (
        "split",
        "group",
        "video",
        "person",
        "frame",
        "label",
        "annotated",
        "status",
        "feature_row",
        "fold",
        "own_crop",
        "scores",
    )
)
AFF_WILD2_KEYS = ("videos", "images", "annotations", "multitask", "test", "frame_lists", "edition")


@dataclass(frozen=True)
class Format:
    """A way in which data lies on disk; ``dataset/readers`` has a module of its name.

    Attributes:
        keys: of ``data`` that go with it.
        needed: those that must be given.
        tasks: what it is labelled for; None: what ``data.tasks`` says.
        licensed: whether its licence forbids passing images on.
    """

    keys: tuple[str, ...]
    needed: tuple[str, ...] = ("root",)
    tasks: dict[str, Task] | None = None
    licensed: bool = False


FormatName = Literal["aff_wild2", "table", "folders", "raf_db", "affectnet"]
FORMATS: dict[FormatName, Format] = {
    "aff_wild2": Format(AFF_WILD2_KEYS, (), CHALLENGE),
    "table": Format(("table", "root", "tasks", "faces"), ("table", "tasks")),
    "folders": Format(("root", "tasks", "faces"), ("root", "tasks")),
    "raf_db": Format(("root", "faces"), tasks=RAF_DB, licensed=True),
    "affectnet": Format(("root", "faces"), tasks=AFFECTNET, licensed=True),
}


class Subset(Section):
    """A few videos of each split, for a quick look before the long run."""

    train: int = Field(
        ge=1,
        description="Videos (or images) of the training split: as few as show every class, then "
        "the first by name. More, if every class needs more.",
    )
    validation: int = Field(ge=1, description="Videos of the validation split, chosen alike.")
    frames: int | None = Field(
        None, ge=1, description="Use only the first so many frames of each video."
    )


class SplitFiles(Section):
    """One file for each split."""

    train: str = Field(description="Of the training split.")
    validation: str = Field(description="Of the validation split.")


class Splitting(Section):
    """Who is trained on and who is scored; no person or source video is ever in both."""

    by: Literal["given", "hold_out", "folds"] = Field(
        "given",
        description="`given` by the data (folders, lists, a table's column `split`); `hold_out` "
        "makes `folds` parts and scores the first; `folds` scores each part by heads trained on "
        "the others (k-fold), the parts being those of a table's column `fold` if it has one.",
    )
    folds: int = Field(
        5, ge=2, le=100, description="Parts that are made: of whole people, alike in their classes."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Of the draw of parts.")


class TaskLabels(Section):
    """A task of your own: either classes, of which a row has one, or labels, each yes or no."""

    classes: Annotated[tuple[str, ...], AfterValidator(unique)] | None = Field(
        None,
        min_length=2,
        max_length=MOST_CLASSES,
        description="Names of the classes; the table's column holds a name, or its number from 0.",
    )
    labels: Annotated[tuple[str, ...], AfterValidator(unique)] | None = Field(
        None,
        min_length=1,
        max_length=MOST_CLASSES,
        description="Names of the table's columns, each with 0 or 1 (action units, attributes).",
    )
    column: str | None = Field(
        None, description="`classes`: the table's column; by default named as the task."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> TaskLabels:
        if (self.classes is None) == (self.labels is None):
            raise ValueError("needs either 'classes' or 'labels'")
        if self.labels is not None and self.column is not None:
            raise ValueError("'column' goes with 'classes'; 'labels' are columns themselves")
        for name in (*(self.classes or ()), *(self.labels or ())):
            if not name.strip() or not name.isprintable():
                raise ValueError(f"'{name}' is no name")
        if taken := RESERVED.intersection(self.labels or ()):
            raise ValueError(f"the tables have a column '{min(taken)}' of their own: rename it")
        return self


class Data(Section):
    """Where the videos, images and labels are."""

    format: FormatName = Field(
        "aff_wild2",
        description="How the data lies on disk; see docs/data.md and, for all but `aff_wild2`, "
        "docs/own-data.md.",
    )
    table: str | None = Field(
        None, description="`table`: a CSV or Parquet file with a row for each label."
    )
    root: str | None = Field(
        None,
        description="Folder that holds the images or videos; for `table` by default the table's.",
    )
    tasks: dict[Annotated[str, AfterValidator(folder_name)], TaskLabels] = Field(
        default_factory=dict, description="`table`, `folders`: what is to be learned, by name."
    )
    faces: Literal["cut", "search"] = Field(
        "cut",
        description="Images (not videos) of other formats than `aff_wild2`: faces already cut "
        "out, embedded as they are, or pictures in which the largest face is searched for.",
    )
    videos: str | None = Field(
        None,
        description="`aff_wild2`: folder with the videos, searched with its subfolders. Without "
        f"`videos` and `images` it is the demo's, {DEMO_VIDEOS}.",
    )
    images: tuple[str, ...] = Field(
        (),
        description="`aff_wild2`: folders that hold the organisers' crops, `<video>/00001.jpg`, at "
        "any depth. A person with crops needs no video; of folders of one name the first root's "
        "is used.",
    )
    annotations: str = Field(
        "resources/demo/annotations",
        description="`aff_wild2`: folder that holds the challenge's folders.",
    )
    multitask: SplitFiles | None = Field(
        None,
        description="`aff_wild2`: the multi-task challenge's two annotation files, instead of "
        "`annotations`.",
    )
    test: dict[str, str] = Field(
        default_factory=dict,
        description="`aff_wild2`: by task, the videos to predict for a submission: the organisers' "
        "sample file, or a text file with a video's name in each line.",
    )
    frame_lists: dict[str, SplitFiles] = Field(
        default_factory=dict,
        description="`aff_wild2`: by task, published lists of frames (a path and its label in each "
        "line) to compare with what was found.",
    )
    edition: int | None = Field(
        None,
        ge=1,
        description="`aff_wild2`: edition of the ABAW challenge that the annotations come from, if "
        "any: stated in the report, since the splits differ between editions.",
    )
    split: Splitting = Field(
        default_factory=Splitting, description="Who is trained on, who is scored."
    )
    shards: int = Field(
        4, ge=1, le=4096, description="Parts the videos are dealt to; each is one job per stage."
    )
    subset: Subset | None = Field(None, description="Use a few videos only.")
    licensed: bool = Field(
        False,
        description="Whether the data's licence forbids redistribution (true for `raf_db` and "
        "`affectnet`): then the report shows no pictures of people, and `clipaffect dvc stages` "
        "keeps every output from DVC's remotes.",
    )
    may_push: bool = Field(
        False, description="Whether what is made from licensed data may go to a DVC remote."
    )

    @property
    def frame_limit(self) -> int:
        """How many first frames of each video are used; 0 for all."""
        return (self.subset.frames if self.subset else None) or 0

    @property
    def searches_faces(self) -> bool:
        """Whether a face may have to be found in a video or a picture."""
        if self.format == "aff_wild2":
            return bool(self.videos)
        return self.format == "table" or self.faces == "search"

    def has_images(self) -> bool:
        """Whether there is anything to look at; imported features need nothing."""
        return self.format != "aff_wild2" or bool(self.videos or self.images)

    def known_tasks(self) -> dict[str, Task]:
        """Every task that the data is labelled for."""
        return FORMATS[self.format].tasks or {
            name: Task(name, own.classes or own.labels or (), own.classes is None)
            for name, own in self.tasks.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _demo(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("format", "aff_wild2") != "aff_wild2":
            return values
        if isinstance(values.get("images"), str):  # one root needs no list
            values = values | {"images": [values["images"]]}
        own = ("videos", "images", "annotations", "multitask")
        return values if any(values.get(key) for key in own) else values | {"videos": DEMO_VIDEOS}

    @model_validator(mode="before")
    @classmethod
    def _known_licences(cls, values: Any) -> Any:
        """Some licences forbid passing images on."""
        licensed = [name for name, own in FORMATS.items() if own.licensed]
        if isinstance(values, dict) and values.get("format") in licensed:
            return {"licensed": True} | values
        return values

    @model_validator(mode="after")
    def _keys_of_format(self) -> Data:
        mine = FORMATS[self.format].keys
        others = {key for own in FORMATS.values() for key in own.keys} - set(mine)
        fields = type(self).model_fields
        given = {
            key
            for key in others
            if getattr(self, key) != fields[key].get_default(call_default_factory=True)
        }
        if given:
            raise ValueError(
                f"'{min(given)}' does not go with format {self.format}, which has {', '.join(mine)}"
            )
        return self

    @model_validator(mode="after")
    def _complete(self) -> Data:
        if self.format == "aff_wild2":
            for key in ("test", "frame_lists"):
                if unknown := getattr(self, key).keys() - CHALLENGE.keys():
                    raise ValueError(f"'{key}' names '{min(unknown)}'; a task is EXPR or AU")
            return self
        for key in FORMATS[self.format].needed:
            if not getattr(self, key):
                raise ValueError(f"format {self.format} needs '{key}'; see docs/own-data.md")
        if self.format == "folders" and [own.classes is None for own in self.tasks.values()] != [
            False
        ]:
            raise ValueError("format folders needs one task with 'classes', the folders' names")
        return self
