"""The house style: a panel has a title, a description and a unit, and is red only where someone should act."""

from __future__ import annotations

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import logs as logs_panel
from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.cog.variants import Dataquery
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

RATE = "[$__rate_interval]"
PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")

VICTORIALOGS = DataSourceRef(type_val="victoriametrics-logs-datasource", uid="victorialogs")

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
    least: float | None = 0,
) -> timeseries.Panel:
    """Return lines over time from 0, up to `most` where the scale has an end; with exemplars, points lead to traces."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
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
    if least is not None:
        panel.min(least)
    return panel if most is None else panel.max(most)


class _LogsQuery(Builder[Dataquery]):
    """A query of VictoriaLogs, whose data source the SDK does not know."""

    def __init__(self, expression: str) -> None:
        self._expression = expression

    def build(self) -> Dataquery:
        return UnknownDataquery({"refId": "A", "expr": self._expression, "queryType": "instant"})


def logs(title: str, description: str, query: str) -> logs_panel.Panel:
    """Return the newest lines that LogsQL finds."""
    return (
        logs_panel.Panel()
        .title(title)
        .description(description)
        .datasource(VICTORIALOGS)
        .unit("none")
        .show_time(True)
        .with_target(_LogsQuery(query))
        .span(24)
        .height(10)
    )
