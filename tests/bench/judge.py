"""What a measured ratio is worth: against what it must reach, what is aimed at, and its own history."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

REGRESSION = 0.15  # a ratio this much below its history's median fails the run
REMEMBERED = 20  # runs that the history's median is taken of

HISTORY = Path(__file__).with_name("history.jsonl")


@dataclass(frozen=True)
class Row:
    """A line of the table: a ratio by its name, the least that is good enough, and what is aimed at."""

    name: str
    title: str
    must: float
    aim: float


ROWS = (
    Row("login", "logins/s ÷ raw bcrypt/s on the same cores", 0.95, 0.99),
    Row("flood_validate", "validations/s while logins flood ÷ alone", 0.6, 0.75),
    Row("flood_login", "logins/s while tokens are validated ÷ alone", 0.5, 0.6),
    Row("flood_login_third", "the same, with a third as many validations", 0.5, 0.6),
    Row("validate", "/validate with all telemetry ÷ bare Flask hello", 0.53, 0.7),
    Row("validate_new", "the same, each token verified anew", 0.43, 0.53),
    Row("nginx", "/validate through Nginx (TLS off) ÷ direct", 0.75, 0.85),
    Row("auth_request", "static behind a cached auth_request ÷ static", 0.68, 0.8),
    Row("api", "api read of one row ÷ pgbench's same query, both through PgBouncer", 0.09, 0.15),
    Row("comments", "api read with trace context in its statements ÷ without", 0.85, 0.95),
    Row("telemetry", "/validate with all telemetry ÷ with none", 0.85, 0.95),
    Row("telemetry_10", "the same, with every tenth trace kept", 0.85, 0.95),
    Row("telemetry_0", "the same, with no trace kept", 0.85, 0.95),
)


@dataclass(frozen=True)
class Result:
    """One row of one run: the ratio of each repeat."""

    row: Row
    repeats: list[float]
    history: list[float] = field(default_factory=list)  # medians of earlier runs, oldest first

    @property
    def ratio(self) -> float:
        return median(self.repeats)

    @property
    def usual(self) -> float | None:
        """The history's median; None without one."""
        recent = self.history[-REMEMBERED:]
        return median(recent) if recent else None

    @property
    def failed(self) -> bool:
        return self.ratio < self.row.must or self.regressed

    @property
    def regressed(self) -> bool:
        return self.usual is not None and self.ratio < self.usual * (1 - REGRESSION)

    @property
    def verdict(self) -> str:
        if self.ratio < self.row.must:
            return "MISSED"
        if self.regressed:
            return f"REGRESSED from {self.usual:.3g}"
        return "aim reached" if self.ratio >= self.row.aim else "ok"


@dataclass(frozen=True)
class Run:
    """What is kept of one run; `noise` says how far to trust it."""

    date: str
    commit: str
    ratios: dict[str, float]
    spread: dict[str, list[float]]  # smallest and largest repeat
    noise: dict[str, float]


def judge(measured: dict[str, list[float]], history: list[Run]) -> list[Result]:
    """The results in the table's order; a row that was not measured is left out."""
    return [
        Result(row, measured[row.name], [run.ratios[row.name] for run in history if row.name in run.ratios])
        for row in ROWS
        if row.name in measured
    ]


def read(path: Path = HISTORY) -> list[Run]:
    """Earlier runs, oldest first."""
    if not path.exists():
        return []
    return [Run(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def remember(run: Run, path: Path = HISTORY) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(run)) + "\n")
