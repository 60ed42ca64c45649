"""The key that signs access tokens is replaced while clients log in and validate: none is refused."""

import threading
import uuid
from collections.abc import Callable

import jwt
import requests
from belvedere_platform import PASSWORD, Edge, Platform, at_work
from ledger import PATIENCE, PAUSE, Watch


def repeating(act: Callable[[Edge], None], edge: Edge) -> Callable[[threading.Event], None]:
    """This client's doing something again and again."""

    def go(over: threading.Event) -> None:
        while not over.wait(PAUSE):
            act(edge)

    return go


def kids(edge: Edge) -> list[str]:
    """The keys that the platform publishes, the active one first."""
    return [key["kid"] for key in edge.get("/.well-known/jwks.json").json()["keys"]]


def test_the_signing_key_is_rotated_and_no_request_fails(platform: Platform, user: Edge, watch: Watch) -> None:
    credentials = {"email": f"{uuid.uuid4().hex}@example.com", "password": PASSWORD}
    anonymous = Edge(user.url, user.ca)
    assert anonymous.post("/register", json=credentials).status_code == 201
    signed: dict[str, str] = {}  # the last token of each key
    failed: list[str] = []
    done = {"logins": 0, "validations": 0}

    def ask(edge: Edge, what: str, method: str, path: str, **options: object) -> requests.Response | None:
        try:
            answer = edge.insist(method, path, timeout=PATIENCE, **options)
        except requests.RequestException as error:
            failed.append(f"{path}: {type(error).__name__}: {error}")
            return None
        if answer.status_code != 200:
            failed.append(f"{path}: {answer.status_code} {answer.text[:200]}")
            return None
        done[what] += 1
        return answer

    def log_in(edge: Edge) -> None:
        answer = ask(edge, "logins", "POST", "/login", json=credentials)
        if answer:
            token = answer.json()["access_token"]
            signed[jwt.get_unverified_header(token)["kid"]] = token
            for path in ("/validate", "/api/v1/users/me"):  # at once, and at a service that keeps the keys
                ask(edge, "validations", "GET", path, headers={"Authorization": f"Bearer {token}"})

    def validate(edge: Edge) -> None:
        ask(edge, "validations", "GET", "/validate")

    before = kids(user)
    with (
        watch("signing key rotated") as ledger,
        at_work(
            *(repeating(log_in, Edge(user.url, user.ca)) for _ in range(2)),
            *(repeating(validate, Edge(user.url, user.ca, user.token)) for _ in range(2)),
        ),
    ):
        platform.ansible("ansible-playbook", "playbooks/rotate_signing_key.yml", timeout=900)
        ledger.note = f"{done['logins']} logins, {done['validations']} validations"
    after = kids(user)
    print(ledger.note)
    assert after[0] == before[1], "it is not the next key that signs now"
    assert before[0] in after, "the retired key is not listed any more"
    assert (failed, list(ledger.unknown.values()), ledger.failed_reads) == ([], [], [])
    assert set(signed) == {before[0], after[0]}
    for token in signed.values():  # the last that the former key signed, too
        answer = anonymous.get("/validate", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text


def test_a_young_key_is_left_alone(platform: Platform, user: Edge) -> None:
    before = kids(user)
    arguments = ("playbooks/rotate_signing_key.yml", "--extra-vars", "rotate_if_older_than=30d")
    platform.ansible("ansible-playbook", *arguments, timeout=300)
    assert kids(user) == before
