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

from clipaffect.report.results import TaskResults

INK, ACCENT, SOFT, GREY = "#1f2933", "#0b6e99", "#9fb8c6", "#7b8794"
STATIC_WIDTH, SCALE = 620, 2.0
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
    return spec | {"background": "transparent", "config": _config("currentColor")}


def for_file(spec: Spec) -> Spec:
    """The chart on white, of one width."""
    return spec | {"width": STATIC_WIDTH, "background": "white", "config": _config(INK)}


def _config(ink: str) -> Spec:
    text = {
        "labelColor": ink,
        "titleColor": ink,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    axis = text | {
        "domainColor": ink,
        "tickColor": ink,
        "gridColor": GREY,
        "gridOpacity": 0.3,
        "labelLimit": 260,
    }
    return {
        "axis": axis,
        "legend": text | {"labelLimit": 300, "orient": "bottom"},
        "view": {"stroke": None},
        "text": {"color": ink},
        "rule": {"color": ink},
        "font": "sans-serif",
    }


def save(spec: Spec, folder: Path, name: str) -> None:
    """Write ``<name>.svg``, ``<name>.pdf`` and ``<name>.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    svg = vl_convert.vegalite_to_svg(for_file(spec))
    (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    (folder / f"{name}.pdf").write_bytes(_in_order(vl_convert.svg_to_pdf(svg)))
    (folder / f"{name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=SCALE))


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
        x=alt.X("estimate:Q", title="macro F1, 95 % interval", scale=alt.Scale(zero=True)),
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


def alpha_curve(results: TaskResults, headline_alpha: float) -> Spec:
    """Macro F1 over alpha with its interval over people, and the references near it as lines.

    The y axis covers only the curve and its band: a reference at 0.05 would flatten the curve.
    """
    table = results.over_alpha()
    values = table[["estimate", "low", "high"]].to_numpy(float)
    low, high = np.nanmin(values), np.nanmax(values)
    margin = max(0.05 * (high - low), 0.002)
    span = [max(0.0, float(low - margin)), min(1.0, float(high + margin))]
    chart = chart_of(table[["alpha", "estimate", "low", "high", "seeds", "seed_deviation"]])
    x = alt.X("alpha:Q", title="CVaR level alpha (1 = ERM)", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y(
        "estimate:Q",
        title="macro F1, validation",
        scale=alt.Scale(zero=False, domain=span, nice=False),
    )
    tips = tooltips(
        ("alpha:Q", "alpha"),
        ("estimate:Q", "macro F1"),
        ("low:Q", "low"),
        ("high:Q", "high"),
        ("seed_deviation:Q", "deviation over seeds"),
        ("seeds:Q", "seeds"),
    )
    band = [
        known.mark_area(color=ACCENT, opacity=0.15).encode(
            x=x, y=alt.Y("low:Q", title=""), y2="high:Q"
        )
        for known in with_interval(table[["alpha", "low", "high"]])
    ]
    line = chart.mark_line(color=ACCENT, point=False).encode(x=x, y=y)
    points = chart.mark_point(color=ACCENT, filled=True, size=70, opacity=1).encode(
        x=x, y=y, tooltip=tips
    )
    mark = chart_of(pd.DataFrame({"alpha": [headline_alpha]})).mark_rule(color=SOFT).encode(x=x)
    references = pd.DataFrame(results.references(), columns=["name", "estimate"])
    references = references[references["estimate"].between(*span)]
    lines = (
        chart_of(references)
        .mark_rule(strokeDash=[5, 3], strokeWidth=1.5)
        .encode(
            y=y,
            color=alt.Color("name:N", title=None, scale=alt.Scale(scheme="dark2")),
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
        320,
    )


def target_bars(results: TaskResults, headline_alpha: float) -> Spec:
    """F1 of each class or label at the headline alpha and under ERM."""
    support = results.support()
    rows = []
    for alpha in dict.fromkeys((headline_alpha, 1.0)):
        own = results.intervals[results.intervals["alpha"] == alpha].set_index("target")
        for target, value in zip(results.task.targets, results.f1_of_targets(alpha), strict=True):
            interval = own.loc[[target]].iloc[0] if target in own.index else {}
            rows.append(
                {
                    "target": target,
                    "name": f"alpha = {alpha:g}" + (" (ERM)" if alpha == 1 else ""),
                    "f1": value,
                    "low": interval.get("low"),
                    "high": interval.get("high"),
                    "frames": support.get(target, 0),
                }
            )
    table = pd.DataFrame(rows)
    names = list(dict.fromkeys(table["name"]))
    chart = chart_of(table)
    x = alt.X(
        "target:N", sort=list(results.task.targets), title=None, axis=alt.Axis(labelAngle=-35)
    )
    offset = alt.XOffset("name:N", sort=names)
    bars = chart.mark_bar().encode(
        x=x,
        xOffset=offset,
        y=alt.Y("f1:Q", title="F1, validation", scale=alt.Scale(domain=[0, 1])),
        color=alt.Color(
            "name:N",
            title=None,
            sort=names,
            scale=alt.Scale(domain=names, range=[ACCENT, SOFT][: len(names)]),
        ),
        tooltip=tooltips(
            ("target:N", "class or label"),
            ("name:N", "setting"),
            ("f1:Q", "F1"),
            ("low:Q", "low"),
            ("high:Q", "high"),
            ("frames:Q", "frames"),
        ),
    )
    errors = [
        known.mark_rule().encode(x=x, xOffset=offset, y=alt.Y("low:Q", title=""), y2="high:Q")
        for known in with_interval(table)
    ]
    return finish(
        alt.layer(bars, *errors),
        "Bar chart of F1 for each class or label at the headline alpha and under plain ERM, with "
        "95 % intervals where they are known; the same numbers are in targets.csv.",
        260,
    )


def confusion_map(results: TaskResults, headline_alpha: float) -> Spec:
    """Shares of decisions for each true class, or of present and absent frames of each label."""
    counts, names = results.counts(headline_alpha), results.task.targets
    if results.task.multilabel:
        cells = {
            "present, found": (1, 1),
            "present, missed": (1, 0),
            "absent, false alarm": (0, 1),
            "absent, left": (0, 0),
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
        x=alt.X("decision:N", sort=columns, title="decision", axis=alt.Axis(labelAngle=-35)),
        y=alt.Y("truth:N", sort=list(names), title="annotation"),
    )
    cells_ = base.mark_rect().encode(
        color=alt.Color("share:Q", scale=alt.Scale(scheme="blues", domain=[0, 1]), legend=None),
        tooltip=tooltips(
            ("truth:N", "annotation"),
            ("decision:N", "decision"),
            ("share:Q", "share"),
            ("frames:Q", "frames, all seeds"),
        ),
    )
    text = base.mark_text(fontSize=11).encode(
        text=alt.Text("share:Q", format=".2f"),
        color=alt.when(alt.datum.share > 0.55).then(alt.value("white")).otherwise(alt.value(INK)),
    )
    return finish(
        cells_ + text,
        "Heat map of decisions against annotations, as shares of each annotated class or state; "
        "each cell shows its share.",
        28 * len(names) + 30,
    )


def calibration(results: TaskResults, headline_alpha: float) -> Spec:
    """Confidence against the share that is right, at the headline alpha, seeds pooled."""
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
    what = "share of labels present" if results.task.multilabel else "share that is right"
    unit = alt.Scale(domain=[0, 1])
    diagonal = chart_of(pd.DataFrame({"x": [0.0, 1.0]}))
    ideal = diagonal.mark_line(color=GREY, strokeDash=[4, 3]).encode(
        x=alt.X("x:Q", scale=unit, title="probability given"), y=alt.Y("x:Q", scale=unit, title="")
    )
    points = (
        chart_of(bins)
        .mark_point(filled=True, color=ACCENT, opacity=1)
        .encode(
            x=alt.X("confidence:Q", scale=unit, title="probability given"),
            y=alt.Y("share:Q", scale=unit, title=what),
            size=alt.Size(
                "frames:Q", title="answers", scale=alt.Scale(range=[20, 500]), legend=None
            ),
            tooltip=tooltips(
                ("confidence:Q", "probability given"), ("share:Q", what), ("frames:Q", "answers")
            ),
        )
    )
    return finish(
        ideal + points,
        "Reliability plot: the probability that heads give against the share that is right; the "
        "dashed diagonal is perfect calibration.",
        300,
    )
