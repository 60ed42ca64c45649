"""Grafana dashboards as code.

`python -m dashboards` writes dashboards/json/, which is committed; `--check` says whether it is stale.
"""
