"""Mails, to a real SMTP server: what is sent, what is not, and that no request waits for it."""

import hashlib
import logging
import re
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from local_postgresql import free_port
from prometheus_client import CollectorRegistry

from auth.mail import Mail, MailDelayed, MailRefused, Outbox, SmtpSender
from auth.settings import AuthSettings
from servicekit.settings import ServiceSettings, SettingsError, load
from servicekit.tracing import Tracing

EMAIL, PASSWORD, OTHER = "ada@example.org", "correct horse battery", "staple battery horse"
CREDENTIALS = {"email": EMAIL, "password": PASSWORD}
FROM = "no-reply@belvedere.example"

logging.getLogger("mail.log").setLevel(logging.ERROR)  # the server's, which names addresses


class Mailbox:
    """What a mail server took; `answers` are given to RCPT first, one each."""

    def __init__(self):
        self.mails = []
        self.answers = []
        self.asked = 0
        self.arrived = threading.Condition()

    async def handle_RCPT(self, server, session, envelope, address, options):
        self.asked += 1
        if self.answers:
            return self.answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        with self.arrived:
            self.mails.append(envelope)
            self.arrived.notify_all()
        return "250 OK"

    def wait(self, count=1):
        """The first `count` mails."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.mails) >= count, timeout=10), self.mails
        return self.mails[:count]

    def token(self, count=1):
        """The token in the link of the mail of this number."""
        text = self.wait(count)[-1].content.decode()
        return re.search(r"^https://pages\.example/[a-z-]+#(\S{43})\r$", text, re.MULTILINE)[1]


@contextmanager
def running(mailbox, port=None, **options):
    controller = Controller(mailbox, hostname="127.0.0.1", port=port or free_port(), **options)
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


@pytest.fixture
def mailbox():
    return Mailbox()


@pytest.fixture
def server(mailbox):
    with running(mailbox) as port:
        yield port


def settings(port, **more):
    return {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": str(port),
        "SMTP_SECURITY": "none",
        "MAIL_FROM": FROM,
        "MAIL_LINK_BASE": "https://pages.example/",
        **more,
    }


@pytest.fixture
def auth(start_auth, server):
    return start_auth(**settings(server))


def post(auth, path, body, address="192.0.2.1"):
    return auth.client.post(path, json=body, environ_base={"REMOTE_ADDR": address})


def eventually(ask, what):
    deadline = time.monotonic() + 10
    while not ask():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def events_of(postgresql, answer):
    statement = "SELECT event, reason FROM auth.audit_events WHERE request_id = %s ORDER BY id"
    return postgresql.execute(statement, [answer.headers["X-Request-Id"]]).fetchall()


def test_a_registration_is_followed_by_a_mail_whose_link_confirms_the_address_once(auth, mailbox, postgresql):
    registered = post(auth, "/register", CREDENTIALS)
    token = {"token": mailbox.token()}
    mail = mailbox.mails[0]
    assert (mail.mail_from, mail.rcpt_tos) == (FROM, [EMAIL])
    assert b"To: ada@example.org\r\n" in mail.content
    requested = [("account_registered", None), ("email_verification_requested", None)]
    assert events_of(postgresql, registered) == requested
    answer = post(auth, "/verify-email", token)
    assert answer.status_code == 204
    assert events_of(postgresql, answer) == [("email_verified", None)]
    assert postgresql.execute("SELECT email_verified_at IS NOT NULL FROM auth.accounts").fetchone() == (True,)
    again = post(auth, "/verify-email", token)
    assert (again.status_code, again.json["type"]) == (403, "urn:belvedere:problem:mail-token-refused")
    assert events_of(postgresql, again) == [("email_verification_failed", "used")]


def test_no_second_mail_goes_to_an_address_that_is_confirmed(auth, mailbox, postgresql):
    post(auth, "/register", CREDENTIALS)
    post(auth, "/verify-email", {"token": mailbox.token()})
    answer = post(auth, "/verify-email/request", {"email": EMAIL})
    assert answer.status_code == 202
    wanted = [("email_verification_requested", "verified_before")]
    eventually(lambda: events_of(postgresql, answer) == wanted, "the event")
    assert len(mailbox.mails) == 1


@pytest.fixture
def reset_token(auth, mailbox):
    post(auth, "/register", CREDENTIALS)
    mailbox.wait()
    assert post(auth, "/password-reset/request", {"email": EMAIL}).status_code == 202
    return mailbox.token(2)


def test_a_forgotten_password_is_set_anew_and_every_session_ends(auth, reset_token, postgresql):
    refresh = {"refresh_token": post(auth, "/login", CREDENTIALS).json["refresh_token"]}
    answer = post(auth, "/password-reset", {"token": reset_token, "password": OTHER})
    assert answer.status_code == 204
    assert events_of(postgresql, answer) == [("password_reset", None)]
    assert post(auth, "/refresh", refresh).status_code == 401
    assert post(auth, "/login", CREDENTIALS).status_code == 401
    assert post(auth, "/login", CREDENTIALS | {"password": OTHER}).status_code == 200
    assert postgresql.execute("SELECT email_verified_at IS NOT NULL FROM auth.accounts").fetchone() == (True,)


def test_a_link_resets_once(auth, mailbox, reset_token, postgresql):
    post(auth, "/password-reset/request", {"email": EMAIL})
    other = mailbox.token(3)
    assert post(auth, "/password-reset", {"token": reset_token, "password": OTHER}).status_code == 204
    for token in (reset_token, other):  # nor does one that was sent before
        answer = post(auth, "/password-reset", {"token": token, "password": PASSWORD})
        assert answer.status_code == 403
        assert events_of(postgresql, answer) == [("password_reset_failed", "used")]
    assert post(auth, "/login", CREDENTIALS | {"password": OTHER}).status_code == 200


def test_two_who_use_a_link_at_once_are_one(auth, reset_token):
    statuses = []

    def use(password):
        statuses.append(post(auth, "/password-reset", {"token": reset_token, "password": password}).status_code)

    threads = [threading.Thread(target=use, args=(f"{OTHER} {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [204, 403, 403, 403]


def test_a_link_is_good_for_its_time_only(auth, reset_token, postgresql):
    seconds = "SELECT extract(epoch FROM expires_at - created_at)::int FROM auth.mail_tokens ORDER BY purpose"
    assert postgresql.execute(seconds).fetchall() == [(3600,), (86400,)]
    postgresql.execute("UPDATE auth.mail_tokens SET expires_at = now()")
    answer = post(auth, "/password-reset", {"token": reset_token, "password": OTHER})
    assert answer.status_code == 403
    assert events_of(postgresql, answer) == [("password_reset_failed", "expired")]
    assert post(auth, "/login", CREDENTIALS).status_code == 200


def test_a_token_serves_its_purpose_only(auth, mailbox, reset_token):
    assert post(auth, "/verify-email", {"token": reset_token}).status_code == 403
    answer = post(auth, "/password-reset", {"token": mailbox.token(1), "password": OTHER})
    assert answer.status_code == 403


def test_an_unknown_token_leaves_a_log_line_and_a_count_only(auth, postgresql):
    answer = post(auth, "/password-reset", {"token": "x" * 43, "password": OTHER})
    assert answer.status_code == 403
    assert events_of(postgresql, answer) == []
    assert [line["reason"] for line in auth.log("password_reset_failed")] == ["unknown_token"]
    assert 'auth_mail_tokens_total{outcome="refused",purpose="reset"} 1.0' in auth.metrics()


def test_a_common_or_short_new_password_is_refused_and_the_link_stays_good(auth, reset_token):
    assert post(auth, "/password-reset", {"token": reset_token, "password": "short"}).status_code == 422
    assert post(auth, "/password-reset", {"token": reset_token, "password": OTHER}).status_code == 204


def test_a_change_of_the_password_ends_reset_links_too(auth, reset_token):
    headers = {"Authorization": f"Bearer {post(auth, '/login', CREDENTIALS).json['access_token']}"}
    changed = auth.client.post("/password", json={"current": PASSWORD, "new": OTHER}, headers=headers)
    assert changed.status_code == 204
    assert post(auth, "/password-reset", {"token": reset_token, "password": PASSWORD}).status_code == 403


def test_nobody_can_tell_an_account_from_none(auth, mailbox, postgresql):
    post(auth, "/register", CREDENTIALS)
    mailbox.wait()
    known = post(auth, "/password-reset/request", {"email": EMAIL})
    unknown = post(auth, "/password-reset/request", {"email": "nobody@example.org"})

    def seen(answer):
        return answer.status_code, answer.data, {k: v for k, v in answer.headers if k != "X-Request-Id"}

    assert seen(known) == seen(unknown)
    wanted = [("password_reset_requested", "unknown_account")]
    eventually(lambda: events_of(postgresql, unknown) == wanted, "the event of an unknown account")
    mailbox.wait(2)
    assert {one for mail in mailbox.mails for one in mail.rcpt_tos} == {EMAIL}


def test_the_request_asks_no_database(auth, postgresql):
    """So neither its answer nor its time can depend on what is in there."""
    answer = post(auth, "/password-reset/request", {"email": EMAIL})
    eventually(lambda: events_of(postgresql, answer), "the event")
    auth.service.tracing.flush()
    spans = [span for span in auth.spans() if f"{span.context.trace_id:032x}" == answer.headers["X-Request-Id"]]
    request = next(span for span in spans if span.name == "POST /password-reset/request")
    assert [span.name for span in spans if span.parent and span.parent.span_id == request.context.span_id] == [
        "mail.send"
    ]


def test_a_mail_belongs_to_its_request_s_trace_and_log(auth, mailbox, postgresql):
    answer = post(auth, "/register", CREDENTIALS)
    mailbox.wait()
    eventually(lambda: auth.log("mail_sent"), "the log line")
    request_id = answer.headers["X-Request-Id"]
    assert [line["request_id"] for line in auth.log("mail_sent")] == [request_id]
    eventually(lambda: "mail.send" in auth.span_names(), "the span")
    span = next(span for span in auth.spans() if span.name == "mail.send")
    assert f"{span.context.trace_id:032x}" == request_id


def test_no_token_address_or_text_is_logged_traced_or_stored(auth, mailbox, reset_token, postgresql):
    post(auth, "/password-reset", {"token": reset_token, "password": OTHER})
    statement = "SELECT t::text FROM auth.mail_tokens t UNION ALL SELECT e::text FROM auth.audit_events e"
    tables = postgresql.execute(statement).fetchall()
    digest = hashlib.sha256(reset_token.encode()).hexdigest()
    assert digest in str(tables)
    seen = auth.output() + str(tables) + "".join(span.to_json() for span in auth.spans())
    assert [secret for secret in (reset_token, mailbox.token(1), EMAIL, OTHER) if secret in seen] == []


def test_who_asks_too_often_gets_the_same_answer_and_no_mail(auth, mailbox):
    post(auth, "/register", CREDENTIALS)
    mailbox.wait()
    answers = [post(auth, "/password-reset/request", {"email": EMAIL}, f"192.0.2.{n}") for n in range(5)]
    assert {answer.status_code for answer in answers} == {202}
    mailbox.wait(4)
    assert 'auth_mails_total{kind="reset",result="limited"} 2.0' in auth.metrics()
    assert len(mailbox.mails) == 4


def test_one_address_cannot_have_mails_sent_to_everyone(start_auth, server, mailbox):
    auth = start_auth(**settings(server, MAIL_ADDRESS_LIMIT="4"))
    for n in range(6):
        post(auth, "/register", CREDENTIALS | {"email": f"ada{n}@example.org"})
    post(auth, "/register", CREDENTIALS, "198.51.100.7")
    mailbox.wait(5)
    assert 'auth_mails_total{kind="verification",result="limited"} 2.0' in auth.metrics()


def test_a_login_may_need_a_confirmed_address(start_auth, server, mailbox):
    auth = start_auth(**settings(server, LOGIN_REQUIRES_VERIFIED="true"))
    post(auth, "/register", CREDENTIALS)
    answer = post(auth, "/login", CREDENTIALS)
    assert (answer.status_code, answer.json["type"]) == (403, "urn:belvedere:problem:email-not-verified")
    assert post(auth, "/login", CREDENTIALS | {"password": "wrong"}).status_code == 401
    assert post(auth, "/verify-email", {"token": mailbox.token()}).status_code == 204
    assert post(auth, "/login", CREDENTIALS).status_code == 200


@pytest.mark.parametrize(
    "path", ["/verify-email", "/verify-email/request", "/password-reset", "/password-reset/request"]
)
def test_without_a_mail_server_these_routes_say_so_and_registration_works(start_auth, path):
    auth = start_auth()
    assert post(auth, "/register", CREDENTIALS).status_code == 201
    answer = post(auth, path, {"email": EMAIL})
    assert (answer.status_code, answer.json["type"]) == (404, "urn:belvedere:problem:no-mail")


@pytest.mark.parametrize(
    "change",
    [
        {"MAIL_FROM": ""},
        {"MAIL_LINK_BASE": ""},
        {"MAIL_FROM": "me@x.example\nBcc: you@x.example"},
        {"SMTP_USER": "me"},
        {"SMTP_HOST": "", "LOGIN_REQUIRES_VERIFIED": "true"},
    ],
    ids=lambda change: ",".join(change),
)
def test_half_a_mail_server_ends_the_start(environment, change):
    with pytest.raises(SettingsError, match=r"MAIL|SMTP|LOGIN"):
        load(AuthSettings, environment("auth") | settings(25) | change)


INJECTIONS = [
    "a@x.example\r\nBcc: b@y.example",
    "a@x.example\nBcc:b@y.example",
    "a@x.example%0d%0aBcc:b",
    "a@x.example, b@y.example",
    "a@x.example,y.example",
    "<a@x.example>",
    "b>\r\nRCPT TO:<c@x.example",
    '"a b"@x.example',
    "a@x.example b",
    "a\u2028b@x.example",
    "ä@x.example",
    "a@x",
    "",
]


@pytest.mark.parametrize("address", INJECTIONS)
def test_an_address_that_is_more_than_one_gets_no_mail(server, mailbox, address):
    with pytest.raises(MailRefused):
        SmtpSender("127.0.0.1", server, "none", FROM).send(Mail(address, "subject", "text"))
    assert (mailbox.asked, mailbox.mails) == (0, [])


def test_an_account_with_such_an_address_is_not_registered_or_gets_no_mail(auth, mailbox):
    statuses = [
        post(auth, "/register", CREDENTIALS | {"email": one}, f"192.0.2.{n}").status_code
        for n, one in enumerate(INJECTIONS)
    ]
    taken = statuses.count(201)
    assert set(statuses) == {201, 422}
    eventually(
        lambda: f'auth_mails_total{{kind="verification",result="refused"}} {taken}.0' in auth.metrics(), "refusals"
    )
    assert mailbox.asked == 0


@pytest.fixture
def outbox(environment):
    """An outbox in a hurry, and its metrics."""
    registry = CollectorRegistry()
    tracing = Tracing("auth", "test", load(ServiceSettings, environment("auth")), lambda reason, spans: None)
    boxes = []

    def start(sender, **options):
        boxes.append(Outbox(sender, tracing, registry, **({"pause": 0.02} | options)))
        return boxes[-1]

    start.count = lambda result: registry.get_sample_value("auth_mails_total", {"kind": "reset", "result": result})
    yield start
    for box in boxes:
        box.stop(0)


MAIL = Mail("ada@example.org", "subject", "text")


def test_a_mail_server_that_is_away_gets_the_mail_when_it_is_back(outbox, mailbox):
    port = free_port()
    box = outbox(SmtpSender("127.0.0.1", port, "none", FROM), attempts=12)
    box.put("reset", lambda: MAIL)
    time.sleep(0.2)
    with running(mailbox, port):
        mailbox.wait()
        eventually(lambda: outbox.count("sent") == 1, "the count")


def test_a_mail_server_that_stays_away_is_given_up(outbox):
    box = outbox(SmtpSender("127.0.0.1", free_port(), "none", FROM), attempts=3)
    box.put("reset", lambda: MAIL)
    eventually(lambda: outbox.count("failed") == 1, "the count")


def test_a_mail_that_is_refused_for_good_is_not_sent_again(outbox, server, mailbox):
    mailbox.answers = ["550 no such mailbox"]
    box = outbox(SmtpSender("127.0.0.1", server, "none", FROM))
    box.put("reset", lambda: MAIL)
    eventually(lambda: outbox.count("refused") == 1, "the count")
    assert mailbox.asked == 1


def test_a_mail_that_is_put_off_is_sent_later_and_does_not_hold_up_the_next(outbox, server, mailbox):
    mailbox.answers = ["451 try again later"]
    box = outbox(SmtpSender("127.0.0.1", server, "none", FROM), pause=0.3)
    box.put("reset", lambda: MAIL)
    box.put("reset", lambda: Mail("bob@example.org", "subject", "text"))
    assert [mail.rcpt_tos for mail in mailbox.wait(2)] == [["bob@example.org"], ["ada@example.org"]]


def test_what_the_outbox_cannot_take_is_dropped_and_counted(outbox):
    gate = threading.Event()
    box = outbox(SmtpSender("127.0.0.1", free_port(), "none", FROM), size=2)
    for _ in range(6):
        box.put("reset", lambda: gate.wait(10) and None)
    assert outbox.count("dropped") in (3.0, 4.0)  # one may have been begun
    gate.set()


def test_a_stop_sends_what_is_due_and_counts_the_rest(outbox, server, mailbox):
    mailbox.answers = ["451 try again later"]
    box = outbox(SmtpSender("127.0.0.1", server, "none", FROM), pause=60)
    box.put("reset", lambda: MAIL)
    box.put("reset", lambda: MAIL)
    box.stop()
    assert (outbox.count("sent"), outbox.count("dropped")) == (1, 1)
    box.put("reset", lambda: MAIL)
    assert outbox.count("dropped") == 2


def test_an_error_that_nobody_expected_does_not_end_the_outbox(outbox, server, mailbox):
    box = outbox(SmtpSender("127.0.0.1", server, "none", FROM))
    box.put("reset", lambda: 1 / 0)
    box.put("reset", lambda: MAIL)
    mailbox.wait()
    assert outbox.count("failed") == 1


@contextmanager
def silent_server():
    """A mail server that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_mail_server_that_says_nothing_slows_no_request(start_auth):
    with silent_server() as port:
        auth = start_auth(**settings(port))
        begun = time.monotonic()
        statuses = [post(auth, "/password-reset/request", {"email": f"a{n}@x.example"}).status_code for n in range(10)]
        assert statuses == [202] * 10
        assert time.monotonic() - begun < 1


def test_a_mail_server_that_says_nothing_is_given_up_in_time():
    with silent_server() as port, pytest.raises(MailDelayed):
        SmtpSender("127.0.0.1", port, "none", FROM, timeout=0.1).send(MAIL)


@pytest.fixture(scope="module")
def ca():
    return trustme.CA()


@pytest.fixture
def tls(ca, tmp_path):
    """A server's TLS context, and the file of the CA that its certificate is from."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    return context, tmp_path / "ca.crt"


def check_password(server, session, envelope, mechanism, given):
    return AuthResult(success=given == LoginPassword(b"me", b"secret"), handled=False)


def test_starttls_and_a_password(tls, mailbox):
    context, ca = tls
    options = {"tls_context": context, "require_starttls": True, "authenticator": check_password, "auth_required": True}
    with running(mailbox, **options) as port:
        with pytest.raises(MailDelayed, match="Authentication"):
            SmtpSender("127.0.0.1", port, "starttls", FROM, "me", "wrong", ca).send(MAIL)
        SmtpSender("127.0.0.1", port, "starttls", FROM, "me", "secret", ca).send(MAIL)
    assert len(mailbox.mails) == 1


def test_tls_from_the_first_byte(tls, mailbox):
    context, ca = tls
    with running(mailbox, ssl_context=context) as port:
        SmtpSender("127.0.0.1", port, "tls", FROM, ca=ca).send(MAIL)
    assert len(mailbox.mails) == 1


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_of_another_ca_gets_nothing(tls, mailbox, security):
    context, _ = tls
    options = {"tls_context": context} if security == "starttls" else {"ssl_context": context}
    with running(mailbox, **options) as port, pytest.raises(MailDelayed, match="SSL"):
        SmtpSender("127.0.0.1", port, security, FROM).send(MAIL)
    assert mailbox.asked == 0


def test_a_server_without_starttls_gets_nothing_in_clear(server, mailbox):
    with pytest.raises(MailDelayed):
        SmtpSender("127.0.0.1", server, "starttls", FROM, "me", "secret").send(MAIL)
    assert mailbox.asked == 0


def test_a_mail_s_repr_has_no_text_and_a_sender_s_no_password():
    assert "text" not in repr(MAIL).replace("subject", "")
    assert "secret" not in repr(SmtpSender("h", 25, "none", FROM, "me", "secret"))
