"""Health: /livez says that the process answers, /readyz that it wants requests.

Neither asks the database. It is shared: if it is away, all instances would be taken out at once, and the edge
would have nobody left to answer 503 with Retry-After, or to validate a token, which needs no database.
"""

from flask import Flask, Response


class Readiness:
    """Whether this instance wants requests; not before its start, and no longer once it stops."""

    def __init__(self) -> None:
        self.ready = True


def serve(app: Flask, readiness: Readiness) -> None:
    """Add /livez and /readyz."""

    @app.get("/livez")
    def livez() -> Response:
        return Response("alive\n", mimetype="text/plain")

    @app.get("/readyz")
    def readyz() -> Response:
        if readiness.ready:
            return Response("ready\n", mimetype="text/plain")
        return Response("stopping\n", 503, mimetype="text/plain")
