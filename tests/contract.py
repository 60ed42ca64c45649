"""Asks a running service, by requests made up from its OpenAPI document, whether its answers keep to it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def keeps_its_contract(
    document: str,
    token: str,
    ca: str | None = None,
    examples: int = 20,
    timeout: float = 240,
    arguments: tuple[str, ...] = (),
) -> str:
    """What schemathesis prints; a failure shows each broken promise with the request that shows it.

    document: its URL; the service is asked at the same place.
    token: an access token; not an argument of the command, which everybody on the host could read.
    """
    __tracebackhide__ = True  # or pytest would print the token
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")),
        *("run", document, "--url", document.partition("/openapi/")[0], "--max-examples", str(examples)),
        *("--tls-verify", ca or "false", "--no-color", *arguments),
    ]
    environment = os.environ | {"CONTRACT_TOKEN": token, "PYTHONPATH": str(HERE)}
    with tempfile.TemporaryDirectory() as folder:  # for what schemathesis and hypothesis would leave behind
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
        )
    shown = [line if len(line) < 500 else f"{line[:500]}..." for line in done.stdout.splitlines()]
    assert done.returncode == 0, "\n".join(shown) + done.stderr[-2000:]
    return done.stdout
