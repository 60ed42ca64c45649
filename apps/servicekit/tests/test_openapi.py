"""The OpenAPI document: whole, valid, and what the services really take and answer."""

import threading

import pytest
from contract import keeps_its_contract
from flask import Flask
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.serving import make_server

from servicekit import openapi
from servicekit.openapi import Undescribed, internal, operation

SERVICES = ("auth", "api")


@pytest.fixture(params=SERVICES)
def running(request):
    return request.getfixturevalue(request.param)


def document_of(running):
    return running.client.get(f"/openapi/{running.app.name}.json").json


def test_a_document_is_valid_openapi_3_1(running):
    document = document_of(running)
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_no_route_was_added_after_its_document_was_made(running):
    assert document_of(running)["paths"] == openapi.document(running.app, "", "")["paths"]


def test_a_route_that_nobody_described_is_refused():
    app = Flask("orders", static_folder=None)
    app.add_url_rule("/orders/<int:number>", view_func=lambda number: "")
    with pytest.raises(Undescribed, match="/orders/<int:number>"):
        openapi.document(app, "Orders", "1")


def test_an_internal_route_is_left_out():
    app = Flask("orders", static_folder=None)
    app.add_url_rule("/orders", view_func=internal(lambda: ""))
    assert openapi.document(app, "Orders", "1")["paths"] == {}


def test_a_route_without_a_docstring_is_refused():
    app = Flask("orders", static_folder=None)

    @app.get("/orders")
    @operation()
    def orders():
        return "", 204

    with pytest.raises(Undescribed, match="docstring"):
        openapi.document(app, "Orders", "1")


def test_what_follows_from_a_route_need_not_be_said(api):
    path = document_of(api)["paths"]["/api/v1/items/{item_id}"]
    assert path["get"]["parameters"][0] == {
        "name": "item_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    }
    assert set(path["patch"]["responses"]) == {"200", "400", "401", "404", "412", "413", "415", "422", "429", "503"}
    assert set(path["patch"]["responses"]["503"]["headers"]) == {"X-Request-Id", "Retry-After"}
    assert path["patch"]["security"] == [{"bearer": []}]


@pytest.mark.parametrize("kind", [".json", ""])
def test_caches_may_keep_it_and_ask_whether_it_holds(running, kind):
    path = f"/openapi/{running.app.name}{kind}"
    answer = running.client.get(path)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "public, max-age=300")
    again = running.client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_people_see_every_operation_and_object_and_nothing_from_elsewhere(running):
    answer = running.client.get(f"/openapi/{running.app.name}")
    page, document = answer.get_data(as_text=True), document_of(running)
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    for name in [*ids, *document["components"]["schemas"]]:
        assert page.count(f'id="{name}"') == 1
    assert "<script" not in page
    assert "http" not in page
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")


@pytest.fixture
def served(running):
    """The service's URL."""
    server = make_server("127.0.0.1", 0, running.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_its_answers_are_as_its_document_says(running, served, auth):
    credentials = {"email": "ada@example.org", "password": "correct horse battery"}
    auth.client.post("/register", json=credentials)
    token = auth.client.post("/login", json=credentials).json["access_token"]
    keeps_its_contract(f"{served}/openapi/{running.app.name}.json", token, examples=10)
