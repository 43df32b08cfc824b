"""The report's figures: Vega-Lite charts for the page, and the same ones as SVG, PDF and PNG.

On the page text and axes have the colour of the page's text, so that a dark page or a print
needs no second chart.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert
from markupsafe import Markup

from clipaffect.core.tasks import Task
from clipaffect.report.results import TaskResults, setting_name

# The accent and the greys can be read on white and on a dark page.
INK, ACCENT, SOFT, GREY = "#1f2933", "#1f86b5", "#9fb8c6", "#7b8794"
DASHED = ["#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02"]  # ColorBrewer's Dark2
HEADS, HEADLINE = "heads, mean over seeds", "headline alpha"
RATERS = "a rater, against the other raters"
# Widths of files in points, as which PDF takes pixels: two columns of a paper (7 in), one (3.4 in).
TWO_COLUMNS, ONE_COLUMN = 504, 245
PAGE_FONT, FILE_FONT, SMALL_FONT = 12, 9, 8  # of axes and legends; a page's in pixels
SCALE = 3.0
KINDS = (".svg", ".pdf", ".png", "_column.pdf")  # the files of a figure
TICKS = 6  # about as many labels fit beneath half a page
LEAST, DARK = 0.005, 0.9  # shares of a confusion: below the first, 0.00; above the other, white
Spec = dict[str, Any]


def chart_of(data: pd.DataFrame) -> alt.Chart:
    """A chart of a table; labels are taken as they are, whatever is in them."""
    return alt.Chart(alt.InlineData(json.loads(data.to_json(orient="records"))))


def finish(chart: alt.LayerChart | alt.FacetChart, alt_text: str, height: int) -> Spec:
    """A chart as wide as its place, with the words that a screen reader says for it."""
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    spec["description"] = alt_text
    spec.pop("config", None)
    return spec


def for_page(spec: Spec) -> Spec:
    """The chart as the page shows it: its colours are the page's."""
    return spec | {"background": "transparent", "config": _config("currentColor", PAGE_FONT)}


def for_file(spec: Spec, width: int = TWO_COLUMNS) -> Spec:
    """The chart on white, with axes and labels as wide as ``width``."""
    config = _config(INK, FILE_FONT if width == TWO_COLUMNS else SMALL_FONT)
    fit = {"type": "fit-x", "contains": "padding"}
    return spec | {"width": width, "autosize": fit, "background": "white", "config": config}


def _config(ink: str, size: int) -> Spec:
    text = {
        "labelColor": ink,
        "titleColor": ink,
        "labelFontSize": size,
        "titleFontSize": size,
        "titleFontWeight": "normal",
    }
    axis = text | {
        "domainColor": ink,
        "tickColor": ink,
        "gridColor": GREY,
        "gridOpacity": 0.3,
        "labelLimit": 180,
    }
    return {
        "axis": axis,
        "axisQuantitative": {"labelOverlap": True, "labelFlush": False},
        # One below the other: side by side, long names are cut on a phone.
        "legend": text | {"labelLimit": 300, "orient": "bottom", "columns": 1},
        "view": {"stroke": None},
        "text": {"color": ink, "fontSize": max(size - 2, 7)},
        "rule": {"color": ink},
        "font": "sans-serif",
    }


def save(spec: Spec, folder: Path, name: str) -> None:
    """Write ``<name>.svg``, ``.pdf`` and ``.png``, and ``<name>_column.pdf`` for one column."""
    folder.mkdir(parents=True, exist_ok=True)
    svg = vl_convert.vegalite_to_svg(for_file(spec))
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    (folder / f"{name}.pdf").write_bytes(_in_order(vl_convert.svg_to_pdf(svg)))
    (folder / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=SCALE))
    column = vl_convert.vegalite_to_svg(for_file(spec, ONE_COLUMN))
    (folder / f"{name}_column.pdf").write_bytes(_in_order(vl_convert.svg_to_pdf(column)))


def _in_order(pdf: bytes) -> bytes:
    """The entries of the PDF's resource dictionaries sorted: they come in another order each time.

    Their references stay what they are, and every object where it is.
    """

    def ordered(found: re.Match[bytes]) -> bytes:
        return found[1] + b"".join(sorted(found[2].splitlines(keepends=True))) + found[3]

    return re.sub(rb"(<<\n)((?: +/\w+ \d+ 0 R\n)+)( +>>)", ordered, pdf)


def script() -> Markup:
    """Vega, Vega-Lite and Vega-Embed, to be put into a page."""
    code = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    return Markup(code)  # noqa: S704 - the library's own code


PLAIN = {"seeds:Q", "people:Q", "frames:Q", "alpha:Q"}  # whole, or short as they are


def tooltips(*fields: tuple[str, str]) -> list[alt.Tooltip]:
    """Tooltips of (field, title); fractions have three decimals."""
    return [
        alt.Tooltip(name, title=title)
        if name.endswith(":N") or name in PLAIN
        else alt.Tooltip(name, title=title, format=".3f")
        for name, title in fields
    ]


def with_interval(table: pd.DataFrame) -> list[alt.Chart]:
    """A chart of the rows that have an interval; none where no row has: a layer of nothing."""
    known = table[table["low"].notna()]
    return [] if known.empty else [chart_of(known)]


def beside(results: TaskResults) -> Spec:
    """Headline, ERM, other settings and references, each with its interval over people."""
    table = results.macro_intervals().sort_values("estimate", ascending=False)
    table = table.assign(kind=np.where(table["method"] == "head", "head", "reference"))
    return dots(table[["name", "kind", "estimate", "low", "high", "seeds", "people"]])


def dots(table: pd.DataFrame) -> Spec:
    """Macro F1 with its interval in each row, in the table's order.

    Columns name, kind (``head`` or ``reference``), estimate, low, high, seeds, people.
    """
    chart = chart_of(table)
    where = alt.Y("name:N", sort=list(table["name"]), title=None)
    tips = tooltips(
        ("name:N", "setting"),
        ("estimate:Q", "macro F1"),
        ("low:Q", "low"),
        ("high:Q", "high"),
        ("seeds:Q", "seeds"),
        ("people:Q", "people"),
    )
    colour = alt.Color(
        "kind:N", scale=alt.Scale(domain=["head", "reference"], range=[ACCENT, GREY]), title=None
    )
    points = chart.mark_point(filled=True, size=80, opacity=1).encode(
        x=alt.X(
            "estimate:Q",
            title="macro F1, 95 % interval",
            scale=alt.Scale(zero=True),
            axis=alt.Axis(tickCount=TICKS),
        ),
        y=where,
        color=colour,
        tooltip=tips,
    )
    bars = [
        known.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title=""), x2="high:Q", y=where, color=colour
        )
        for known in with_interval(table[["name", "kind", "low", "high"]])
    ]
    return finish(
        alt.layer(points, *bars),
        "Dot plot of macro F1 of every setting and reference with 95 % intervals; the "
        "same numbers are in the table of scores.",
        max(90, 24 * len(table)),
    )


def from_erm(results: TaskResults) -> pd.DataFrame:
    """The comparisons with ERM over all targets, by variant and alpha."""
    table = results.comparisons
    is_erm = (table["second_method"] == "head") & (table["second_alpha"] == 1)
    is_erm &= (table["second_variant"] == "") & (table["target"] == "")
    return table[is_erm].sort_values(["variant", "alpha"], ignore_index=True)


def zero_line() -> alt.Chart:
    """A vertical line at zero, for charts of differences."""
    chart = chart_of(pd.DataFrame({"zero": [0.0]})).mark_rule(strokeWidth=1.5)
    return chart.encode(x=alt.X("zero:Q", title=""))


def differences(results: TaskResults, headline_alpha: float) -> Spec:
    """The paired difference of every setting from ERM, by alpha and variant; zero is marked.

    Without heads by ERM: ``beside``.
    """
    table = from_erm(results)
    if table.empty:
        return beside(results)
    table = table.assign(
        name=[setting_name(row) for _, row in table.iterrows()],
        kind=np.where(
            (table["alpha"] == headline_alpha) & (table["variant"] == ""),
            "headline, fixed beforehand",
            "exploratory",
        ),
    )
    chart = chart_of(table[["name", "kind", "difference", "low", "high", "p_adjusted"]])
    where = alt.Y("name:N", sort=list(table["name"]), title=None)
    domain = ["headline, fixed beforehand", "exploratory"]
    colour = alt.Color("kind:N", scale=alt.Scale(domain=domain, range=[ACCENT, GREY]), title=None)
    points = chart.mark_point(filled=True, opacity=1).encode(
        x=alt.X(
            "difference:Q",
            title="difference from ERM in macro F1, 95 % interval",
            axis=alt.Axis(tickCount=TICKS),
        ),
        y=where,
        color=colour,
        size=alt.Size(
            "kind:N", sort=domain, scale=alt.Scale(domain=domain, range=[160, 60]), title=None
        ),
        tooltip=tooltips(
            ("name:N", "setting"),
            ("difference:Q", "difference"),
            ("low:Q", "low"),
            ("high:Q", "high"),
            ("p_adjusted:Q", "p, adjusted"),
        ),
    )
    bars = [
        known.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title=""), x2="high:Q", y=where, color=colour
        )
        for known in with_interval(table[["name", "kind", "low", "high"]])
    ]
    return finish(
        alt.layer(zero_line(), *bars, points),
        "Dot plot of each setting's paired difference from ERM with its 95 % interval; the same "
        "numbers are in the table of comparisons.",
        max(90, 28 * len(table) + 40),
    )


def alpha_curve(results: TaskResults, headline_alpha: float) -> Spec:
    """Macro F1 over alpha with its interval over people, and the references near it as lines.

    The y axis covers only the curve and its band: a reference at 0.05 would flatten the curve.
    """
    table = results.over_alpha()
    values = table[["estimate", "low", "high"]].to_numpy(float)
    raters = results.agreement or {"raters": []}
    # Two raters are scored on frames on which the model is not: those where they disagree.
    ceiling = raters["macro_f1"]["estimate"] if len(raters["raters"]) > 2 else None
    if ceiling is not None:
        values = np.append(values, ceiling)
    low, high = np.nanmin(values), np.nanmax(values)
    margin = max(0.05 * (high - low), 0.002)
    span = [max(0.0, float(low - margin)), min(1.0, float(high + margin))]
    kept = ["alpha", "estimate", "low", "high", "seeds", "seed_deviation"]
    chart = chart_of(table[kept].assign(name=HEADS))
    x = alt.X(
        "alpha:Q",
        title="CVaR level alpha (1 = ERM)",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(tickCount=TICKS),
    )
    y = alt.Y(
        "estimate:Q",
        title="macro F1",
        scale=alt.Scale(zero=False, domain=span, nice=False),
    )
    tips = tooltips(
        ("alpha:Q", "alpha"),
        ("estimate:Q", "macro F1"),
        ("low:Q", "low"),
        ("high:Q", "high"),
        ("seed_deviation:Q", "standard deviation over seeds"),
        ("seeds:Q", "seeds"),
    )
    band = [
        known.mark_area(color=ACCENT, opacity=0.15).encode(
            x=x, y=alt.Y("low:Q", title=""), y2="high:Q"
        )
        for known in with_interval(table[["alpha", "low", "high"]])
    ]
    references = pd.DataFrame(results.references(), columns=["name", "estimate"])
    references = references[references["estimate"].between(*span)]
    if ceiling is not None:
        references.loc[len(references)] = [RATERS, ceiling]
    domain = [HEADS, HEADLINE, *references["name"]]
    colours = alt.Scale(domain=domain, range=[ACCENT, SOFT, *DASHED][: len(domain)])

    named = alt.Color("name:N", title=None, scale=colours)
    line = chart.mark_line(point=False).encode(x=x, y=y, color=named)
    points = chart.mark_point(color=ACCENT, filled=True, size=70, opacity=1).encode(
        x=x, y=y, tooltip=tips
    )
    mark = (
        chart_of(pd.DataFrame({"alpha": [headline_alpha], "name": HEADLINE}))
        .mark_rule(strokeWidth=2)
        .encode(x=x, color=named)
    )
    lines = (
        chart_of(references)
        .mark_rule(strokeDash=[5, 3], strokeWidth=1.5)
        .encode(
            y=y,
            color=named,
            tooltip=tooltips(("name:N", "reference"), ("estimate:Q", "macro F1")),
        )
    )
    # A layer without rows makes a picture without a size.
    beside = [lines] if len(references) else []
    return finish(
        alt.layer(mark, *beside, *band, line, points),
        "Line chart of macro F1 over the CVaR level alpha with a band of its 95 % interval, "
        "and the references within its range as dashed lines; the same numbers are in the "
        "table of scores.",
        300,
    )


def target_dots(results: TaskResults, headline_alpha: float) -> Spec:
    """F1 of each class or label at the headline alpha and under ERM, with its frames."""
    support = results.support()
    labels = {name: f"{name} ({support.get(name, 0):,})" for name in results.task.targets}
    rows = []
    for alpha in dict.fromkeys((headline_alpha, 1.0)):
        own = results.intervals[results.intervals["alpha"] == alpha].set_index("target")
        for target, value in zip(results.task.targets, results.f1_of_targets(alpha), strict=True):
            interval = own.loc[[target]].iloc[0] if target in own.index else {}
            rows.append(
                {
                    "target": labels[target],
                    "name": f"alpha = {alpha:g}" + (" (ERM)" if alpha == 1 else ""),
                    "f1": value,
                    "low": interval.get("low"),
                    "high": interval.get("high"),
                    "frames": support.get(target, 0),
                }
            )
    table = pd.DataFrame(rows)
    table[["low", "high"]] = table[["low", "high"]].astype(float).clip(0, 1)
    names = list(dict.fromkeys(table["name"]))
    y = alt.Y("target:N", sort=list(labels.values()), title=None)
    offset = alt.YOffset("name:N", sort=names, scale=alt.Scale(domain=names))
    colour = alt.Color(
        "name:N",
        title=None,
        sort=names,
        scale=alt.Scale(domain=names, range=[ACCENT, GREY][: len(names)]),
    )
    unit = alt.Scale(domain=[0, 1])
    points = (
        chart_of(table)
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.X("f1:Q", title="F1, 95 % interval", scale=unit),
            y=y,
            yOffset=offset,
            color=colour,
            tooltip=tooltips(
                ("target:N", "class or label"),
                ("name:N", "setting"),
                ("f1:Q", "F1"),
                ("low:Q", "low"),
                ("high:Q", "high"),
                ("frames:Q", "frames"),
            ),
        )
    )
    errors = [
        known.mark_rule(strokeWidth=1.5).encode(
            x=alt.X("low:Q", title="", scale=unit), x2="high:Q", y=y, yOffset=offset, color=colour
        )
        for known in with_interval(table)
    ]
    return finish(
        alt.layer(*errors, points),
        "Dot plot of F1 for each class or label at the headline alpha and under plain ERM, with "
        "95 % intervals where they are known; the same numbers are in targets.csv.",
        30 * len(labels) + 20,
    )


def confusion_map(results: TaskResults, headline_alpha: float) -> Spec:
    """Shares of decisions for each true class, or of present and absent frames of each label."""
    counts, names = results.counts(headline_alpha), results.task.targets
    if results.task.multilabel:
        cells = {
            "present, detected": (1, 1),
            "present, missed": (1, 0),
            "absent, false alarm": (0, 1),
            "absent, correct": (0, 0),
        }
        rows = [
            {
                "truth": name,
                "decision": shown,
                "frames": counts.get(f"{name}:{a}>{b}", 0),
                "of": sum(counts.get(f"{name}:{a}>{k}", 0) for k in (0, 1)),
            }
            for name in names
            for shown, (a, b) in cells.items()
        ]
        columns = list(cells)
    else:
        rows = [
            {
                "truth": a,
                "decision": b,
                "frames": counts.get(f"{a}>{b}", 0),
                "of": sum(counts.get(f"{a}>{k}", 0) for k in names),
            }
            for a in names
            for b in names
        ]
        columns = list(names)
    table = pd.DataFrame(rows)
    table["share"] = table["frames"] / table["of"].clip(lower=1)
    base = chart_of(table).encode(
        x=alt.X("decision:N", sort=columns, title="prediction", axis=alt.Axis(labelAngle=-35)),
        y=alt.Y("truth:N", sort=list(names), title="annotation"),
    )
    # From nothing to the accent: a scheme of colours begins with white, which glares at night.
    cells_ = base.mark_rect(color=ACCENT).encode(
        opacity=alt.Opacity(
            "share:Q", scale=alt.Scale(domain=[0, 1], range=[0.04, 1]), legend=None
        ),
        tooltip=tooltips(
            ("truth:N", "annotation"),
            ("decision:N", "prediction"),
            ("share:Q", "share"),
            ("frames:Q", "frames, all seeds"),
        ),
    )
    # Colours of text come from the configuration, except on dark cells; zeros are blank.
    text = base.mark_text().encode(text=alt.Text("share:Q", format=".2f"))
    light = text.transform_filter((alt.datum.share >= LEAST) & (alt.datum.share <= DARK))
    dark = text.transform_filter(alt.datum.share > DARK).encode(color=alt.value("white"))
    return finish(
        alt.layer(cells_, light, dark),
        "Heat map of decisions against annotations, as shares of each annotated class or state; "
        "each cell shows its share.",
        24 * len(names) + 30,
    )


def steps_slope(steps: pd.DataFrame) -> Spec:
    """Macro F1 after each step behind the head, a line for each task.

    Args:
        steps: columns task, step, macro_f1, in the order of the steps.
    """
    if steps.empty:  # a chart of nothing has no size
        said = pd.DataFrame({"said": ["No step could be chosen."]})
        text = chart_of(said).mark_text().encode(text="said:N")
        return finish(alt.layer(text), "No step behind the head could be chosen on these data.", 60)
    names = [step.replace("_", " ") for step in dict.fromkeys(steps["step"])]
    table = steps.assign(step=steps["step"].str.replace("_", " "))
    tasks = list(dict.fromkeys(table["task"]))
    base = chart_of(table[["task", "step", "macro_f1"]]).encode(
        x=alt.X("step:N", sort=names, title=None, axis=alt.Axis(labelAngle=-25)),
        y=alt.Y("macro_f1:Q", title="macro F1", scale=alt.Scale(zero=False, padding=15)),
        color=alt.Color(
            "task:N", title=None, scale=alt.Scale(domain=tasks, range=[ACCENT, *DASHED])
        ),
        tooltip=tooltips(("task:N", "task"), ("step:N", "after"), ("macro_f1:Q", "macro F1")),
    )
    return finish(
        alt.layer(base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=70, opacity=1)),
        "Slope chart of macro F1 after each step behind the head; the same numbers are in the "
        "table of steps.",
        260,
    )


def class_shares(summary: dict[str, Any], task: Task) -> Spec:
    """The share of annotated frames that show each class or label, by split."""
    splits = summary["tasks"][task.name]
    rows = [
        {
            "target": target,
            "split": split,
            "share": own["counts"][target] / max(own["annotated"], 1),
            "frames": own["counts"][target],
        }
        for split, own in splits.items()
        for target in task.targets
    ]
    names = list(splits)
    bars = (
        chart_of(pd.DataFrame(rows))
        .mark_bar()
        .encode(
            x=alt.X(
                "share:Q",
                title="share of annotated frames",
                axis=alt.Axis(format="%", tickCount=TICKS),
            ),
            y=alt.Y("target:N", sort=list(task.targets), title=None),
            yOffset=alt.YOffset("split:N", sort=names),
            color=alt.Color(
                "split:N",
                title=None,
                sort=names,
                scale=alt.Scale(domain=names, range=[ACCENT, SOFT, *DASHED]),
            ),
            tooltip=tooltips(
                ("target:N", "class or label"),
                ("split:N", "split"),
                ("share:Q", "share"),
                ("frames:Q", "frames"),
            ),
        )
    )
    return finish(
        alt.layer(bars),
        "Bar chart of the share of annotated frames with each class or label, by split.",
        22 * len(task.targets) + 20,
    )


def calibration(results: TaskResults, headline_alpha: float) -> Spec:
    """Confidence against the share that is correct, at the headline alpha, seeds pooled."""
    parts = {
        metric: results.values(f"reliability_{metric}", "head", alpha=headline_alpha).set_index(
            ["seed", "target"]
        )["value"]
        for metric in ("frames", "confidence", "share")
    }
    table = pd.DataFrame(parts)
    weighed = table[["confidence", "share"]].mul(table["frames"], axis=0)
    sums = weighed.assign(frames=table["frames"]).groupby("target").sum()
    bins = sums[["confidence", "share"]].div(sums["frames"], axis=0)
    bins = bins.assign(frames=sums["frames"]).reset_index(drop=True)
    what = "share of labels present" if results.task.multilabel else "share that is correct"
    unit = alt.Scale(domain=[0, 1])
    diagonal = chart_of(pd.DataFrame({"x": [0.0, 1.0]}))
    ideal = diagonal.mark_line(color=GREY, strokeDash=[4, 3]).encode(
        x=alt.X("x:Q", scale=unit, title="predicted probability"),
        y=alt.Y("x:Q", scale=unit, title=""),
    )
    points = (
        chart_of(bins)
        .mark_point(filled=True, color=ACCENT, opacity=1)
        .encode(
            x=alt.X("confidence:Q", scale=unit, title="predicted probability"),
            y=alt.Y("share:Q", scale=unit, title=what),
            size=alt.Size(
                "frames:Q", title="predictions", scale=alt.Scale(range=[20, 500]), legend=None
            ),
            tooltip=tooltips(
                ("confidence:Q", "predicted probability"),
                ("share:Q", what),
                ("frames:Q", "predictions"),
            ),
        )
    )
    return finish(
        ideal + points,
        "Reliability plot: the probability that heads give against the share that is correct; the "
        "dashed diagonal is perfect calibration.",
        260,
    )
