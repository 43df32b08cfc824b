"""Every shape of Aff-Wild2 on disk: crops in several roots, sides, multi-task files, test lists."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from conftest import EVERY_CLASS, EVERY_UNIT, annotation, write_annotation, write_video

from clipaffect.config.data import Data, SplitFiles, Subset
from clipaffect.core.errors import UserError
from clipaffect.core.parquet import read_table
from clipaffect.core.tasks import AU, EXPR, Task
from clipaffect.dataset.files import list_frames, natural_order, scan_crops
from clipaffect.dataset.index_dataset import index_dataset
from clipaffect.dataset.inventory import inventory
from clipaffect.dataset.readers.aff_wild2 import FOLDERS, scan_tree
from clipaffect.dataset.readers.annotation_files import _read_clean, _read_lines, read_annotation
from clipaffect.dataset.readers.registry import read_dataset
from clipaffect.faces.crops import decode_image, encode_crop


def crops(folder: Path, *frames: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in frames:
        (folder / f"{number:05d}.jpg").write_bytes(b"")
    return folder


@pytest.fixture
def crop_tree(tmp_path: Path) -> Path:
    """Crops in three roots, one of them with batches below; no video."""
    crops(tmp_path / "cropped_aligned/1-30-1280x720", 1, 2, 4, 5, 6, 7, 8, 11)
    crops(tmp_path / "cropped_aligned/4-30_left", 1)
    crops(tmp_path / "cropped_aligned_new_50_vids/batch1/4-30_right", 2)
    crops(tmp_path / "cropped_aligned_new_50_vids/batch2/video99", 1, 2)
    crops(tmp_path / "cropped/video99", 1)
    (tmp_path / "cropped/.DS_Store").write_text("")
    for name, split in (
        ("1-30-1280x720", "Train_Set"),
        ("4-30_left", "Train_Set"),
        ("4-30_right", "Train_Set"),
        ("video99", "Validation_Set"),
    ):
        for task, rows in ((EXPR, EVERY_CLASS), (AU, EVERY_UNIT)):
            write_annotation(annotation(tmp_path, task, split, name), task.header, rows)
    return tmp_path


def data(root: Path, **changes: object) -> Data:
    roots = ("cropped_aligned", "cropped_aligned_new_50_vids", "cropped")
    values = {
        "images": [str(root / r) for r in roots],
        "annotations": str(root / "annotations"),
        "shards": 1,
    }
    return Data.model_validate(values | changes)


def test_crops_in_several_roots_at_any_depth(crop_tree: Path) -> None:
    tree = scan_tree(data(crop_tree), (EXPR, AU))
    assert tree.videos == {}
    assert set(tree.crops.used) == {"1-30-1280x720", "4-30_left", "4-30_right", "video99"}
    # of two folders of one name the first root's, and the other is told
    assert "batch2" in str(tree.crops.used["video99"])
    assert tree.crops.shadowed == {"video99": [crop_tree / "cropped/video99"]}
    # left and right are people of one video
    assert tree.people()["4-30"] == ["left", "right"]


def test_manifests_hold_each_persons_folder(crop_tree: Path) -> None:
    index_dataset(data(crop_tree), (EXPR,), crop_tree / "out")
    manifest = read_table(crop_tree / "out/manifests/0000.parquet").set_index("video")
    assert list(manifest.loc["4-30", "persons"]) == ["left", "right"]
    assert [Path(f).name for f in manifest.loc["4-30", "folders"]] == ["4-30_left", "4-30_right"]
    assert set(manifest["path"]) == {""}


def test_videos_stand_in_for_people_without_crops(crop_tree: Path) -> None:
    write_video(crop_tree / "videos/batch2/4-30.mp4")
    write_video(crop_tree / "videos/batch2/video99.mp4")
    (crop_tree / "cropped_aligned/4-30_left/00001.jpg").unlink()
    (crop_tree / "cropped_aligned/4-30_left").rmdir()
    settings = data(crop_tree, videos=str(crop_tree / "videos"))
    index_dataset(settings, (EXPR,), crop_tree / "out")
    manifest = read_table(crop_tree / "out/manifests/0000.parquet").set_index("video")
    assert manifest.loc["4-30", "path"].endswith("4-30.mp4")
    assert manifest.loc["4-30", "folders"][0] == ""
    assert manifest.loc["video99", "path"] == ""  # it has crops: the video is not decoded


@pytest.mark.parametrize("folder", ["EXPR_Recognition_Challenge", "EXPR_Classification_Challenge"])
def test_folder_names_of_the_editions(crop_tree: Path, folder: str) -> None:
    found = crop_tree / "annotations" / FOLDERS[EXPR.name][0]
    found.rename(crop_tree / "annotations" / folder)
    assert len(scan_tree(data(crop_tree), (EXPR,)).annotations) == 4


def test_a_changed_folder_of_crops_changes_the_inventory(crop_tree: Path) -> None:
    before = inventory(data(crop_tree), (EXPR,))
    crops(crop_tree / "cropped_aligned/1-30-1280x720", 3)
    assert inventory(data(crop_tree), (EXPR,)) != before


def test_frames_of_a_folder(tmp_path: Path) -> None:
    folder = crops(tmp_path / "v", 10, 2)
    for name in ("Thumbs.db", "00000.jpg", "x.jpg", ".hidden.jpg", "7.PNG"):
        (folder / name).write_text("")
    found = list_frames(folder)
    assert found.numbers.tolist() == [2, 7, 10]
    assert found.others == ["00000.jpg", "Thumbs.db", "x.jpg"]
    assert list_frames(folder, limit=7).numbers.tolist() == [2, 7]
    (folder / "2.jpeg").write_text("")
    with pytest.raises(UserError, match="are the same frame, 2"):
        list_frames(folder)


def test_wrong_roots_are_named(tmp_path: Path) -> None:
    crops(tmp_path / "direct", 1)
    with pytest.raises(UserError, match="2 problems were found") as caught:
        scan_crops((str(tmp_path / "nowhere"), str(tmp_path / "direct")))
    assert "the folder of crops does not exist" in str(caught.value)
    assert "images lie directly in the folder" in str(caught.value)


def test_what_is_not_there_is_told(crop_tree: Path) -> None:
    with pytest.raises(UserError, match="no video file"):
        scan_tree(data(crop_tree, videos=str(crop_tree / "cropped")), (EXPR,))
    with pytest.raises(UserError, match="the annotation folder does not exist"):
        scan_tree(data(crop_tree, annotations=str(crop_tree / "gone")), (EXPR,))
    one = data(crop_tree, images=str(crop_tree / "cropped_aligned"))  # one root needs no list
    assert one.images == (str(crop_tree / "cropped_aligned"),)
    cut = data(crop_tree, subset={"train": 1, "validation": 1, "frames": 3})
    with pytest.raises(UserError, match="in its first frames") as caught:
        read_dataset(cut, (EXPR,))
    assert caught.value.where == "data.subset.frames"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    crops(tmp_path / "root/v", 1)
    (tmp_path / "root/again").symlink_to(tmp_path / "root")
    assert set(scan_crops((str(tmp_path / "root"),)).used) == {"v"}


MULTITASK = "image,valence,arousal,expression," + AU.header


def multitask(root: Path) -> SplitFiles:
    """Each class and unit in training; frame 9 has units alone, frame 10 a class alone."""
    units = {0: ",".join("1" * 12), 1: ",".join("0" * 12)}
    rows = [f"4-30_left/{k + 1:05d}.jpg,0.1,-5,{k},{units[k % 2]}" for k in range(8)]
    rows += [f"1-30-1280x720/00009.jpg,-5,-5,-1,{units[0]}"]
    rows += [f"1-30-1280x720/00002.jpg,-5,-5,3.0,{','.join(['-1'] * 12)}"]
    (root / "train.txt").write_text("\n".join([MULTITASK, *rows]) + "\n")
    (root / "validation.txt").write_text(
        "\n".join([MULTITASK, f"video99/00001.jpg,0,0,5,{units[1]}"])
    )
    return SplitFiles(train=str(root / "train.txt"), validation=str(root / "validation.txt"))


def test_multitask_files_mask_task_by_task(crop_tree: Path) -> None:
    settings = data(crop_tree, multitask=multitask(crop_tree))
    tree, labels = read_dataset(settings, (EXPR, AU))
    assert tree.people() == {"1-30-1280x720": [""], "4-30": ["left"], "video99": [""]}
    expr = labels["EXPR"].set_index(["video", "frame"])
    assert not expr.loc[("1-30-1280x720", 9), "annotated"]
    assert expr.loc[("1-30-1280x720", 2), "label"] == 3
    units = labels["AU"].set_index(["video", "frame"])
    assert units.loc[("1-30-1280x720", 9), "annotated"]
    assert not units.loc[("1-30-1280x720", 2), "annotated"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("v/00001.jpg,0,0,8" + ",0" * 12, "not a label of expression"),
        ("v/00001.jpg,0,0,2.5" + ",0" * 12, "not a label of expression"),
        ("v/00001.jpg,0,0,1" + ",0" * 11 + ",2", "not a label of AU26"),
        ("v/00001.jpg,0,0,1" + ",0" * 11, "15 values"),
        ("../v/00001.jpg,0,0,1" + ",0" * 12, "is not an image"),
    ],
)
def test_wrong_lines_of_a_multitask_file(crop_tree: Path, line: str, words: str) -> None:
    files = multitask(crop_tree)
    with Path(files.train).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=words) as caught:
        read_dataset(data(crop_tree, multitask=files), (EXPR, AU))
    assert "line 12" in str(caught.value)


def test_test_lists_need_no_labels(crop_tree: Path) -> None:
    crops(crop_tree / "cropped_aligned/9-60_right", 1, 2)
    (crop_tree / "names.txt").write_text("9-60_right\n\nvideo99\n")
    sample = ["image_location," + AU.header, "9-60_right/00001.jpg", "9-60_right/00003.jpg,0"]
    (crop_tree / "sample.txt").write_text("\n".join(sample))
    test = {"EXPR": str(crop_tree / "names.txt"), "AU": str(crop_tree / "sample.txt")}
    tree = scan_tree(data(crop_tree, test=test), (EXPR, AU))
    assert tree.people()["9-60"] == ["right"]
    assert tree.test["EXPR"].rows["frame"].tolist() == [0, 0]
    assert tree.test["AU"].rows["frame"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("../../etc\n", "is not the name of a video"),
        ("image_location,x\n../00001.jpg\n/etc/passwd\n", "'/etc/passwd' is not an image"),
        ("image_location,x\nv/00001.jpg\nv/00001.jpg,1\n", "repeats line 2"),
        ("\n\n", "names no frames or videos"),
    ],
)
def test_wrong_test_lists(crop_tree: Path, text: str, words: str) -> None:
    (crop_tree / "list.txt").write_text(text)
    with pytest.raises(UserError) as caught:
        scan_tree(data(crop_tree, test={"EXPR": str(crop_tree / "list.txt")}), (EXPR,))
    assert words in str(caught.value)


def test_a_subset_shows_every_class_or_takes_more_videos(tmp_path: Path) -> None:
    for k in range(8):
        crops(tmp_path / f"crops/t{k}", 1)
        write_annotation(
            annotation(tmp_path, EXPR, "Train_Set", f"t{k}"), EXPR.header, ["0", str(k)]
        )
    write_annotation(annotation(tmp_path, EXPR, "Train_Set", "t9"), EXPR.header, list("1234567"))
    for k in range(5):
        write_annotation(
            annotation(tmp_path, EXPR, "Validation_Set", f"v{k}"), EXPR.header, ["0", str(k)]
        )
    settings = {"images": [str(tmp_path / "crops")], "annotations": str(tmp_path / "annotations")}

    def chosen(**subset: int) -> set[str]:
        chosen = Data.model_validate(settings | {"subset": Subset(**subset)})
        return set(read_dataset(chosen, (EXPR,))[1]["EXPR"]["video"])

    assert chosen(train=3, validation=2) == {"t9", "t0", "t1", "v1", "v2"}
    # of the first two frames alone, no video shows more than two classes
    short = chosen(train=1, validation=1, frames=2)
    assert {video for video in short if video[0] == "t"} == {f"t{k}" for k in range(1, 8)}


@pytest.mark.parametrize("task", [EXPR, AU], ids=lambda t: t.name)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("1", " 1"),
        lambda text: text.replace("\n", "\n\n", 3),
        lambda text: text[:-2] + "9\n",
        lambda text: text[:-2] + "x\n",
        lambda text: text[:-2] + '"1"\n',
        lambda text: text[:-2] + "\n",
        lambda text: text + "1,1\n",
        lambda text: text + "NA\n",
        lambda text: text.split("\n")[0] + "\n",
    ],
)
def test_the_fast_reader_gives_what_the_strict_one_gives(
    task: Task, change, tmp_path: Path
) -> None:
    path = write_annotation(
        tmp_path / "a.txt", task.header, EVERY_UNIT if task.multilabel else EVERY_CLASS
    )
    path.write_bytes(change(path.read_text()).encode())
    fast = _read_clean(path, task)
    try:
        strict = _read_lines(path, task)
    except UserError:
        assert fast is None
        with pytest.raises(UserError, match=r"line|row"):
            read_annotation(path, task)
        return
    assert fast is None or np.array_equal(fast, strict)
    assert np.array_equal(read_annotation(path, task), strict)


def test_damaged_images_are_told_from_whole_ones() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8)
    whole = encode_crop(picture)
    assert decode_image(whole).shape == (112, 112, 3)
    assert decode_image(whole + b"\0" * 16).shape == (112, 112, 3)
    for broken in (
        b"",
        whole[:200],
        whole[: len(whole) // 2],
        whole[:-6],
        b"no image",
        b"junk" + whole[-40:],
    ):
        assert decode_image(broken) is None


def test_a_subset_has_a_validation_video_of_each_task(tmp_path: Path) -> None:
    for name, expr, au in (
        ("a", "Train_Set", "Validation_Set"),
        ("b", "Validation_Set", "Train_Set"),
    ):
        crops(tmp_path / "crops" / name, *range(1, 13))
        write_annotation(annotation(tmp_path, EXPR, expr, name), EXPR.header, EVERY_CLASS)
        write_annotation(annotation(tmp_path, AU, au, name), AU.header, EVERY_UNIT)
    settings = {
        "images": [str(tmp_path / "crops")],
        "annotations": str(tmp_path / "annotations"),
        "subset": Subset(train=1, validation=1),
    }
    _, labels = read_dataset(Data.model_validate(settings), (EXPR, AU))
    for rows in labels.values():
        assert set(rows["split"]) == {"train", "validation"}


def test_names_that_differ_by_zeros_have_one_order() -> None:
    names = ["t1", "t01", "t001", "t2"]
    orders = {tuple(sorted(p, key=natural_order)) for p in itertools.permutations(names)}
    assert len(orders) == 1


def test_an_empty_folder_never_hides_a_full_one(tmp_path: Path) -> None:
    crops(tmp_path / "root/a/clip")
    full = crops(tmp_path / "root/b/clip", 1)
    crops(tmp_path / "root/__MACOSX/clip")
    crops(tmp_path / "root/b/clip/below", 2)  # a folder beside frames is looked into
    found = scan_crops((str(tmp_path / "root"),))
    assert found.used == {"clip": full, "below": full / "below"}
    assert found.shadowed == {"clip": [tmp_path / "root/a/clip"]}
    (tmp_path / "root/link").symlink_to(full)
    assert "link" in scan_crops((str(tmp_path / "root"),)).used
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="there is no folder of crops"):
        scan_crops((str(tmp_path / "nothing"),))


def test_manifests_tell_an_added_and_a_changed_image(crop_tree: Path) -> None:
    def manifest() -> bytes:
        index_dataset(data(crop_tree), (EXPR,), crop_tree / "out")
        return (crop_tree / "out/manifests/0000.parquet").read_bytes()

    states = [manifest()]
    image = crop_tree / "cropped_aligned/1-30-1280x720/00003.jpg"
    for content in (b"", b"longer"):
        image.write_bytes(content)
        states.append(manifest())
    assert len(set(states)) == 3


def test_a_source_video_in_both_splits_however_its_sides_are_written(crop_tree: Path) -> None:
    for name, split in (("x_Left", "Train_Set"), ("x_RIGHT", "Validation_Set")):
        write_annotation(annotation(crop_tree, EXPR, split, name), EXPR.header, EVERY_CLASS)
    with pytest.raises(UserError, match="'x' is in both splits of EXPR"):
        scan_tree(data(crop_tree), (EXPR,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MULTITASK.replace("AU1,AU2", "AU2,AU1") + "\nv/00001.jpg,0,0,1" + ",0" * 12, "AU2,AU1"),
        ("\xff", "is not valid text"),
        (MULTITASK + "\n", "no rows below the header"),
    ],
)
def test_multitask_files_that_cannot_be_meant(crop_tree: Path, text: str, words: str) -> None:
    files = multitask(crop_tree)
    Path(files.validation).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words):
        read_dataset(data(crop_tree, multitask=files), (EXPR, AU))


def test_the_other_tasks_sample_file_and_unknown_names_are_refused(crop_tree: Path) -> None:
    path = crop_tree / "sample.txt"
    path.write_text(f"image_location,{AU.header}\nvideo99/00001.jpg\n")
    with pytest.raises(UserError, match="the file is for AU, not for EXPR"):
        scan_tree(data(crop_tree, test={"EXPR": str(path)}), (EXPR,))
    path.write_text("video99\nvideo99.mp4\n")
    with pytest.raises(UserError, match="no crops and no video") as caught:
        scan_tree(data(crop_tree, test={"EXPR": str(path)}), (EXPR,))
    assert "line 2" in caught.value.where


def test_a_limit_before_the_first_image_leaves_rows_without_image(tmp_path: Path) -> None:
    folder = crops(tmp_path / "v", 50, 60)
    found = list_frames(folder, limit=40)
    assert (found.last, len(found.numbers)) == (40, 0)
