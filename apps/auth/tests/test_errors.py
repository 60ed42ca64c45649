"""Every way of being wrong has its 4xx, as problem details."""

import pytest

GOOD = {"email": "ada@example.org", "password": "correct horse battery"}


def assert_problem(answer, status):
    assert answer.status_code == status, answer.get_data(as_text=True)
    assert answer.mimetype == "application/problem+json"
    assert {"type", "title", "status", "detail", "request_id"} <= set(answer.json)
    assert answer.json["status"] == status
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "change",
    [
        {"password": "x" * 73},
        {"password": "\u20ac" * 25},  # 25 characters, 75 bytes
        {"password": "short"},
        {"password": "nul\x00in the middle"},
        {"password": 12345678901234},
        {"password": None},
        {"email": "nul\x00@example.org"},
        {"email": "no-at-sign"},
        {"email": "a@b@example.org"},
        {"email": "a" * 250 + "@example.org"},
        {"email": ["ada@example.org"]},
        {"admin": True},
    ],
)
def test_an_invalid_field_is_422_with_the_fields_name(auth, change):
    answer = auth.client.post("/register", json=GOOD | change)
    assert_problem(answer, 422)
    assert answer.json["errors"][0]["field"] in change


@pytest.mark.parametrize("path", ["/register", "/login"])
def test_a_password_over_72_bytes_is_422_and_not_repeated(auth, path):
    answer = auth.client.post(path, json=GOOD | {"password": "secret" * 20})
    assert_problem(answer, 422)
    assert "secret" not in answer.get_data(as_text=True)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"email": "\\ud800"', b'{"a":' * 5000, b"{'a': 1}"])
def test_a_malformed_body_is_400(auth, body):
    assert_problem(auth.client.post("/login", data=body, content_type="application/json"), 400)


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"7", b"{}"])
def test_well_formed_json_of_another_shape_is_422(auth, body):
    assert_problem(auth.client.post("/login", data=body, content_type="application/json"), 422)


def test_a_lone_surrogate_is_a_4xx(auth):
    body = b'{"email": "ada@example.org", "password": "\\ud800 and more than twelve"}'
    answer = auth.client.post("/register", data=body, content_type="application/json")
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_415(auth, content_type):
    assert_problem(auth.client.post("/login", data=b'{"email": "a"}', content_type=content_type), 415)


def test_a_body_over_64_kib_is_413(auth):
    assert_problem(auth.client.post("/login", json=GOOD | {"password": "x" * 70_000}), 413)


def test_an_unknown_path_is_404(auth):
    assert_problem(auth.client.get("/nowhere"), 404)


def test_a_wrong_method_is_405_with_the_allowed_ones(auth):
    answer = auth.client.get("/login")
    assert_problem(answer, 405)
    assert "POST" in answer.headers["Allow"]


def test_an_invented_method_is_405_and_makes_no_label(auth):
    assert_problem(auth.client.open("/login", method="BREW"), 405)
    assert "BREW" not in auth.metrics()


def test_an_unforeseen_error_is_500_without_its_text_but_with_a_log_line(auth):
    @auth.app.get("/broken")
    def broken():
        raise RuntimeError("inner secret")

    answer = auth.client.get("/broken")
    assert_problem(answer, 500)
    assert "inner secret" not in answer.get_data(as_text=True)
    (line,) = auth.log("request_failed")
    assert line["error"] == "RuntimeError"
    assert line["trace_id"] == answer.headers["X-Request-Id"]


def test_an_unreachable_database_is_503_with_retry_after(start_auth):
    auth = start_auth(DATABASE_HOSTS="127.0.0.1:1")
    answer = auth.client.post("/login", json=GOOD)
    assert_problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0


def test_health_does_not_depend_on_the_database(start_auth):
    auth = start_auth(DATABASE_HOSTS="127.0.0.1:1")
    assert auth.client.get("/livez").status_code == 200
    assert auth.client.get("/readyz").status_code == 200


def test_a_stopping_instance_is_not_ready_but_alive(auth):
    auth.service.readiness.ready = False
    assert auth.client.get("/readyz").status_code == 503
    assert auth.client.get("/livez").status_code == 200
