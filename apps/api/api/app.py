"""The api app: builds its parts from the settings and puts them together."""

from flask import Flask

from api import routes
from api.cache import ReadCache
from api.idempotency import KeyReused
from api.items import BadCursor
from api.routes import Api
from api.settings import ApiSettings
from api.version import __version__
from servicekit import openapi, service
from servicekit.problems import Problem, answer_with, unavailable
from servicekit.requests import invalid_field
from servicekit.settings import load_or_exit
from servicekit.tokens import JwksCache, KeysUnavailable, TokenVerifier


def create_app(settings: ApiSettings | None = None) -> Flask:
    """The app; without settings, those of the process's environment (a wrong one ends the process)."""
    settings = settings or load_or_exit(ApiSettings, "api")
    app = service.create("api", __version__, settings)
    kit = service.of(app)
    keys = JwksCache(settings.jwks_url, settings.jwks_ca or settings.tls_ca, kit.tracing)
    verifier = TokenVerifier(keys, settings.token_issuer, settings.token_audience)
    cache = ReadCache(kit.store, settings.read_cache_seconds, kit.metrics.registry)
    app.register_blueprint(routes.blueprint(Api(kit.database, verifier, cache)))
    openapi.serve(app, "Belvedere api: users and their items", __version__)

    answer_with(app, KeysUnavailable, lambda error: unavailable(str(error), "keys-unavailable"))
    answer_with(app, BadCursor, lambda _: invalid_field("after", "must be the 'next' of a page"))
    answer_with(
        app,
        KeyReused,
        lambda _: Problem(422, "The Idempotency-Key was used for another request.", "idempotency-key-reused"),
    )
    return app
