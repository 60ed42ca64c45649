"""Each run of Ansible as a trace in Jaeger, and as metrics: how long it took, and how much it changed.

Nothing happens before the platform stands (its platform.json says so). At the run's end one SSH connection to the
first observability host, which nobody waits for, carries both: the host sends the trace on with its own certificate,
and keeps the metrics for its node exporter. Of a task only its name and counts of outcomes are told, never arguments
or results.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar, trust_as_template

DOCUMENTATION = """
name: observed
type: notification
short_description: Tells Jaeger and Prometheus of each run
description:
  - A trace of plays and tasks, and metrics of the run, on the first observability host of a platform that stands.
"""

OUTCOMES = ("ok", "changed", "failed", "unreachable", "skipped")
WANTED = """{{ {
  'platform': platform_name, 'host': inventory_hostname, 'metrics': platform_textfile_directory,
  'port': jaeger_otlp_port, 'ca': pki_ca, 'certificate': pki_certificate, 'key': pki_key,
} }}"""


@dataclass
class Span:
    """A run, a play or a task, in Jaeger's words."""

    name: str
    parent: Span | None = None
    counts: dict[str, int] = field(default_factory=dict)
    begun: int = field(default_factory=time.time_ns)
    ended: int = 0
    id: str = field(default_factory=lambda: token_hex(8))

    def otlp(self, trace: str) -> dict[str, Any]:
        failed = self.counts.get("failed", 0) + self.counts.get("unreachable", 0)
        return {
            "traceId": trace,
            "spanId": self.id,
            "parentSpanId": self.parent.id if self.parent else "",
            "name": self.name,
            "kind": 1,
            "startTimeUnixNano": str(self.begun),
            "endTimeUnixNano": str(self.ended),
            "attributes": [
                {"key": f"ansible.{outcome}", "value": {"intValue": str(count)}}
                for outcome, count in self.counts.items()
            ],
            "status": {"code": 2 if failed else 0},
        }


class CallbackModule(CallbackBase):  # type: ignore[misc]
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "observed"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._run = Span("")
        self._play: Span | None = None
        self._tasks: dict[str, Span] = {}  # by the task's id: with strategy free they overlap
        self._spans: list[Span] = [self._run]
        self._facts: dict[str, Any] = {}

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._run.name = Path(playbook._file_name).stem

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._end_play()
        self._play = Span(play.get_name(), self._run)
        self._spans.append(self._play)
        if not self._facts:
            with suppress(Exception):  # an inventory that is no platform's: nothing to tell, and nobody to tell it to
                self._facts = self._read_facts(play)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if task._uuid not in self._tasks:
            self._tasks[task._uuid] = Span(task.get_name(), self._play)
            self._spans.append(self._tasks[task._uuid])

    v2_playbook_on_handler_task_start = v2_playbook_on_task_start

    def v2_runner_on_ok(self, result: Any) -> None:
        self._count(result, "changed" if result.is_changed() else "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._count(result, "ok" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._count(result, "unreachable")

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._count(result, "skipped")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._end_play()
        self._run.ended = time.time_ns()
        # Rescued failures are none of the run's: what counts is how each host ended.
        self._run.counts = {
            "ok": sum(stats.ok.values()) - sum(stats.changed.values()),
            "changed": sum(stats.changed.values()),
            "failed": sum(stats.failures.values()),
            "unreachable": sum(stats.dark.values()),
            "skipped": sum(stats.skipped.values()),
        }
        if self._facts:
            self._send()

    def _count(self, result: Any, outcome: str) -> None:
        if span := self._tasks.get(result._task._uuid):
            span.counts[outcome] = span.counts.get(outcome, 0) + 1
            span.ended = time.time_ns()

    def _end_play(self) -> None:
        if self._play:
            self._play.ended = time.time_ns()

    def _read_facts(self, play: Any) -> dict[str, Any]:
        manager = play.get_variable_manager()
        host = manager._inventory.groups["observability"].hosts[0]
        variables = manager.get_vars(play=play, host=host)
        facts: dict[str, Any] = Templar(loader=play.get_loader(), variables=variables).template(
            trust_as_template(WANTED)
        )
        return facts

    def _send(self) -> None:
        """Start the connection, and do not wait for it."""
        state = Path(constants.CONFIG_FILE).parent / ".state" / self._facts["platform"]
        if not (state / "platform.json").exists():
            return
        ssh = ["ssh", "-F", str(state / "ssh_config"), "-o", "BatchMode=yes", "-o", "ConnectTimeout=3"]
        with tempfile.TemporaryFile("w+") as script:
            script.write(self._script())
            script.seek(0)
            subprocess.Popen(  # noqa: S603
                ["timeout", "20", *ssh, self._facts["host"], "sudo sh -s"],  # noqa: S607
                stdin=script,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _script(self) -> str:
        """What the observability host does: keeps the metrics, sends the trace on."""
        facts, run = self._facts, self._run
        trace = token_hex(16)
        labels = f'playbook="{run.name}"'
        lines = [f'ansible_run_tasks{{{labels}, outcome="{outcome}"}} {run.counts[outcome]}' for outcome in OUTCOMES]
        lines += [
            f"ansible_run_duration_seconds{{{labels}}} {(run.ended - run.begun) / 1e9:.1f}",
            f"ansible_run_timestamp_seconds{{{labels}}} {run.ended / 1e9:.0f}",
        ]
        spans = [span.otlp(trace) for span in self._spans if span.ended]
        service = {"attributes": [{"key": "service.name", "value": {"stringValue": "ansible"}}]}
        sent = json.dumps({"resourceSpans": [{"resource": service, "scopeSpans": [{"spans": spans}]}]})
        metrics = f"{facts['metrics']}/ansible_{run.name}.prom"
        tls = f"--cacert {facts['ca']} --cert {facts['certificate']} --key {facts['key']}"
        curl = f"curl --silent --max-time 10 {tls} -H 'Content-Type: application/json' --data-binary @-"
        return (
            f"umask 022\ncat > {metrics}.new <<'END'\n" + "\n".join(lines) + f"\nEND\nmv {metrics}.new {metrics}\n"
            f"{curl} https://localhost:{facts['port']}/v1/traces <<'END'\n{sent}\nEND\n"
        )
