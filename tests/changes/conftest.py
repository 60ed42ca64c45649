"""What operators change while clients work."""

import pytest
from ledger_fixtures import *
from ledger_fixtures import summary
from platform_fixtures import *


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    summary(terminalreporter, config, "changes")
