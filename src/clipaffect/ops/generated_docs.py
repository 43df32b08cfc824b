"""Files that are generated from the code: reference pages, the schema, conda environments."""

from __future__ import annotations

from pathlib import Path

from clipaffect.config.reference import json_schema, reference_page
from clipaffect.core.frame_status import MEANING
from clipaffect.core.parquet import write_text
from clipaffect.ops.conda_envs import environment_files

OUTCOMES_HEAD = """# What becomes of a frame

Generated from `src/clipaffect/core/frame_status.py` by `clipaffect docs`; do not edit by hand.

No frame is dropped in silence. Every annotated frame, and every frame of every video, keeps its
row in the tables under `results/<run>/` with one of these statuses, and the report counts them.

| status | meaning |
|---|---|
"""


OUTCOMES_TAIL = """
What is wrong with the whole tree is an error before any work starts, and names file, line and
mend:

| found | what is said |
|---|---|
| an annotation whose first line is not the task's header | the file, both lines |
| a row with too few or too many values, or a value out of range | the file and the line |
| an annotation file with no rows | the file |
| two video files of one name (`a.mp4` and `a.avi`, or in two folders) | both files |
| a video annotated in both splits | its name and both files |
| two images that are one frame (`00001.jpg` and `1.png`) | the folder and both files |
| a wrong or missing cell of a table, a path that leaves `data.root` | the file and the line |
| a person or video in two splits (of a table: whoever shares a video with them too) | their names |
| a list that does not fit its file of features, a frame in it twice | the file and the row |
| a wrong line of a multi-task file, a test list or a published list | the file and the line |
| a file name that is not UTF-8, or has control characters | the name, escaped |
| no annotation, or no annotated video, for a task | the folder and what was looked for |
| an `alpha` outside (0, 1], a level or seed named twice | the key |

Before any head is trained:

| found | what is said |
|---|---|
| a feature that is not a number | the video and the frame |
| shards embedded by two encoders, or two versions of one | the files |
| no training frame with label and face, or none that shows a class or unit | task and class |
| no frame with every unit annotated, under `drop_incomplete_rows` | the key |
| too few videos to hold some out, under `select_on: inner` | the key |
| a file of your own that is missing, fails, or gives logits of another shape | the file |

A head whose loss stops being a number ends with the status `non_finite`; the others go on, and the
report counts it. A head whose probabilities are nearly uniform is reported as collapsed.

In the report:

| found | what is said |
|---|---|
| scores made with other settings or frames | both fingerprints; no report is built |
| a head that failed | how many, beside the result; its row says why, and it is in no average |
| one seed only | that nothing is known of the spread over seeds; intervals are over people alone |
| a class or unit that the split never shows | its name; it counts as 0 in macro F1 and has no AUC |
| fewer than 20 people | that there is no interval |
| names with HTML or LaTeX in them | the names, escaped |

On clusters, shared disks and remotes; what was finished stays each time:

| found | what is said |
|---|---|
| no SLURM on the path of a run with `profiles/slurm` | that there is no `sbatch`, before any job |
| a partition in the profile that the cluster lacks | its name, and those that there are |
| another run in the folder | its process and host; the lock of a run that was killed is freed |
| a work store on a file system without locks | the folder, and which file systems have them |
| a job that is lost, cancelled, starved or too slow | it is made again, or named with its log |
| a DVC remote that is full | by DVC: the file; the same push sends the rest |
| a remote that refuses, or no credentials | by DVC: which of them (docs/dvc.md) |
| a DVC that was killed | nothing: the same `dvc repro` goes on |

What becomes of files that are to be predicted, and of models that are not whole, is in
docs/prediction.md.

Rows beyond the last frame of a video are kept as `beyond_video` (the organisers count one frame
more than common decoders in some videos). A video with fewer rows than frames is normal: frames
without a row are not annotated.
"""


def outcomes_page() -> str:
    """The Markdown page of every outcome."""
    rows = "".join(f"| `{outcome}` | {meaning} |\n" for outcome, meaning in MEANING.items())
    return OUTCOMES_HEAD + rows + OUTCOMES_TAIL


def generated_files(root: Path) -> dict[Path, str]:
    """Every generated file, by path from the repository's root."""
    return environment_files(root) | {
        Path("docs/configuration.md"): reference_page(),
        Path("docs/outcomes.md"): outcomes_page(),
        Path("workflow/schemas/config.schema.json"): json_schema(),
    }


def write_generated(root: Path) -> list[Path]:
    """Write them under ``root``; returns the paths."""
    files = generated_files(root)
    for path, text in files.items():
        write_text(root / path, text)
    return list(files)
