"""The house style: a panel has a title, a description and a unit, and is red only where someone should act."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphGradientMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")

Query = tuple[str, str]  # PromQL, and the legend of its series


def _target(number: int, query: Query, exemplars: bool = False) -> prometheus.Dataquery:
    expression, legend = query
    target = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
    return target.exemplar(True) if exemplars else target


def status(title: str, description: str, query: str, unit: str, bad: float, low_is_bad: bool = False) -> stat.Panel:
    """Return a number that is green, or red from `bad` on (with low_is_bad: below it)."""
    below, above = ("red", "green") if low_is_bad else ("green", "red")
    steps = [Threshold(value=None, color=below), Threshold(value=bad, color=above)]
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(0, (query, title)))
        .span(4)
        .height(4)
    )


def graph(
    title: str,
    description: str,
    queries: list[Query],
    unit: str,
    span: int = 8,
    most: float | None = None,
    stacked: bool = False,
    exemplars: bool = False,
) -> timeseries.Panel:
    """Return lines over time from 0, up to `most` where the scale has an end; with exemplars, points lead to traces."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .gradient_mode(GraphGradientMode.NONE)
        .show_points(VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(StackingMode.NORMAL if stacked else StackingMode.NONE))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .targets([_target(number, query, exemplars) for number, query in enumerate(queries)])
        .span(span)
        .height(8)
    )
    return panel if most is None else panel.max(most)
