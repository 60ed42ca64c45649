"""Mails of the platform, read where the demo's sink keeps them: confirmed addresses, passwords set anew."""

import json
import re
import uuid

import pytest
from belvedere_platform import PASSWORD, Edge, Platform, assert_problem, wait_until

NEW_PASSWORD = "another long enough password"

# The text of every mail to one address, the oldest first.
MAILS = """
import json, mailbox
box = mailbox.Maildir("/var/lib/mail-sink", create=False)
mails = sorted((one for one in box if one["X-RcptTo"] == {address!r}), key=lambda one: one.get_date())
print(json.dumps([one.get_payload() for one in mails]))
"""


@pytest.fixture
def sink(platform: Platform) -> str:
    hosts = platform.groups.get("mail_sink")
    if not hosts:
        pytest.skip("this platform's mails go to a real mail server: no host is in the group mail_sink")
    return hosts[0]


@pytest.fixture
def address(sink: str, anonymous: Edge) -> str:
    """Somebody who has registered just now."""
    email = f"{uuid.uuid4().hex}@example.com"
    assert anonymous.post("/register", json={"email": email, "password": PASSWORD}).status_code == 201
    return email


def token(platform: Platform, sink: str, address: str, page: str) -> str:
    """The token in the first mail to this address whose link leads to this page."""

    def ask() -> str | None:
        mails = json.dumps(platform.python(sink, MAILS.format(address=address)))
        found = re.search(rf"{re.escape(platform.edge.url)}/{page}#([\w-]+)", mails)
        return found[1] if found else None

    found = wait_until(f"a mail for {page}", ask)
    assert found
    return found


def test_a_new_address_is_confirmed_by_its_mail(platform: Platform, sink: str, address: str, anonymous: Edge) -> None:
    body = {"token": token(platform, sink, address, "verify-email")}
    assert anonymous.post("/verify-email", json=body).status_code == 204
    assert_problem(anonymous.post("/verify-email", json=body), 403)


def test_a_forgotten_password_is_set_anew_by_mail(platform: Platform, sink: str, address: str, anonymous: Edge) -> None:
    login = anonymous.post("/login", json={"email": address, "password": PASSWORD}).json()
    asked = anonymous.post("/password-reset/request", json={"email": address})
    assert asked.status_code == 202
    reset = token(platform, sink, address, "password-reset")
    answer = anonymous.post("/password-reset", json={"token": reset, "password": NEW_PASSWORD})
    assert answer.status_code == 204, answer.text
    assert_problem(anonymous.post("/refresh", json={"refresh_token": login["refresh_token"]}), 401)
    assert_problem(anonymous.post("/login", json={"email": address, "password": PASSWORD}), 401)
    assert anonymous.post("/login", json={"email": address, "password": NEW_PASSWORD}).status_code == 200

    def sent() -> list[dict[str, object]]:
        return platform.logs(f"event:=mail_sent trace_id:={asked.headers['X-Request-Id']}")

    wait_until("the mail's line under its request's id", sent)
    everything = platform.logs(f'_time:10m "{reset}"')
    assert everything == [], "the token is in the logs"


def test_nobody_learns_whether_an_address_has_an_account(address: str, anonymous: Edge) -> None:
    answers = [
        anonymous.post("/password-reset/request", json={"email": email})
        for email in (address, f"{uuid.uuid4().hex}@example.com")
    ]
    assert [(answer.status_code, answer.content) for answer in answers] == [(202, b"")] * 2
