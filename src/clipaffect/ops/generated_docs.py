"""Generate files from the code: reference pages, the schema, conda environments."""

from __future__ import annotations

from pathlib import Path

from clipaffect.config.reference import json_schema, reference_page
from clipaffect.core.files import write_text
from clipaffect.core.frame_status import MEANING
from clipaffect.ops.conda_envs import environment_files

OUTCOMES_HEAD = """# Frame statuses and errors

Generated from `src/clipaffect/core/frame_status.py` by `clipaffect docs`; do not edit by hand.

No frame is dropped silently. Every annotated frame, and every frame of every video, keeps its row
in the tables under `results/<run>/` with one of these statuses. The report counts them.

| status | meaning |
|---|---|
"""


OUTCOMES_TAIL = """
A problem with the data set as a whole is an error before any work starts. The message names the
file and the line and says how to fix it:

| problem | the message names |
|---|---|
| an annotation file whose first line is not the task's header | the file and both lines |
| a row with too few or too many values, or a value out of range | the file and the line |
| an annotation file without rows | the file |
| two video files with the same name (`a.mp4` and `a.avi`, or in two folders) | both files |
| a video annotated in both splits | its name and both files |
| two images of the same frame (`00001.jpg` and `1.png`) | the folder and both files |
| an invalid or missing cell in a table, a path outside `data.root` | the file and the line |
| a person or video in two splits (in a table: also people who share a video) | their names |
| a list that does not match its feature file, or lists a frame twice | the file and the row |
| an invalid line in a multi-task file, a test list or a published list | the file and the line |
| no annotation, or no annotated video, for a task | the folder and what was expected in it |
| an `alpha` outside (0, 1], a level or seed listed twice | the key |

These are errors before any head is trained:

| problem | the message names |
|---|---|
| a feature that is not finite | the video and the frame |
| shards embedded by two encoders, or by two versions of one | the files |
| no training frame with a label and a face, or none that shows a class or unit | task and class |
| no frame with every unit annotated, under `drop_incomplete_rows` | the key |
| too few videos to hold some out, under `select_on: inner` | the key |
| your own file is missing, fails, or gives logits of the wrong shape | the file |

A head whose loss becomes non-finite ends with the status `non_finite`. The other heads continue,
and the report counts it. A head whose probabilities are nearly uniform is reported as collapsed.

The report handles these cases:

| case | what is reported |
|---|---|
| scores made with other settings or frames | an error with both fingerprints; no report is built |
| a failed head | the count, next to the result; its row has the reason; averages omit it |
| only one seed | that the spread over seeds is unknown; intervals are over people alone |
| a class or unit absent from the split | its name; it counts as 0 in macro F1 and has no AUC |
| fewer than 20 people (or source videos) | there is no interval |
| names that contain HTML or LaTeX | the names, escaped |

On clusters, shared disks and remotes, finished work is always kept:

| problem | what happens |
|---|---|
| no SLURM on the path of a run with `profiles/slurm` | an error before any job: no `sbatch` |
| a partition in the profile that does not exist | an error with its name and the existing ones |
| another run in the folder | an error with its process and host; a killed run's lock is released |
| Snakemake was killed, alone or with its launcher | its jobs are ended and its lock released |
| a store on a file system without locks | an error: the folder, and which systems have locks |
| a store that this user may only read | its entries are used; a missing one is an error |
| a granted GPU that torch cannot use or has no code for | an error with the cause |
| shards on a CPU and others on a GPU | an error before the work, with the shard |
| a GPU in use by another program alone | the next one is taken, or waited for |
| a GPU whose memory is too small, or that fails | an error with its name; finished work is kept |
| a damaged, truncated or empty file in the store | the log names it; its entry is made again |
| a damaged file in `results/` that a job reads | an error with its path; deleted, it is rebuilt |
| a run in which a file is missing or was changed | `clipaffect crate` names it and refuses |
| a PyTorch index that cannot be reached | an error with its address, within a minute |
| a job that is lost, cancelled, preempted, or exceeds its limits | rerun, or named with its log |
| a DVC remote that is full | DVC names the file; the same push sends the rest |
| a remote that refuses access, or no credentials | DVC says which (docs/dvc.md) |
| a DVC process that was killed | no message; the same `dvc repro` resumes |

docs/prediction.md describes the outcomes for files to be predicted and for incomplete models.

Rows beyond the last frame of a video get the status `beyond_video` (the organisers count one frame
more than common decoders in some videos). A video with fewer rows than frames is normal: frames
without a row are not annotated.
"""


def outcomes_page() -> str:
    """The Markdown page that lists all statuses."""
    rows = "".join(f"| `{outcome}` | {meaning} |\n" for outcome, meaning in MEANING.items())
    return OUTCOMES_HEAD + rows + OUTCOMES_TAIL


def generated_files(root: Path) -> dict[Path, str]:
    """All generated files, by path relative to the root of the repository."""
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
