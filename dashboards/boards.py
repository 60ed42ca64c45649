"""What all dashboards are made of: rows of panels, links between dashboards, what happened when, and choices.

`environment` chooses the Prometheus that is asked: each environment has its own. `service` and `instance` choose among
what that Prometheus has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders.dashboard import Dashboard as DashboardBuilder
from grafana_foundation_sdk.builders.dashboard import DashboardLink, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.logs import Panel as LogsPanel
from grafana_foundation_sdk.builders.stat import Panel as StatPanel
from grafana_foundation_sdk.builders.table import Panel as TablePanel
from grafana_foundation_sdk.builders.timeseries import Panel as GraphPanel
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
)

from dashboards.panels import PROMETHEUS

Panel = StatPanel | GraphPanel | LogsPanel | TablePanel
Rows = Mapping[str, Sequence[Panel]]


class _Marks(AnnotationQuery):
    """An annotation with what Prometheus's data source takes beside what the SDK knows."""

    more: dict[str, object]

    def to_json(self) -> dict[str, object]:
        return super().to_json() | self.more


class _Annotation(Builder[AnnotationQuery]):
    """What happened, as marks on every graph; `at_value`: at the time that the value says, in milliseconds."""

    def __init__(self, name: str, query: str, mark: str, color: str, empty_when: str, at_value: bool = False) -> None:
        self._marks = _Marks(name=name, datasource=PROMETHEUS, enable=True, icon_color=color, expr=query)
        self._marks.more = {"titleFormat": mark, "step": "30s", "emptyWhen": empty_when}
        if at_value:
            self._marks.more["useValueForTime"] = "on"

    def build(self) -> AnnotationQuery:
        return self._marks


RELEASES = 'count by (job, version) ({__name__=~".+_build_info", __name__!="go_build_info", host!=""}%s)'

ANNOTATIONS = (
    _Annotation(
        "Releases",
        f"{RELEASES % ''} unless {RELEASES % ' offset 2m'}",
        "{{job}} {{version}}",
        "green",
        empty_when="nothing has been deployed in the time shown",
    ),
    _Annotation(
        "Starts of services",
        'max by (job, instance) (process_start_time_seconds{job!~"node|prometheus", host!=""}) * 1000',
        "{{job}} started on {{instance}}",
        "blue",
        empty_when="",
        at_value=True,
    ),
    _Annotation(
        "Changes of the primary",
        "changes(patroni_primary[1m]) > 0 and patroni_primary == 1",
        "{{host}} became the primary",
        "purple",
        empty_when="the primary has been the same for all of the time shown",
    ),
    _Annotation(
        "Pages",
        'min by (alertname) (ALERTS{alertstate="firing", severity="critical"})',
        "{{alertname}}",
        "red",
        empty_when="no alert has woken anybody",
    ),
)


def start(title: str, uid: str, description: str) -> DashboardBuilder:
    """Return a dashboard without panels that links to all others."""
    links = DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags(["belvedere"])
    builder = (
        DashboardBuilder(title)
        .uid(uid)
        .description(description)
        .tags(["belvedere"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(links.as_dropdown(True).keep_time(True).include_vars(True))
        .with_variable(
            DatasourceVariable("environment")
            .label("Environment")
            .type("prometheus")
            .current(VariableOption(selected=True, text="Prometheus", value="prometheus"))
        )
        .readonly()
    )
    for annotation in ANNOTATIONS:
        builder.annotation(annotation)
    return builder


def choice(name: str, label: str, values: str) -> QueryVariable:
    """Return a variable that is any number of the values of a metric's label, `metric, label`; all to begin with."""
    return (
        QueryVariable(name)
        .label(label)
        .datasource(PROMETHEUS)
        .query(f"label_values({values})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
        .multi(True)
    )


def board(title: str, uid: str, description: str, rows: Rows, *choices: QueryVariable) -> Dashboard:
    """Return a dashboard of these rows, with these variables beside the environment."""
    builder = start(title, uid, description)
    for variable in choices:
        builder.with_variable(variable)
    for name, panels in rows.items():
        builder.with_row(Row(name))
        for panel in panels:
            builder.with_panel(panel)
    return builder.build()


def instances(metric: str) -> QueryVariable:
    """Return the choice among the instances that have this metric."""
    return choice("instance", "Instance", f"{metric}, instance")
