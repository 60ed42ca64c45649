"""What a login tells metrics, traces and logs, and how one id joins them."""

import re
from pathlib import Path

import pytest

from auth.version import __version__
from servicekit.metrics import release_of

CREDENTIALS = {"email": "ada@example.org", "password": "correct horse battery"}
TRACE = "0123456789abcdef0123456789abcdef"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-00"


@pytest.fixture
def logged_in(auth):
    auth.client.post("/register", json=CREDENTIALS)
    answer = auth.client.post("/login", json=CREDENTIALS, headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 200
    return auth, answer


def test_the_request_id_is_the_trace_id_of_the_edge(logged_in):
    _, answer = logged_in
    assert answer.headers["X-Request-Id"] == TRACE


@pytest.mark.parametrize("path", ["/nowhere", "/livez", "/metrics", "/.well-known/jwks.json"])
def test_every_answer_has_a_request_id_of_its_own_without_the_edge(auth, path):
    first, second = (auth.client.get(path).headers["X-Request-Id"] for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


@pytest.mark.parametrize(
    "header", ["", "x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{TRACE}-0-0"]
)
def test_a_malformed_traceparent_is_replaced(auth, header):
    answer = auth.client.get("/.well-known/jwks.json", headers={"traceparent": header})
    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"] not in (TRACE, "0" * 32)


def test_a_logins_trace_shows_where_its_time_went(logged_in):
    auth, _ = logged_in
    spans = [span for span in auth.spans() if f"{span.context.trace_id:032x}" == TRACE]
    (root,) = [span for span in spans if span.name == "POST /login"]
    assert root.kind.name == "SERVER"
    assert root.parent.span_id == 0x00F067AA0BA902B7
    assert root.attributes["http.route"] == "/login"
    assert root.attributes["http.response.status_code"] == 200
    children = [span.name for span in spans if span.parent.span_id == root.context.span_id]
    selects = ["SELECT primary"] * 2  # the account, and the networks that it has logged in from
    assert sorted(children) == ["INSERT primary", "INSERT primary", *selects, "password.verify", "token.sign"]


def test_a_sql_span_names_its_statement_and_target_but_no_parameters(logged_in):
    auth, _ = logged_in
    span = next(span for span in auth.spans() if span.name == "SELECT primary")
    assert span.attributes["db.system.name"] == "postgresql"
    assert span.attributes["db.operation.name"] == "SELECT"
    assert span.attributes["db.belvedere.target"] == "primary"
    assert "%(email)s" in span.attributes["db.query.text"]
    assert "ada@" not in span.to_json()


def test_the_resource_says_who_speaks(logged_in):
    auth, _ = logged_in
    resource = auth.spans()[0].resource.attributes
    assert resource["service.name"] == "auth"
    assert resource["service.instance.id"].endswith(":8101")
    assert {"service.version", "deployment.environment.name", "host.name"} <= set(resource)


def test_nothing_is_traced_at_a_ratio_of_zero_but_the_request_id_stays(start_auth):
    auth = start_auth(TRACE_SAMPLE_RATIO="0")
    answer = auth.client.get("/nowhere", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    assert answer.headers["X-Request-Id"] == TRACE
    assert auth.spans() == []


def test_probes_and_scrapes_are_not_traced_or_counted(auth):
    for path in ("/livez", "/readyz", "/metrics"):
        auth.client.get(path)
    assert auth.spans() == []
    assert "livez" not in auth.metrics()


def test_the_duration_histogram_counts_routes_and_points_to_the_trace(logged_in):
    auth, _ = logged_in
    assert re.search(
        r'auth_service_duration_seconds_bucket\{le="[^"]+",method="POST",route="/login",status="200"\} '
        rf'1\.0 # \{{trace_id="{TRACE}"\}}',
        auth.metrics(),
    )


def test_unknown_paths_share_one_route(auth):
    auth.client.get("/one")
    auth.client.get("/two")
    assert 'auth_service_duration_seconds_count{method="GET",route="unmatched",status="404"} 2.0' in auth.metrics()


def test_metrics_are_plain_prometheus_text_for_who_asks_for_that(logged_in):
    auth, _ = logged_in
    answer = auth.client.get("/metrics", headers={"Accept": "text/plain"})
    assert answer.mimetype == "text/plain"
    assert "trace_id" not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    "sample",
    [
        'postgresql_query_duration_seconds_count{operation="SELECT",service="auth",target="primary"} 2.0',
        'auth_password_hash_duration_seconds_count{operation="verify"} 1.0',
        'auth_logins_total{outcome="succeeded"} 1.0',
        'auth_logins_total{outcome="locked"} 0.0',
        'auth_lockouts_total{scope="address"} 0.0',
        'auth_password_changes_total{outcome="failed"} 0.0',
        'auth_token_refreshes_total{outcome="reused"} 0.0',
        "auth_password_hash_queue_length 0.0",
        'auth_password_hash_rejected_total{reason="queue_full"} 0.0',
        'database_pool_connections{state="idle",target="primary"} 1.0',
        'database_pool_connections{state="in_use",target="primary"} 0.0',
        'database_pool_connections{state="waiting",target="replica"} 0.0',
        'flask_http_request_duration_seconds_count{method="POST",status="200",url_rule="/login"} 1.0',
        "process_resident_memory_bytes",
    ],
)
def test_metrics_have(logged_in, sample):
    auth, _ = logged_in
    assert sample in auth.metrics()


def test_a_login_is_logged_with_its_trace_and_user_and_without_secrets(logged_in):
    auth, answer = logged_in
    (line,) = auth.log("login_succeeded")
    assert {"ts", "level", "service", "instance", "event", "message", "span_id"} <= set(line)
    assert line["request_id"] == line["trace_id"] == TRACE
    assert line["user_id"]
    assert line["service"] == "auth"
    for secret in (*CREDENTIALS.values(), answer.json["access_token"], answer.json["refresh_token"]):
        assert secret not in auth.output()


def test_a_failed_login_is_logged_and_counted_without_the_address(auth):
    auth.client.post("/login", json=CREDENTIALS)
    (line,) = auth.log("login_failed")
    assert line["level"] == "warning"
    assert "user_id" not in line
    assert "ada@" not in auth.output()
    assert 'auth_logins_total{outcome="failed"} 1.0' in auth.metrics()


def test_failed_logins_can_be_counted_by_account_and_by_address_without_saying_whose(auth):
    for email in ("ada@example.net", "ada@example.net", "bob@example.net"):
        auth.client.post("/login", json=CREDENTIALS | {"email": email}, environ_base={"REMOTE_ADDR": "2001:db8:1:2::3"})
    accounts = [line["account"] for line in auth.log("login_failed")]
    assert accounts[0] == accounts[1] != accounts[2]
    assert {line["client"] for line in auth.log("login_failed")} == {"2001:db8:1:2::/64"}


@pytest.mark.parametrize(
    ("address", "new"), [("192.0.2.99", False), ("192.0.3.1", True), ("::ffff:192.0.2.7", False), ("2001:db8::1", True)]
)
def test_a_login_from_a_network_that_the_account_was_never_in_is_told(auth, address, new):
    auth.client.post("/register", json=CREDENTIALS)

    def log_in(address):
        assert auth.client.post("/login", json=CREDENTIALS, environ_base={"REMOTE_ADDR": address}).status_code == 200

    log_in("192.0.2.1")  # the first login of all is from no new network: there is no old one
    log_in(address)
    assert len(auth.log("login_from_new_network")) == new
    assert f"auth_logins_from_new_networks_total {float(new)}" in auth.metrics()
    log_in(address)
    assert len(auth.log("login_from_new_network")) == new


def test_a_slow_statement_is_logged_without_its_parameters(start_auth):
    auth = start_auth(SLOW_QUERY_MS="0")
    auth.client.post("/login", json=CREDENTIALS)
    line = auth.log("slow_query")[0]
    assert (
        line["statement"]
        == "SELECT id, email, password_hash, email_verified_at IS NOT NULL FROM auth.accounts WHERE email = %(email)s"
    )
    assert line["duration_ms"] > 0
    assert "ada@" not in auth.output()


def test_a_slow_request_is_logged(start_auth):
    auth = start_auth(SLOW_REQUEST_MS="0")
    auth.client.get("/nowhere")
    (line,) = auth.log("request")
    assert (line["route"], line["status"]) == ("unmatched", 404)


def test_an_instance_says_which_release_it_runs(auth):
    assert f'auth_build_info{{version="{__version__}"}} 1.0' in auth.metrics()
    assert auth.log("service_started")[0]["version"] == __version__


def test_on_a_host_the_release_is_named_by_its_folder():
    assert release_of("1.0.0", Path("/opt/auth/releases/1.0.0-0123456789ab")) == "1.0.0-0123456789ab"
    assert release_of("1.0.0", Path("/home/ada/.venv")) == "1.0.0"
