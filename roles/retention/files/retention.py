#!/usr/bin/python3
"""Removes rows that services need no longer, where PostgreSQL on this host is the primary.

`RETENTION_RULES` names a JSON file: table → its rule. A row goes `days` after the earliest of its `age` columns.

* `order`: a column that grows with age. Then only the oldest rows are looked at, instead of the whole table.
* `append_only`: a trigger refuses deletes, a superuser's too; the job alone puts it aside, in its own transactions.

It works in small transactions, so that nothing waits for it, and writes metrics for node exporter to
`RETENTION_METRICS`.
"""

import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql

BATCH = int(os.environ.get("RETENTION_BATCH", "5000"))  # rows in one transaction
PAUSE = 0.1  # seconds between two


def statement(table: str, rule: dict[str, Any]) -> sql.Composable:
    """The DELETE of one batch."""
    names = {
        "table": sql.Identifier(*table.split(".")),
        "age": sql.SQL(", ").join(map(sql.Identifier, rule["age"])),
        "limit": sql.Literal(BATCH),
        "days": sql.Literal(rule["days"]),
    }
    if "order" in rule:
        text = """
            DELETE FROM {table} WHERE {order} IN (
                SELECT {order} FROM (
                    SELECT {order}, least({age}) AS age FROM {table} ORDER BY {order} LIMIT {limit}
                ) AS oldest
                WHERE age < now() - make_interval(days => {days})
            )
        """
        names["order"] = sql.Identifier(rule["order"])
    else:
        text = """
            DELETE FROM {table} WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {table} WHERE least({age}) < now() - make_interval(days => {days}) LIMIT {limit}
            ))
        """
    return sql.SQL(text).format(**names)


def is_primary(connection: Any) -> bool:
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT NOT pg_is_in_recovery()")
        return bool(cursor.fetchone()[0])


def remove(connection: Any, table: str, rule: dict[str, Any]) -> int:
    """Remove all rows of the table that are too old; how many."""
    removed = 0
    while True:
        with connection, connection.cursor() as cursor:  # a transaction each
            cursor.execute("SET LOCAL lock_timeout = '2s'")
            if rule.get("append_only"):
                cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(statement(table, rule))
            count = cursor.rowcount
        removed += count
        if count < BATCH:
            return removed
        time.sleep(PAUSE)


def main() -> None:
    rules = json.loads(Path(os.environ["RETENTION_RULES"]).read_text())
    metrics = Path(os.environ["RETENTION_METRICS"])
    lines = []
    with closing(psycopg2.connect(os.environ["RETENTION_DATABASE"])) as connection:
        if is_primary(connection):
            for table, rule in rules.items():
                removed = remove(connection, table, rule)
                print(f"{table}: removed {removed}", flush=True)
                lines.append(f'retention_removed_rows{{table="{table}"}} {removed}\n')
            lines.append(f"retention_last_success_timestamp_seconds {time.time():.0f}\n")
    # A replica has nothing to tell, and forgets what it told when it was the primary.
    draft = metrics.with_suffix(".draft")
    draft.write_text("".join(lines))
    draft.replace(metrics)


if __name__ == "__main__":
    try:
        main()
    except psycopg2.Error as error:
        sys.exit(f"retention: {' '.join(str(error).split())}")
