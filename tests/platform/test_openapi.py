"""The services' OpenAPI documents, for programs and people, and whether the services keep to them."""

import re

import pytest
from belvedere_platform import Edge, Platform
from contract import keeps_its_contract

SERVICES = ("auth", "api")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_s_document_is_public_and_cacheable(anonymous: Edge, service: str) -> None:
    answer = anonymous.get(f"/openapi/{service}.json")
    assert answer.status_code == 200
    assert answer.json()["openapi"].startswith("3.1.")
    assert re.fullmatch(r"public, max-age=\d+", answer.headers["Cache-Control"])
    again = anonymous.get(f"/openapi/{service}.json", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


def test_the_list_of_documents_leads_to_each_service_s_page(anonymous: Edge) -> None:
    listed = anonymous.get("/docs/")
    assert listed.status_code == 200
    for service in SERVICES:
        assert f'href="/openapi/{service}"' in listed.text
        page = anonymous.get(f"/openapi/{service}")
        assert page.headers["Content-Type"].startswith("text/html")
        assert f"/openapi/{service}.json" in page.text
        # Its own policy, which lets its style in, and not the one that the edge has for everything else.
        assert re.match(r"default-src 'none'; style-src 'sha256-[^']+'; ", page.headers["Content-Security-Policy"])
        assert "<script" not in page.text


@pytest.mark.parametrize(("service", "examples"), [("auth", 5), ("api", 15)])
def test_a_service_s_answers_are_as_its_document_says(platform: Platform, service: str, examples: int) -> None:
    """Few examples for auth: each well-formed login or registration is a quarter of a second of a core."""
    token = platform.edge.as_new_user().token
    assert token
    keeps_its_contract(f"{platform.edge.url}/openapi/{service}.json", token, platform.ca, examples)
