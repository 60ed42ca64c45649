"""The real server: mutual TLS, keepalive, notification, draining."""

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trustme
from local_postgresql import free_port

STARTED = '"event": "service_started"'


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A CA, and one certificate for both ends."""
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca")
    issued.private_key_pem.write_to_path(folder / "key")
    issued.cert_chain_pems[0].write_to_path(folder / "cert")
    return folder


@pytest.fixture
def start(environment, tmp_path):
    """Start gunicorn as the unit does, and wait until systemd would be told and the worker is up."""
    processes = []

    def start(wait=True, **overrides):
        notify = tmp_path / "notify"
        port = free_port()
        values = environment("auth") | {
            "BASE_PORT": str(port - 1),
            "INSTANCE": "1",
            "NOTIFY_SOCKET": str(notify),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(notify))
            systemd.settimeout(20)
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "--config", "python:servicekit.gunicorn", "auth:create_app()"],
                env=values | overrides,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            processes.append(process)
            if wait:
                assert b"READY=1" in systemd.recv(1000)
                while STARTED not in (line := process.stdout.readline()):
                    assert line, "gunicorn ended before its worker was up"
        return process, port

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def client_context(folder, with_certificate=True):
    context = ssl.create_default_context(cafile=str(folder / "ca"))
    if with_certificate:
        context.load_cert_chain(folder / "cert", folder / "key")
    return context


def tls_environment(folder):
    return {"TLS_CA": str(folder / "ca"), "TLS_CERT": str(folder / "cert"), "TLS_KEY": str(folder / "key")}


def get(connection, path):
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer


def test_over_tls_it_serves_many_requests_on_one_connection_to_who_has_a_certificate(start, certificates):
    _, port = start(**tls_environment(certificates))
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=client_context(certificates))
    assert get(connection, "/livez").status == 200
    kept = connection.sock
    assert get(connection, "/readyz").status == 200
    assert connection.sock is kept
    connection.close()

    stranger = http.client.HTTPSConnection(
        "127.0.0.1", port, timeout=5, context=client_context(certificates, with_certificate=False)
    )
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(stranger, "/livez")


def test_on_sigterm_a_login_in_flight_is_answered_and_the_process_ends(start):
    process, port = start(BCRYPT_COST="13")  # some tenths of a second: long enough to be in flight
    body = json.dumps({"email": "nobody@example.org", "password": "any"})
    answers = []

    def login():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/login", body, {"Content-Type": "application/json"})
        answers.append(connection.getresponse().status)
        connection.close()

    flying = threading.Thread(target=login)
    flying.start()
    time.sleep(0.2)  # there is nothing to wait for outside: the request must only have arrived
    process.send_signal(signal.SIGTERM)
    flying.join(20)
    output, _ = process.communicate(timeout=20)
    assert answers == [401]
    assert process.returncode == 0
    assert '"event": "service_stopped"' in output


def test_while_draining_it_serves_but_is_not_ready(start):
    process, port = start(DRAIN_SECONDS="1")
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 5
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        status = get(connection, "/readyz").status
        connection.close()
        if status == 503:
            break
        assert time.monotonic() < deadline, "it stayed ready"
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_every_line_is_json(start):
    process, _ = start()
    process.terminate()
    output, _ = process.communicate(timeout=20)
    assert output
    for line in output.splitlines():
        assert json.loads(line)["service"] == "auth"


def test_a_chunked_body_over_the_limit_is_413(start):
    _, port = start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    chunks = (b"x" * 1000 for _ in range(100))
    connection.request("POST", "/login", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413, answer.read()
    connection.close()


def test_a_wrong_setting_ends_the_start_with_one_line(start):
    process, _ = start(wait=False, BCRYPT_COST="99")
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 78
    assert output.strip() == "auth: wrong setting: BCRYPT_COST: Input should be less than or equal to 16"


def test_an_unreachable_trace_backend_is_not_noticed(start):
    process, port = start(TRACE_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    begun = time.monotonic()
    for _ in range(50):
        assert get(connection, "/.well-known/jwks.json").status == 200
    assert time.monotonic() - begun < 2
    connection.close()
    begun = time.monotonic()
    process.terminate()
    process.communicate(timeout=20)
    assert time.monotonic() - begun < 8


def test_it_needs_no_writable_path(start, certificates):
    process, _ = start()
    opened = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert not [path for path in opened if path.startswith(("/run", "/tmp", "/var"))]
