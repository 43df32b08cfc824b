"""All paths of a run's results, declared once and used by both the rules and the code.

Called without values, a method gives the path with Snakemake's wildcards: ``Layout(root).frames()``
is ``<root>/frames/{shard}.parquet``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_ASSETS = Path("assets")  # fetched networks, for commands that people call


class _File:
    """A file or folder with a fixed name in the declaring class's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, owner: _Folder, kind: type | None = None) -> Path:
        return owner.folder / self.name


@dataclass(frozen=True)
class _Folder:
    folder: Path

    def files(self, *names: str) -> dict[str, Path]:
        """Files by their names here: those that are named, or all."""
        names = names or tuple(k for k, v in vars(type(self)).items() if isinstance(v, _File))
        return {name: getattr(self, name) for name in names}


class Table(_Folder):
    """Labels and features of one encoder and task, joined for training."""

    rows = _File("rows.parquet")  # every annotated frame: status, labels, row of its feature
    features = _File("features.npy")  # (n, d) float16, memory-mappable


class Heads(_Folder):
    """The trained heads of one part of a grid."""

    weights = _File("heads.safetensors")  # tensors, named by head
    listed = _File("heads.parquet")  # one row for each head, with its status
    history = _File("history.parquet")  # one row for each head and epoch


class Evaluation(_Folder):
    """Scores and statistics of one task's heads and references."""

    scores = _File("scores.parquet")  # probabilities of every frame
    rows = _File("rows.parquet")  # the scored frames and their labels
    metrics = _File("metrics.parquet")  # one row for each setting, seed, fold, metric and target
    person_counts = _File("clusters.parquet")  # TP, FP and FN of each person
    heads = _File("heads.parquet")  # one row for each head, with its status
    reference_fits = _File("references.json")  # how the linear probes were fitted, by encoder
    frames = _File("frames.json")  # how many annotated frames are scored, filled and left out
    provenance = _File("source.json")  # what the scores were made with
    intervals = _File("intervals.parquet")  # confidence intervals over people
    comparisons = _File("comparisons.parquet")  # paired tests between settings
    resolution = _File("resolution.json")  # the smallest difference that these people can show


class Postprocessing(_Folder):
    """The steps after the head, of one task."""

    steps = _File("steps.parquet")  # what each step brought
    choices = _File("choices.json")  # what each step is, by fold
    scores = _File("scores.parquet")  # probabilities after the steps
    cross_fitted = _File("cross.parquet")  # scores of training people by heads that never saw them
    heads = _File("heads.safetensors")  # heads on other encoders' features


class FinalHeads(_Folder):
    """The heads of one task that were trained on everybody, after scoring."""

    weights = _File("heads.safetensors")  # tensors by <encoder>/seed=<seed>/<name>


class Submission(_Folder):
    """One task's file for a challenge."""

    predictions = _File("predictions.txt")  # in the organisers' format
    coverage = _File("coverage.json")  # how many frames were predicted, and how


class Report(_Folder):
    """The report and its parts."""

    page = _File("index.html")
    metrics = _File("metrics.json")  # the headline numbers
    markdown = _File("report.md")
    main_table = _File("main.tex")  # for a paper, as the ablation
    ablation_table = _File("ablation.tex")
    citation = _File("citation.bib")
    finished = _File("finished.js")  # tells start.html that the report is of its run
    record = _File("run.json")  # what the numbers are a function of
    figures = _File("figures")
    tables = _File("tables")

    def card(self, task: str = "{task}") -> Path:
        """The model card of a task."""
        return self.folder / f"cards/{task}.md"


class Study(_Folder):
    """A study or card: its page and its own computations."""

    page = _File("index.html")
    answer = _File("answer.json")  # the question, and the answer of each task
    tables = _File("tables")
    figures = _File("figures")

    def person_counts(self, task: str = "{task}") -> Path:
        """TP, FP and FN of each person, for the cards that recompute embeddings."""
        return self.folder / f"counts/{task}.parquet"

    def control(self, task: str = "{task}") -> Path:
        """Scores of heads that were trained on permuted labels."""
        return self.folder / f"control/{task}.parquet"

    def heads(self, task: str = "{task}", part: str | int = "{part}") -> Heads:
        """The study's own heads."""
        return Heads(self.folder / f"models/{task}/{part}")

    def evaluation(self, task: str = "{task}") -> Evaluation:
        """Their scores."""
        return Evaluation(self.folder / f"evaluation/{task}")

    def submission(self, task: str = "{task}") -> Submission:
        """The challenge submission of the study's own variant."""
        return Submission(self.folder / f"submission/{task}")

    def on(self, encoder: str = "{encoder}") -> Study:
        """The same on the features of one encoder."""
        return Study(self.folder / f"on/{encoder}")


class Predictions(_Folder):
    """What ``snakemake predict`` writes."""

    page = _File("index.html")  # leads to the page of every video
    summary = _File("summary.csv")  # one row for each file
    columns = _File("columns.csv")  # the data dictionary
    all_frames = _File("all_frames.parquet")  # the rows of all files
    all_frames_text = _File("all_frames.csv")
    people = _File("people.csv")  # one row for each person in each video
    listing = _File("files.json")  # every file that was named

    def manifest(self, shard: str = "{shard}") -> Path:
        """The files of a shard."""
        return self.folder / f"manifests/{shard}.parquet"

    def frames(self, shard: str = "{shard}") -> Path:
        """Their frames."""
        return self.folder / f"frames/{shard}.parquet"

    def faces(self, crop: str = "{crop}", shard: str = "{shard}") -> Path:
        """Their faces, cropped in one way."""
        return self.folder / f"faces/{crop}/{shard}.parquet"

    def embeddings(self, encoder: str = "{encoder}", shard: str = "{shard}") -> Path:
        """The features of their faces."""
        return self.folder / f"embeddings/{encoder}/{shard}.parquet"

    def shard(self, shard: str = "{shard}") -> Path:
        """The folder of a shard's predictions, with a folder for each video."""
        return self.folder / shard


class Model(_Folder):
    """An exported model: what `clipaffect predict` and others need."""

    bundle = _File("bundle.json")  # everything about it, with the sha256 of all files
    readme = _File("README.md")  # the model card
    preprocessing = _File("preprocessing.json")  # the steps from an image to the encoder's input
    feature_statistics = _File(
        "feature_statistics.safetensors"
    )  # the distribution of the training features

    def heads(self, task: str = "{task}") -> Path:
        """The weights of a task's heads."""
        return self.folder / f"heads/{task}.safetensors"


class Dataset(_Folder):
    """The index of the data: files, and who and what is annotated in them."""

    summary = _File("summary.json")  # what the data set holds

    def manifest(self, shard: str = "{shard}") -> Path:
        """The videos and images of a shard."""
        return self.folder / f"manifests/{shard}.parquet"

    def labels(self, task: str = "{task}") -> Path:
        """Every label of a task."""
        return self.folder / f"labels/{task}.parquet"

    def ratings(self, task: str = "{task}") -> Path:
        """Every rater's labels of a task."""
        return self.folder / f"ratings/{task}.parquet"

    def test_frames(self, task: str = "{task}") -> Path:
        """The frames that a submission must cover."""
        return self.folder / f"test/{task}.parquet"


class Layout(_Folder):
    """A run's results folder, ``results/<run>``."""

    first_page = _File("start.html")  # stands while the long stages run
    timings = _File("timings")  # Snakemake's benchmark files
    studies_page = _File("studies/index.html")

    @property
    def model(self) -> Model:
        """The exported model."""
        return Model(self.folder / "model")

    @property
    def dataset(self) -> Dataset:
        """The data set's index."""
        return Dataset(self.folder / "dataset")

    def frames(self, shard: str = "{shard}") -> Path:
        """The frame index of a shard."""
        return self.folder / f"frames/{shard}.parquet"

    def faces(self, shard: str = "{shard}", crop: str = "") -> Path:
        """The faces of a shard; in a separate folder for encoders that use another crop."""
        return self.folder / "faces" / crop / f"{shard}.parquet"

    def embeddings(self, encoder: str = "{encoder}", shard: str = "{shard}") -> Path:
        """The features of a shard."""
        return self.folder / f"embeddings/{encoder}/{shard}.parquet"

    def import_counts(self, features: str) -> Path:
        """How many frames of an import were matched."""
        return self.folder / f"embeddings/{features}/import.json"

    def table(self, encoder: str = "{encoder}", task: str = "{task}") -> Table:
        """Labels and features of one encoder and task."""
        return Table(self.folder / f"tables/{encoder}/{task}")

    def copies(self, task: str = "{task}") -> Path:
        """Recordings that are in two splits."""
        return self.folder / f"copies/{task}.parquet"

    def heads(self, task: str = "{task}", part: str | int = "{part}") -> Heads:
        """One part of the grid of heads."""
        return Heads(self.folder / f"models/{task}/{part}")

    def references(self, encoder: str = "{encoder}", task: str = "{task}") -> Path:
        """Scores of the references on one encoder's features."""
        return self.folder / f"references/{encoder}/{task}.parquet"

    def reference_fits(self, encoder: str = "{encoder}", task: str = "{task}") -> Path:
        """How the linear probe on one encoder's features was fitted."""
        return self.folder / f"references/{encoder}/{task}.json"

    def evaluation(self, task: str = "{task}") -> Evaluation:
        """Scores of heads and references."""
        return Evaluation(self.folder / f"evaluation/{task}")

    def agreement(self, task: str = "{task}") -> Path:
        """How well several raters agree about the scored people."""
        return self.folder / f"evaluation/{task}/agreement.json"

    def postprocessing(self, task: str = "{task}") -> Postprocessing:
        """The steps after the head."""
        return Postprocessing(self.folder / f"postprocess/{task}")

    def final_heads(self, task: str = "{task}") -> FinalHeads:
        """The heads that are trained on everybody."""
        return FinalHeads(self.folder / f"final/{task}")

    def submission(self, task: str = "{task}", entry: str = "") -> Submission:
        """The file for a challenge: the main one, or that of another entry."""
        return Submission(self.folder / "submission" / task / entry)

    @property
    def report(self) -> Report:
        """The report."""
        return Report(self.folder / "report")

    def study(self, name: str) -> Study:
        """A study or card."""
        return Study(self.folder / f"studies/{name}")

    @property
    def predictions(self) -> Predictions:
        """Predictions of the videos that ``prediction`` names."""
        return Predictions(self.folder / "prediction")
