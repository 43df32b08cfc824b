"""The published size of Aff-Wild2's splits (ABAW6), and how what was found compares.

Counts are of labelled frames that have an image in the organisers' cropped_aligned folders, and of
those that have none; classes and units are counted over the former. Sources: the frame lists that
the authors of arXiv 2403.09915 published, and the organisers' annotation files of the 6th edition.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One split of one task.

    Attributes:
        with_image, without_image: labelled frames.
        counts: frames of each class, where published.
        percent: of frames that show each unit, where published.
    """

    with_image: int
    without_image: int
    counts: tuple[int, ...] | None = None
    percent: tuple[float, ...] | None = None


PUBLISHED: dict[tuple[str, str], Published] = {
    ("EXPR", "train"): Published(
        585_317, 12_044, (177198, 16573, 10771, 9080, 95463, 78751, 31615, 165866)
    ),
    ("EXPR", "validation"): Published(
        280_532, 3_698, (82258, 6126, 5296, 8408, 34511, 25157, 12332, 106444)
    ),
    ("AU", "train"): Published(
        1_356_694,
        2_829,
        None,
        (11.8, 5.0, 15.4, 26.6, 39.7, 34.4, 24.5, 2.8, 3.1, 2.6, 62.7, 7.4),
    ),
    ("AU", "validation"): Published(445_836, 9),
}
EDITION = 6
ROUNDED = 0.06  # per cent: the published shares have one decimal
NEAR = 0.5  # share of the published frames above which a difference is worth listing


def verdict(
    task: str, split: str, labelled: int, with_image: int | None, counts: dict[str, int]
) -> tuple[str, str]:
    """('as_published' | 'differs' | 'other', a sentence) for one split.

    Args:
        task, split: which.
        labelled: annotated frames.
        with_image: those with a crop; None where crops come from videos and are not known yet.
        counts: frames that show each class or unit, of those with an image if known.
    """
    published = PUBLISHED.get((task, split))
    if published is None:
        return "other", ""
    name = f"the ABAW6 {task} {'training' if split == 'train' else split} set"
    total = published.with_image + published.without_image
    if with_image is None:
        if labelled == total:
            return "as_published", f"this is {name}: {total:,} labelled frames, as published"
        found, expected = labelled, total
    else:
        if with_image == published.with_image and not _off(published, with_image, counts):
            return "as_published", f"this is {name}: {with_image:,} frames, as published"
        if labelled == total and with_image < published.with_image:
            return "differs", (
                f"the annotations are those of {name} ({total:,} labelled frames), but "
                f"{published.with_image - with_image:,} more frames than published have no image. "
                "Is a root such as cropped_aligned_new_50_vids missing from data.images?"
            )
        found, expected = with_image, published.with_image
    if not NEAR * expected < found < expected / NEAR:
        return "other", f"not {name}: {found:,} frames, published {expected:,}"
    difference = f"{found:,} frames, published {expected:,} ({found - expected:+,})"
    text = f"not {name} as published: {difference}"
    if with_image and (off := _off(published, with_image, counts)):
        text += f"; {', '.join(off)}"
    return "differs", text


def _off(published: Published, with_image: int, counts: dict[str, int]) -> list[str]:
    """The differences by class (in frames) or by unit (in per cent, as published)."""
    if published.counts is not None:
        pairs = zip(counts.items(), published.counts, strict=True)
        return [f"{name} {n - p:+,}" for (name, n), p in pairs if n != p]
    if published.percent is not None:
        shares = {name: 100 * n / with_image for name, n in counts.items()}
        found = zip(shares.items(), published.percent, strict=True)
        return [f"{name} {s:.1f} % for {p} %" for (name, s), p in found if abs(s - p) > ROUNDED]
    return []


def published_counts(task: str, split: str) -> list[str] | None:
    """The published count of each class or unit as text, where available."""
    published = PUBLISHED.get((task, split))
    if published is None:
        return None
    if published.counts is not None:
        return [f"{count:,}" for count in published.counts]
    if published.percent is not None:
        return [f"{share} %" for share in published.percent]
    return None
