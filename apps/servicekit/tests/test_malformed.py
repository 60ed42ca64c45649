"""Whatever bytes arrive, the answer is an answer: a problem that says what is wrong, never a failure of the service."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

ITEM = "/api/v1/items/00000000-0000-0000-0000-000000000000"
WITH_BODY = [
    *(
        ("auth", "POST", path)
        for path in (
            *("/register", "/login", "/refresh", "/logout", "/password"),
            *("/verify-email/request", "/verify-email", "/password-reset/request", "/password-reset"),
        )
    ),
    ("api", "PATCH", "/api/v1/users/me"),
    ("api", "POST", "/api/v1/items"),
    ("api", "PATCH", ITEM),
]
JSON_TYPES = ("application/json", "application/merge-patch+json", "application/json; charset=utf-16")

# Each character stands for the byte of its number: what WSGI hands over, and what may stand in a header's line.
raw = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=60)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
).map(repr)
near_json = json_like.map(lambda text: text.replace("'", '"').replace("None", "null").encode("utf-8", "replace"))
bodies = st.binary(max_size=80) | near_json

# Examples are the same in every run, and share the test's database.
many = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def ask(request, signer):
    """Send a request to one of the services as somebody who is logged in; the answer, which is none of a failure."""
    token = signer.sign("7b1f6c52-3f0e-4c7e-9d59-0c6a1d4bde00", "ada@example.org")

    def ask(service, method, path, headers=(), **options):
        headers = {"Authorization": f"Bearer {token}", **dict(headers)}
        answer = request.getfixturevalue(service).client.open(path, method=method, headers=headers, **options)
        assert answer.status_code < 500, answer.get_data(as_text=True)
        if answer.status_code >= 400:
            assert answer.mimetype == "application/problem+json"
        return answer

    return ask


@pytest.mark.parametrize(("service", "method", "path"), WITH_BODY)
@given(body=bodies, content_type=st.sampled_from(JSON_TYPES) | raw)
@example(body=b'{"a":' * 20_000, content_type="application/json")
@example(body=b"9" * 10_000, content_type="application/json")
@example(body=b'{"title": "\\ud800", "body": ""}', content_type="application/json")
@example(body='{"title": "x", "body": ""}'.encode("utf-16"), content_type="application/json; charset=utf-16")
@example(body=b'\xef\xbb\xbf{"title": "x", "body": ""}', content_type="application/json")
@many
def test_any_body_is_answered(ask, service, method, path, body, content_type):
    ask(service, method, path, data=body, content_type=content_type)


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match", "Idempotency-Key", "X-Write-Position", "Cookie"])
@given(value=raw)
@example(value='""')
@example(value='W/"", *')
@example(value='"' + "f" * 4000 + '"')
@example(value="FFFFFFFF/FFFFFFFF")
@example(value="__Host-position=\x00")
@many
def test_any_header_is_answered(ask, name, value):
    ask("api", "GET", ITEM, {name: value})
    ask("api", "PATCH", ITEM, {name: value}, json={})
    ask("api", "POST", "/api/v1/items", {name: value}, json={"title": "x", "body": ""})


@given(value=raw)
@example(value="Bearer")
@example(value="Bearer a.b.c")
@example(value="Bearer eyJhbGciOiJub25lIn0.e30.")
@example(value="Bearer \xff")
@many
def test_any_authorization_is_answered(ask, value):
    for service, path in (("auth", "/validate"), ("auth", "/sessions"), ("api", "/api/v1/items")):
        assert ask(service, "GET", path, {"Authorization": value}).status_code == 401


@given(query=raw)
@example(query="limit=\u0661")
@example(query="limit=1e1")
@example(query="limit=" + "9" * 5000)
@example(query="after=%00&q=%00")
@example(query="after=MDAwMS0wMS0wMVQwMDowMDowMCswMDowMCAwMDAwMDAwMC0wMDAwLTAwMDAtMDAwMC0wMDAwMDAwMDAwMDA=")
@example(query="q=%ff%fe&q=%ed%a0%80")
@many
def test_any_query_is_answered(ask, query):
    ask("api", "GET", "/api/v1/items", query_string=query)


@given(path=raw)
@example(path="api/v1/items/00000000-0000-0000-0000-000000000000%00")
@example(path="sessions/\x00")
@many
def test_any_path_is_answered(ask, path):
    for service, method in (("auth", "GET"), ("api", "DELETE")):
        ask(service, method, "/", environ_overrides={"PATH_INFO": f"/{path}", "RAW_URI": f"/{path}"})


@given(headers=st.fixed_dictionaries({"User-Agent": raw, "X-Forwarded-For": raw, "traceparent": raw, "Host": raw}))
@many
def test_whoever_asks_is_answered(ask, headers):
    ask("auth", "POST", "/logout", headers, json={"refresh_token": "x"})
