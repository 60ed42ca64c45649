"""What all dashboards are made of: rows of panels, links between dashboards, a choice of instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard as DashboardBuilder
from grafana_foundation_sdk.builders.dashboard import DashboardLink, QueryVariable, Row
from grafana_foundation_sdk.builders.logs import Panel as LogsPanel
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.timeseries import Panel as GraphPanel
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    VariableRefresh,
)

from dashboards.panels import PROMETHEUS

Rows = Mapping[str, Sequence[StatPanel | GraphPanel | LogsPanel]]


def start(title: str, uid: str, description: str) -> DashboardBuilder:
    """Return a dashboard without panels that links to all others."""
    links = DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags(["belvedere"])
    return (
        DashboardBuilder(title)
        .uid(uid)
        .description(description)
        .tags(["belvedere"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(links.as_dropdown(True).keep_time(True))
        .readonly()
    )


def board(title: str, uid: str, description: str, rows: Rows, choose_from: str = "") -> Dashboard:
    """Return a dashboard of these rows; with choose_from, a metric, its $instance chooses among that metric's."""
    builder = start(title, uid, description)
    if choose_from:
        builder.with_variable(
            QueryVariable("instance")
            .label("Instance")
            .datasource(PROMETHEUS)
            .query(f"label_values({choose_from}, instance)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    for name, panels in rows.items():
        builder.with_row(Row(name))
        for panel in panels:
            builder.with_panel(panel)
    return builder.build()
