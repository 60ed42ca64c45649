"""Runs stages one after the other, says how long each took, and stops at the first that fails.

    tools/stages.py 'lint: make lint' 'unit: make unit'

What a stage prints passes through as it comes. The exit code is the failed stage's.
"""

import subprocess
import sys
import time


def say(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"{bold}{text}{plain}", flush=True)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def run(stages: list[tuple[str, str]]) -> int:
    """Run the stages; the exit code of the first that failed, or 0."""
    begun = time.monotonic()
    results: list[tuple[str, str, str]] = []  # name, result, time
    code = 0
    for number, (name, command) in enumerate(stages, 1):
        if code:
            results.append((name, "not run", ""))
            continue
        say(f"==> {number}/{len(stages)} {name}: {command}")
        started = time.monotonic()
        code = _exit_code(command)
        took = clock(time.monotonic() - started)
        results.append((name, "FAILED" if code else "ok", took))
        say(f"<== {name}: {f'FAILED with exit code {code}' if code else 'ok'} after {took}")
    results.append(("all", "FAILED" if code else "ok", clock(time.monotonic() - begun)))
    width = max(len(name) for name, _, _ in results)
    say("\n" + "\n".join(f"{name:{width}}  {result:7}  {took:>6}" for name, result, took in results))
    return code


def _exit_code(command: str) -> int:
    stage = subprocess.Popen(["bash", "-c", command])
    try:
        code = stage.wait()
    except KeyboardInterrupt:  # the stage had it too: let it clean up
        stage.wait()
        return 130
    return code if code >= 0 else 128 - code  # as a shell tells of a signal


def main() -> int:
    stages: list[tuple[str, str]] = []
    for argument in sys.argv[1:]:
        name, colon, command = argument.partition(":")
        if not (name.strip() and colon and command.strip()):
            sys.exit(f"stages.py: {argument!r} is not of the form 'name: command'")
        stages.append((name.strip(), command.strip()))
    if not stages:
        sys.exit("stages.py: no stage is given")
    return run(stages)


if __name__ == "__main__":
    sys.exit(main())
