"""The edge, as a client sees it: TLS, errors, request ids, and what it hides."""

import base64
import json
import re
import socket
import ssl
import time
import uuid
import warnings
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
import requests
import yaml
from belvedere_platform import PASSWORD, REQUEST_ID, ROOT, Edge, Platform, assert_problem

JSON = {"Content-Type": "application/json"}
CREDENTIALS = {"email": "nobody@example.com", "password": PASSWORD}


def handshake(platform: Platform, tool: str, version: ssl.TLSVersion | None = None) -> ssl.SSLSocket:
    """A TLS connection that offers HTTP/2, and old versions with the ciphers that they need."""
    url = urlsplit(platform.url(tool))
    context = ssl.create_default_context(cafile=platform.ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    if version:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
    plain = socket.create_connection((str(url.hostname), url.port or 443), timeout=5)
    return context.wrap_socket(plain, server_hostname=url.hostname)


@pytest.mark.parametrize("tool", ["edge", "ops"])
def test_http_2_is_spoken(platform: Platform, tool: str) -> None:
    with handshake(platform, tool) as connection:
        assert connection.selected_alpn_protocol() == "h2"


@pytest.mark.parametrize("tool", ["edge", "ops"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_current_tls_versions_are_spoken(platform: Platform, tool: str, version: ssl.TLSVersion) -> None:
    with handshake(platform, tool, version) as connection:
        assert connection.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]


@pytest.mark.parametrize("tool", ["edge", "ops"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
def test_old_tls_versions_are_refused(platform: Platform, tool: str, version: ssl.TLSVersion) -> None:
    # The alert is the server's: had this machine's library refused, the error would be another.
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.*(protocol.version|handshake.failure)"):
        handshake(platform, tool, version)


def test_plain_http_is_sent_to_https(platform: Platform) -> None:
    host = urlsplit(platform.url("edge")).hostname
    answer = requests.get(f"http://{host}/login", timeout=5, allow_redirects=False)
    assert answer.status_code in (301, 308)
    assert answer.headers["Location"].startswith("https://")


@pytest.mark.parametrize("header", ["X-Request-Id", "traceparent"])
def test_a_client_s_own_request_id_is_not_trusted(anonymous: Edge, header: str) -> None:
    theirs = "f" * 32
    value = theirs if header == "X-Request-Id" else f"00-{theirs}-{'f' * 16}-01"
    answer = anonymous.get("/validate", headers={header: value})
    problem = assert_problem(answer, 401)
    assert problem["request_id"] != theirs


@pytest.mark.parametrize("path", ["/login", "/register", "/api/v1/items"])
def test_malformed_json_is_400(user: Edge, path: str) -> None:
    assert_problem(user.post(path, data="{", headers=JSON), 400)


@pytest.mark.parametrize("path", ["/login", "/register", "/api/v1/items"])
def test_another_content_type_than_json_is_415(user: Edge, path: str) -> None:
    assert_problem(user.post(path, data="email=x"), 415)


@pytest.mark.parametrize("path", ["/login", "/register", "/api/v1/items"])
@pytest.mark.parametrize("size", [100_000, 5_000_000])
def test_an_oversized_body_is_413(user: Edge, path: str, size: int) -> None:
    assert_problem(user.post(path, data=json.dumps({"title": "x" * size}), headers=JSON), 413)


@pytest.mark.parametrize("path", ["/login", "/register", "/api/v1/items"])
@pytest.mark.parametrize("body", [{}, [], {"unknown": 1}, {"email": 1, "password": None, "title": 3}], ids=json.dumps)
def test_a_body_of_the_wrong_shape_is_422(user: Edge, path: str, body: Any) -> None:
    assert_problem(user.post(path, json=body), 422)


@pytest.mark.parametrize("path", ["/login", "/register"])
@pytest.mark.parametrize("password", ["p" * 73, "é" * 37], ids=["73 letters", "74 bytes in 37 letters"])
def test_a_password_over_72_bytes_is_422(anonymous: Edge, path: str, password: str) -> None:
    assert_problem(anonymous.post(path, json={"email": "long@example.com", "password": password}), 422)


def test_a_password_of_72_bytes_is_taken(anonymous: Edge) -> None:
    credentials = {"email": f"{uuid.uuid4().hex}@example.com", "password": "p" * 72}
    assert anonymous.post("/register", json=credentials).status_code == 201
    assert anonymous.post("/login", json=credentials).status_code == 200


def test_an_unknown_account_and_a_wrong_password_are_the_same_401(anonymous: Edge) -> None:
    known = {"email": f"{uuid.uuid4().hex}@example.com", "password": PASSWORD}
    assert anonymous.post("/register", json=known).status_code == 201
    unknown = assert_problem(anonymous.post("/login", json=CREDENTIALS), 401)
    wrong = assert_problem(anonymous.post("/login", json=known | {"password": "another password"}), 401)
    assert unknown | {"request_id": ""} == wrong | {"request_id": ""}


def test_a_second_registration_of_an_address_is_409(anonymous: Edge) -> None:
    credentials = {"email": f"{uuid.uuid4().hex}@example.com", "password": PASSWORD}
    assert anonymous.post("/register", json=credentials).status_code == 201
    assert_problem(anonymous.post("/register", json=credentials), 409)


def expired(platform: Platform, user: Edge) -> str:
    """The user's token as the service would have signed it long ago."""
    secrets = platform.ansible("ansible-vault", "view", str(ROOT / ".state" / platform.name / "secrets.yml")).stdout
    token = str(user.token)
    claims = jwt.decode(token, options={"verify_signature": False})
    past = int(time.time()) - 86_400
    claims |= {name: past for name in ("iat", "nbf", "exp") if name in claims}
    key = yaml.safe_load(secrets)["signing_key"]
    return jwt.encode(claims, key, "RS256", {"kid": jwt.get_unverified_header(token)["kid"]})


def tampered(platform: Platform, user: Edge) -> str:
    header, claims, signature = str(user.token).split(".")
    decoded = json.loads(base64.urlsafe_b64decode(claims + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(decoded | {"sub": str(uuid.uuid4())}).encode()).decode().rstrip("=")
    return f"{header}.{forged}.{signature}"


def unsigned(platform: Platform, user: Edge) -> str:
    claims = jwt.decode(str(user.token), options={"verify_signature": False})
    return jwt.encode(claims, None, "none")  # type: ignore[arg-type]


def garbage(platform: Platform, user: Edge) -> str:
    return "not.a.token"


@pytest.mark.parametrize("path", ["/validate", "/api/v1/users/me", "/api/v1/items"])
@pytest.mark.parametrize("make", [expired, tampered, unsigned, garbage], ids=lambda make: make.__name__)
def test_a_token_that_is_not_valid_is_401(platform: Platform, user: Edge, make: Any, path: str) -> None:
    answer = anonymous_with(platform, make(platform, user)).get(path)
    assert_problem(answer, 401)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def anonymous_with(platform: Platform, token: str) -> Edge:
    return Edge(platform.edge.url, platform.ca, token)


@pytest.mark.parametrize("path", ["/validate", "/api/v1/users/me", "/api/v1/items"])
def test_no_token_is_401(anonymous: Edge, path: str) -> None:
    assert_problem(anonymous.get(path), 401)


@pytest.mark.parametrize(
    "path", ["/none", "/api/v1/none", "/login/none", "/etc/passwd", "/nginx_status", "/stub_status"]
)
def test_an_unknown_path_is_404(user: Edge, path: str) -> None:
    assert_problem(user.get(path), 404)


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/api/metrics"])
def test_what_an_instance_tells_operators_is_404_at_the_edge(user: Edge, path: str) -> None:
    assert_problem(user.get(path), 404)


@pytest.mark.parametrize("path", ["/api/../metrics", "/api/%2e%2e/metrics", "/api/v1/..%2f..%2fmetrics", "//metrics"])
def test_no_way_of_writing_the_path_reaches_an_instance_s_metrics(platform: Platform, path: str) -> None:
    url = urlsplit(platform.url("edge"))
    context = ssl.create_default_context(cafile=platform.ca)
    connection = HTTPSConnection(str(url.hostname), url.port or 443, timeout=5, context=context)
    connection.request("GET", path)  # as it stands: requests would resolve the dots
    assert connection.getresponse().status == 404
    connection.close()


def test_a_wrong_method_is_405(anonymous: Edge) -> None:
    assert_problem(anonymous.get("/login"), 405)


def test_an_address_that_asks_too_often_is_sent_away(platform: Platform) -> None:
    watcher = platform.groups["observability"][0]  # this machine itself is exempt, by the local inventory
    command = (
        "for n in $(seq 60); do curl --silent --cacert /etc/belvedere/tls/ca.crt"
        " --output /tmp/answer --write-out '%{http_code}\\n'"
        f" --dump-header /tmp/headers --json '{{}}' {platform.edge.url}/register; done; cat /tmp/headers /tmp/answer"
    )
    answers = platform.ssh(watcher, command)
    statuses = re.findall(r"^\d{3}$", answers, re.MULTILINE)
    assert (statuses[0], statuses[-1], set(statuses)) == ("422", "429", {"422", "429"})
    assert re.search(r"^retry-after: [1-9]\d*\r?$", answers, re.MULTILINE | re.IGNORECASE), answers
    assert re.search(r'"status": ?429\b', answers), answers


def test_keys_are_published_for_whoever_checks_tokens(anonymous: Edge, user: Edge) -> None:
    keys = anonymous.get("/.well-known/jwks.json").json()["keys"]
    assert jwt.get_unverified_header(str(user.token))["kid"] in {key["kid"] for key in keys}
    assert not any("d" in key for key in keys), "a private key is published"


def test_the_edge_does_not_tell_its_version(anonymous: Edge) -> None:
    answer = anonymous.get("/none")
    assert not any(character.isdigit() for character in answer.headers.get("Server", ""))
    assert REQUEST_ID.fullmatch(answer.headers["X-Request-Id"])


@pytest.mark.parametrize("tool", ["ops", "prometheus", "alertmanager", "jaeger", "logs", "grafana"])
@pytest.mark.parametrize("password", ["", "wrong"], ids=["no password", "a wrong password"])
def test_the_operations_pages_ask_for_the_password(platform: Platform, tool: str, password: str) -> None:
    if not platform.description[tool]:
        pytest.skip(f"{tool} was left out: {platform.left_out}")
    login = (platform.description["ops_user"], password) if password else None
    answer = requests.get(platform.url(tool) + "/", auth=login, verify=platform.ca, timeout=10)
    assert answer.status_code == 401


def test_the_operations_page_lists_the_tools(platform: Platform) -> None:
    page = platform.ask("ops", "/").text
    tools = ["Prometheus", "Alertmanager", "Jaeger", "VictoriaLogs", "Grafana"]
    assert [tool for tool in tools if tool not in page] == []
