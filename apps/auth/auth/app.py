"""The auth app: builds its parts from the settings and puts them together."""

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from auth import operators, routes
from auth.accounts import EmailTaken
from auth.logins import BadCredentials, Logins, NotVerified, WrongPassword
from auth.mail import Outbox, SmtpSender
from auth.passwords import HashingBusy, PasswordHasher
from auth.proofs import MailLimits, ProofRefused, Proofs
from auth.routes import Auth, NoMail, NoSuchSession
from auth.sessions import RefreshRefused, SessionEnded
from auth.settings import AuthSettings
from auth.shared_failures import SharedFailures
from auth.throttle import Failures, InstanceFailures, Throttle
from auth.tokens import TokenSigner, watch_age
from auth.version import __version__
from servicekit import openapi, service
from servicekit.problems import Problem, answer_with, unauthorized, unavailable
from servicekit.service import Service
from servicekit.settings import load_or_exit
from servicekit.tokens import TokenVerifier


def create_app(settings: AuthSettings | None = None) -> Flask:
    """The app; without settings, those of the process's environment (a wrong one ends the process)."""
    settings = settings or load_or_exit(AuthSettings, "auth")
    app = service.create("auth", __version__, settings)
    kit = service.of(app)
    signer = TokenSigner(
        settings.signing_key.active,
        settings.token_issuer,
        settings.token_audience,
        settings.token_lifetime,
        kit.tracing,
        settings.signing_key.others,
    )
    watch_age(settings.signing_key, kit.metrics.registry)
    hasher = PasswordHasher(
        settings.bcrypt_cost,
        settings.hash_slots,
        settings.hash_queue_length,
        settings.hash_patience,
        kit.tracing,
        kit.metrics.registry,
    )
    verifier = TokenVerifier(signer, settings.token_issuer, settings.token_audience)
    failures: Failures = InstanceFailures()
    if kit.store:
        failures = SharedFailures(kit.store, InstanceFailures(), kit.metrics.registry)
    throttle = Throttle(failures, settings.account_rule, settings.address_rule, settings.overall_rule)
    logins = Logins(
        kit.database,
        hasher,
        throttle,
        settings.session_lifetime,
        signer.derived_key(b"log"),
        kit.metrics.registry,
        settings.login_requires_verified,
    )
    proofs = _proofs(settings, kit, hasher, failures)
    auth = Auth(kit.database, logins, signer, verifier, kit.metrics.registry, proofs)
    app.register_blueprint(routes.blueprint(auth))
    operations = TokenSigner(
        settings.signing_key.active,
        settings.token_issuer,
        operators.AUDIENCE,
        operators.LIFETIME,
        kit.tracing,
        settings.signing_key.others,
    )
    operations_verifier = TokenVerifier(operations, settings.token_issuer, operators.AUDIENCE)
    app.register_blueprint(operators.blueprint(kit.database, logins, operations, operations_verifier))
    openapi.serve(app, "Belvedere auth: registration, login and token validation", __version__)

    answer_with(app, EmailTaken, lambda _: Problem(409, "An account with this e-mail exists.", "email-taken"))
    answer_with(app, HashingBusy, lambda _: unavailable("Too many logins at once; try again soon.", "hashing-busy"))
    answer_with(app, BadCredentials, lambda _: _refused("The e-mail or the password is wrong.", "login-failed"))
    answer_with(app, RefreshRefused, lambda _: _refused("The refresh token is not valid.", "refresh-refused"))
    answer_with(app, SessionEnded, lambda _: unauthorized("The session of this token has ended."))
    answer_with(app, NoSuchSession, lambda _: Problem(404, "You have no such session.", "no-such-session"))
    answer_with(app, WrongPassword, lambda _: Problem(403, "The current password is wrong.", "wrong-password"))
    answer_with(app, NotVerified, lambda _: Problem(403, "Confirm your e-mail address first.", "email-not-verified"))
    answer_with(app, ProofRefused, lambda _: Problem(403, "The link is not valid any more.", "mail-token-refused"))
    answer_with(app, NoMail, lambda _: Problem(404, "This platform sends no mail.", "no-mail"))
    if settings.tls:
        # Only the platform's own hosts have the certificate to get here, and the edge sets this header anew.
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=0)  # type: ignore[method-assign]
    return app


def _proofs(settings: AuthSettings, kit: Service, hasher: PasswordHasher, failures: Failures) -> Proofs | None:
    if not settings.smtp_host or not settings.mail_from or not settings.mail_link_base:
        return None
    sender = SmtpSender(
        settings.smtp_host,
        settings.smtp_port,
        settings.smtp_security,
        settings.mail_from,
        settings.smtp_user,
        settings.smtp_password.get_secret_value() if settings.smtp_password else None,
        settings.smtp_ca,
    )
    outbox = Outbox(sender, kit.tracing, kit.metrics.registry)
    kit.on_stop(outbox.stop)
    return Proofs(
        kit.database,
        hasher,
        outbox,
        MailLimits(failures, settings.mail_account_limit, settings.mail_address_limit),
        settings.mail_link_base,
        {"verification": settings.verification_lifetime, "reset": settings.reset_lifetime},
        kit.metrics.registry,
    )


def _refused(detail: str, name: str) -> Problem:
    return Problem(401, detail, name, {"WWW-Authenticate": "Bearer"})
