"""tests/roles.py: what it reads out of molecule's log."""

from roles import Log

WHOLE = """\
INFO     [default > converge] Executing
TASK [x : Write the file] ***
changed: [molecule-x]
molecule-x                 : ok=3    changed=1    unreachable=0    failed=0    skipped=0
INFO     [default > converge] Executed: Successful
INFO     [default > idempotence] Executing
molecule-x                 : ok=3    changed=0    unreachable=0    failed=0    skipped=0
INFO     [default > idempotence] Executed: Successful
INFO     [default > check] Executing
TASK [x : Write the file] ***
{check}
INFO     [default > check] Executed: Successful
INFO     [default > verify] Executing
    "msg": "NOT TESTED: the server itself, which has no package here"
molecule-x                 : ok=3    changed=1    unreachable=0    failed=0    skipped=0
INFO     [default > verify] Executed: Successful
"""
UNCHANGED = "molecule-x                 : ok=3    changed=0    unreachable=0"
CHANGED = "changed: [molecule-x]\nmolecule-x                 : ok=3    changed=1    unreachable=0"


def test_a_whole_run_has_no_problem_though_converge_and_verify_change_things() -> None:
    log = Log.read(WHOLE.replace("{check}", UNCHANGED))
    assert log.problems == []
    assert log.succeeded == {"converge", "idempotence", "check", "verify"}


def test_a_check_that_reports_changes_is_a_problem_that_names_the_task() -> None:
    assert Log.read(WHOLE.replace("{check}", CHANGED)).problems == ["check reports changes: x : Write the file"]


def test_colours_do_not_hide_a_change() -> None:
    coloured = CHANGED.replace("molecule-x  ", "\x1b[0;33mmolecule-x\x1b[0m  ").replace(
        "changed=1", "\x1b[0;33mchanged=1\x1b[0m"
    )
    assert Log.read(WHOLE.replace("{check}", coloured)).problems


def test_a_missing_verify_has_not_succeeded() -> None:
    log = Log.read(
        WHOLE.replace("{check}", UNCHANGED).replace(
            "verify] Executed: Successful", "verify] Executed: Missing playbook"
        )
    )
    assert "verify" not in log.succeeded


def test_what_a_scenario_leaves_out_is_told() -> None:
    assert Log.read(WHOLE).left_out == ["NOT TESTED: the server itself, which has no package here"]


def test_the_tail_ends_where_the_failure_is_not_where_molecule_has_cleaned_up() -> None:
    log = Log.read(
        "fatal: [molecule-x]: FAILED!\n"
        "WARNING  [default > verify] An error occurred during the test sequence action: 'verify'. Cleaning up.\n"
        "PLAY [Remove the scenario's host] ***\n"
    )
    assert log.tail == ["fatal: [molecule-x]: FAILED!"]
