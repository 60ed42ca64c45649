"""The house style: a panel has a title, a description and a unit, and is red only where someone should act.

`empty_when` says when a panel rightly shows nothing. It is what Grafana writes in its place, and what the test of the
running platform takes for an explanation; a panel without one must always show something.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from grafana_foundation_sdk.builders import common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import logs as logs_panel
from grafana_foundation_sdk.builders.dashboard import DashboardLink, ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.runtime import UnknownDataquery
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as models
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
from grafana_foundation_sdk.models.dashboard import DashboardLinkType, DataSourceRef, Threshold, ThresholdsMode

RATE = "[$__rate_interval]"
# An environment is a Prometheus of its own: the variable `environment` chooses a data source.
PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${environment}")
VICTORIALOGS = DataSourceRef(type_val="victoriametrics-logs-datasource", uid="victorialogs")
JAEGER = DataSourceRef(type_val="jaeger", uid="jaeger")

Query = tuple[str, str]  # PromQL, and the legend of its series
Link = tuple[str, str]  # what it says, and where it leads


def _target(number: int, query: Query, exemplars: bool = False) -> prometheus.Dataquery:
    expression, legend = query
    target = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id(chr(ord("A") + number))
    return target.exemplar(True) if exemplars else target


def logs_link(title: str, query: str) -> Link:
    """Return a link to the log lines of the time shown that LogsQL finds."""
    return title, _explore(VICTORIALOGS, {"expr": query, "queryType": "instant"})


def traces_link(title: str, service: str) -> Link:
    """Return a link to the service's traces of the time shown."""
    return title, _explore(JAEGER, {"queryType": "search", "service": service})


def _explore(source: DataSourceRef, query: dict[str, str]) -> str:
    """Return the address of Grafana's Explore with a query. Grafana fills in the times, so their $ stay as they are."""
    queries = [{"refId": "A", "datasource": {"type": source.type_val, "uid": source.uid}} | query]
    times = {"from": "${__from}", "to": "${__to}"}
    pane = {"panel": {"datasource": source.uid, "queries": queries, "range": times}}
    return f"/explore?schemaVersion=1&panes={quote(json.dumps(pane), safe='${}')}"


def _panel_links(links: Sequence[Link]) -> list[Builder[models.DashboardLink]]:
    return [DashboardLink(title).type(DashboardLinkType.LINK).url(url).target_blank(True) for title, url in links]


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
    empty_when: str = "",
    links: Sequence[Link] = (),
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
    if empty_when:
        panel.no_value(empty_when)
    if links:
        panel.links(_panel_links(links))
    return panel if most is None else panel.max(most)


class _Query(Builder[Dataquery]):
    """A query of a data source that the SDK does not know."""

    def __init__(self, **query: Any) -> None:
        self._query = {"refId": "A"} | query

    def build(self) -> Dataquery:
        return UnknownDataquery(self._query)


def logs(title: str, description: str, query: str, empty_when: str = "", height: int = 10) -> logs_panel.Panel:
    """Return the newest lines that LogsQL finds."""
    panel = (
        logs_panel.Panel()
        .title(title)
        .description(description)
        .datasource(VICTORIALOGS)
        .unit("none")
        .show_time(True)
        .enable_log_details(True)
        .with_target(_Query(expr=query, queryType="instant"))
        .span(24)
        .height(height)
    )
    return panel.no_value(empty_when) if empty_when else panel


def log_graph(
    title: str, description: str, query: str, unit: str = "none", span: int = 8, empty_when: str = ""
) -> timeseries.Panel:
    """Return lines over time that LogsQL's pipe `stats` counts, for each step of the time shown."""
    panel = graph(title, description, [], unit, span=span, empty_when=empty_when).datasource(VICTORIALOGS)
    return panel.targets([_Query(expr=query, queryType="statsRange")])


def traces(title: str, description: str, empty_when: str = "", **search: Any) -> table.Panel:
    """Return the newest traces that Jaeger finds by service, operation, tags, minDuration and limit."""
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(JAEGER)
        .unit("none")
        .with_target(_Query(queryType="search", **search))
        .span(24)
        .height(9)
    )
    return panel.no_value(empty_when) if empty_when else panel
