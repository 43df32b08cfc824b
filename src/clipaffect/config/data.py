"""Settings of the data set: where images, videos and labels are, and who is in which split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from clipaffect.config.section import Section, folder_name, unique
from clipaffect.core.names import has_control
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
        "rater",
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


NearCopies = Literal["report", "refuse", "off"]
Source = Literal["unknown", "rendered", "aff_wild2", "own"]
FormatName = Literal["aff_wild2", "table", "folders", "raf_db", "affectnet"]
FORMATS: dict[FormatName, Format] = {
    "aff_wild2": Format(AFF_WILD2_KEYS, (), CHALLENGE),
    "table": Format(("table", "rater", "raters", "root", "tasks", "faces"), ("table", "tasks")),
    "folders": Format(("root", "tasks", "faces"), ("root", "tasks")),
    "raf_db": Format(("root", "faces"), tasks=RAF_DB, licensed=True),
    "affectnet": Format(("root", "faces"), tasks=AFFECTNET, licensed=True),
}


class Subset(Section):
    """Use a few videos of each split, for a quick trial before the long run."""

    train: int = Field(
        ge=1,
        description="Number of videos (or images) from the training split: the fewest that show "
        "every class, then the first by name. More are used if showing every class needs them.",
    )
    validation: int = Field(ge=1, description="The same, for the validation split.")
    frames: int | None = Field(
        None, ge=1, description="Use only this many frames from the start of each video."
    )


class SplitFiles(Section):
    """One file for each split."""

    train: str = Field(description="File of the training split.")
    validation: str = Field(description="File of the validation split.")


class Splitting(Section):
    """Who is used for training and who for scoring; no person or source video is ever in both."""

    by: Literal["given", "hold_out", "folds"] = Field(
        "given",
        description="How to split the data. `given`: by the data (folders, lists, the `split` "
        "column of a table). `hold_out`: make `folds` parts and score the first. `folds`: k-fold, "
        "score each part with heads trained on the others; a `fold` column defines the parts.",
    )
    folds: int = Field(
        5, ge=2, le=100, description="Number of parts, stratified by class and grouped by person."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Random seed of the split.")


class TaskLabels(Section):
    """A custom task: either classes, one for each row, or labels, each yes or no."""

    classes: Annotated[tuple[str, ...], AfterValidator(unique)] | None = Field(
        None,
        min_length=2,
        max_length=MOST_CLASSES,
        description="Names of the classes; the table's column holds a name, or its index from 0.",
    )
    labels: Annotated[tuple[str, ...], AfterValidator(unique)] | None = Field(
        None,
        min_length=1,
        max_length=MOST_CLASSES,
        description="Names of the table's columns, each holding 0 or 1 (action units, attributes).",
    )
    column: str | None = Field(
        None, description="For `classes`: the table's column; by default the name of the task."
    )
    yes: tuple[str, ...] = Field(
        (),
        description="For `labels`: words that mean yes in addition to 1, `yes` and `true`, for "
        "example `[ja]` or `[oui, x]`.",
    )
    no: tuple[str, ...] = Field(
        (), description="For `labels`: words that mean no in addition to 0, `no` and `false`."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> TaskLabels:
        if (self.classes is None) == (self.labels is None):
            raise ValueError("give either 'classes' or 'labels'")
        if self.labels is not None and self.column is not None:
            raise ValueError("'column' applies only to 'classes'; 'labels' are columns themselves")
        if self.labels is None and (self.yes or self.no):
            raise ValueError("'yes' and 'no' apply only to 'labels'")
        if both := {word.casefold() for word in self.yes} & {word.casefold() for word in self.no}:
            raise ValueError(f"'{min(both)}' is listed in both 'yes' and 'no'")
        for name in (*(self.classes or ()), *(self.labels or ())):
            if not name.strip() or has_control(name):
                raise ValueError(f"'{name}' is not a valid name")
        if taken := RESERVED.intersection(self.labels or ()):
            raise ValueError(f"'{min(taken)}' is a reserved column name: rename the label")
        return self


class Data(Section):
    """Where the videos, images and labels are."""

    format: FormatName = Field(
        "aff_wild2",
        description="Layout of the data on disk; see docs/data.md and, for all but `aff_wild2`, "
        "docs/own-data.md.",
    )
    table: str | None = Field(
        None, description="For `table`: a CSV or Parquet file with a row for each label."
    )
    rater: str | None = Field(
        None,
        description="For `table`: the column that names the rater, if frames have labels by "
        "several. The label of most raters is used, and the report shows how well they agree.",
    )
    raters: dict[str, str] = Field(
        default_factory=dict,
        description="For `table`: by rater, a table of that rater's labels; instead of `table`.",
    )
    root: str | None = Field(
        None,
        description="Folder of the images or videos; for `table`, by default the table's folder.",
    )
    tasks: dict[Annotated[str, AfterValidator(folder_name)], TaskLabels] = Field(
        default_factory=dict, description="For `table` and `folders`: the tasks to learn, by name."
    )
    faces: Literal["cut", "search"] = Field(
        "cut",
        description="For images (not videos) of formats other than `aff_wild2`. `cut`: the images "
        "are face crops and are embedded as they are. `search`: detect the largest face in each.",
    )
    videos: str | None = Field(
        None,
        description="For `aff_wild2`: folder of the videos, searched recursively. Without `videos` "
        f"and `images`, the demo's folder is used ({DEMO_VIDEOS}).",
    )
    images: tuple[str, ...] = Field(
        (),
        description="For `aff_wild2`: folders with the organisers' crops, `<video>/00001.jpg`, at "
        "any depth. A person with crops needs no video. If several roots have a folder of the same "
        "name, the first root takes precedence.",
    )
    annotations: str = Field(
        "resources/demo/annotations",
        description="For `aff_wild2`: folder that contains the challenge's annotation folders.",
    )
    multitask: SplitFiles | None = Field(
        None,
        description="For `aff_wild2`: the two annotation files of the multi-task challenge, used "
        "instead of `annotations`.",
    )
    test: dict[str, str] = Field(
        default_factory=dict,
        description="For `aff_wild2`: for each task, the videos to predict for a submission: the "
        "organisers' sample file, or a text file with one video name per line.",
    )
    frame_lists: dict[str, SplitFiles] = Field(
        default_factory=dict,
        description="For `aff_wild2`: for each task, published frame lists (a path and its label "
        "on each line) to compare with the frames that were found.",
    )
    edition: int | None = Field(
        None,
        ge=1,
        description="For `aff_wild2`: edition of the ABAW challenge that the annotations come "
        "from, if any. The report states it, because the splits differ between editions.",
    )
    people: str | None = Field(
        None,
        description="Table of who is in which video: a CSV or Parquet file with the columns "
        "`video`, `person` and, for two people in one video, `side` (left, right). Splits, "
        "intervals and tests then go by person. Without it, each source video counts as a "
        "different person, unless the data names the people.",
    )
    split: Splitting = Field(
        default_factory=Splitting, description="Who is used for training and who for scoring."
    )
    near_copies: NearCopies = Field(
        "report",
        description="Recordings that are in two splits, in part, re-encoded, rescaled, mirrored or "
        "shifted. `report`: name them and score with and without them. `refuse`: stop the run. "
        "`off`: do not look for them.",
    )
    shards: int = Field(
        4, ge=1, le=4096, description="Parts to divide the videos into; each is one job per stage."
    )
    subset: Subset | None = Field(None, description="Use a few videos only.")
    source: Source = Field(
        "unknown",
        description="Origin of the data: `rendered` (synthetic faces), `aff_wild2`, `own` (your "
        "own recordings) or `unknown`. Exported models report it with their predictions.",
    )
    licensed: bool = Field(
        False,
        description="Whether the data's licence forbids redistribution (true for `raf_db` and "
        "`affectnet`). If so, the report shows no images of people, and `clipaffect dvc stages` "
        "keeps all outputs out of DVC remotes.",
    )
    may_push: bool = Field(
        False, description="Allow outputs derived from licensed data to be pushed to a DVC remote."
    )

    @property
    def has_raters(self) -> bool:
        """Whether frames may have labels by several raters."""
        return bool(self.rater or self.raters)

    @property
    def tables(self) -> dict[str, str]:
        """The label tables by rater; '' for one that does not belong to a single rater."""
        return self.raters or ({"": self.table} if self.table else {})

    @property
    def frame_limit(self) -> int:
        """How many frames to use from the start of each video; 0 for all."""
        return (self.subset.frames if self.subset else None) or 0

    @property
    def searches_faces(self) -> bool:
        """Whether faces may have to be detected in videos or images."""
        if self.format == "aff_wild2":
            return bool(self.videos)
        return self.format == "table" or self.faces == "search"

    def has_images(self) -> bool:
        """Whether there are images or videos; imported features do not need any."""
        return self.format != "aff_wild2" or bool(self.videos or self.images)

    def known_tasks(self) -> dict[str, Task]:
        """All tasks for which the data has labels."""
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
                f"format {self.format} does not use '{min(given)}'; its keys are {', '.join(mine)}"
            )
        return self

    @model_validator(mode="after")
    def _complete(self) -> Data:
        if self.format == "aff_wild2":
            for key in ("test", "frame_lists"):
                if unknown := getattr(self, key).keys() - CHALLENGE.keys():
                    raise ValueError(f"unknown task '{min(unknown)}' in '{key}': use EXPR or AU")
            return self
        if self.raters and (self.table or self.rater):
            raise ValueError("'raters' lists the tables: leave out 'table' and 'rater'")
        if len(self.raters) == 1:
            raise ValueError("'raters' lists one table only: name it as 'table'")
        for key in FORMATS[self.format].needed:
            if key == "table" and self.raters:
                continue
            if not getattr(self, key):
                raise ValueError(f"format {self.format} needs '{key}'; see docs/own-data.md")
        if self.format == "folders" and [own.classes is None for own in self.tasks.values()] != [
            False
        ]:
            raise ValueError("format folders needs one task, with the folder names as 'classes'")
        return self
