"""auth's settings, beside those of every service."""

from typing import Annotated, Self

from pydantic import BeforeValidator, ConfigDict, Field, FilePath, SecretStr, model_validator

from auth.mail import Security
from auth.throttle import Rule
from auth.tokens import SigningKeys, load_signing_keys
from servicekit.settings import CREDENTIAL, ServiceSettings

SPARE_THREADS = 2  # never wait for a password hash: they validate tokens, and tell the others to come back later


class AuthSettings(ServiceSettings):
    """What auth needs besides."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)

    token_issuer: str
    token_audience: str
    token_lifetime: int = Field(default=900, ge=60, le=86400)  # seconds
    session_lifetime: int = Field(default=30 * 86400, ge=3600)  # seconds after which a login ends for good
    # PEM: the RSA private key that signs, and behind it, while keys are rotated, the next one or retired ones.
    signing_key: Annotated[SigningKeys, CREDENTIAL, BeforeValidator(load_signing_keys)]
    bcrypt_cost: int = Field(default=12, ge=4, le=16)
    hash_slots: int = Field(default=1, ge=1)  # hashes at once; one is right where an instance runs on each core
    hash_queue: int | None = Field(default=None, ge=0)  # callers that wait for a slot; if not set, as many as may
    hash_patience: float = Field(default=2, ge=0, le=10)  # seconds that they wait
    # Failed logins that lock: by account within 15 minutes, by address and in all within one.
    throttle_account_failures: int = Field(default=10, ge=1)
    throttle_address_failures: int = Field(default=300, ge=1)  # many people may share an address
    throttle_overall_failures: int = Field(default=1000, ge=1)  # more than people mistype, or one address may
    throttle_first_lock: float = Field(default=30, gt=0)  # seconds; each further lock lasts twice as long
    throttle_longest_lock: float = Field(default=900, gt=0)  # seconds

    # Mail: without SMTP_HOST none is sent, and the routes that need it answer 404.
    smtp_host: str | None = None
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_security: Security = "starttls"  # or tls (usually port 465), or none
    smtp_ca: FilePath | None = None  # that the server's certificate comes from; if not set, the system's CAs
    smtp_user: str | None = None
    smtp_password: Annotated[SecretStr | None, CREDENTIAL] = None
    mail_from: str | None = Field(default=None, pattern=r"^[^@\s]+@[^@\s]+$")
    mail_link_base: str | None = Field(default=None, pattern=r"^https?://[!-~]+$")  # pages that take links begin so
    verification_lifetime: int = Field(default=86400, ge=60)  # seconds that a link is good
    reset_lifetime: int = Field(default=3600, ge=60, le=86400)
    mail_account_limit: int = Field(default=3, ge=1)  # mails of a kind to one account in an hour
    mail_address_limit: int = Field(default=20, ge=1)  # that one address may ask for in an hour
    login_requires_verified: bool = False  # see docs/decisions/mail.md

    @property
    def account_rule(self) -> Rule:
        return Rule(self.throttle_account_failures, 900, self.throttle_first_lock, self.throttle_longest_lock)

    @property
    def address_rule(self) -> Rule:
        return Rule(self.throttle_address_failures, 60, self.throttle_first_lock, self.throttle_longest_lock)

    @property
    def overall_rule(self) -> Rule:
        longest = min(self.throttle_longest_lock, 60)  # it keeps honest people waiting who are at a new place
        return Rule(self.throttle_overall_failures, 60, min(self.throttle_first_lock, longest), longest)

    @property
    def hash_places(self) -> int:
        """How many may hash or wait at once: SPARE_THREADS always remain, whatever floods the logins."""
        return self.threads - SPARE_THREADS

    @property
    def hash_queue_length(self) -> int:
        return self.hash_places - self.hash_slots if self.hash_queue is None else self.hash_queue

    @model_validator(mode="after")
    def _mail_is_complete(self) -> Self:
        if self.smtp_host and not (self.mail_from and self.mail_link_base):
            raise ValueError("MAIL_FROM and MAIL_LINK_BASE: needed, because SMTP_HOST is set")
        if self.login_requires_verified and not self.smtp_host:
            raise ValueError("LOGIN_REQUIRES_VERIFIED: needs SMTP_HOST, or nobody could log in")
        if self.smtp_user and not self.smtp_password:
            raise ValueError("SMTP_USER: needs the credential 'smtp_password'")
        return self

    @model_validator(mode="after")
    def _threads_remain(self) -> Self:
        if self.threads < 4:
            raise ValueError("THREADS: at least 4, so that logins cannot take all of them")
        if self.hash_slots + max(0, self.hash_queue_length) > self.hash_places:
            raise ValueError(f"HASH_SLOTS and HASH_QUEUE: together at most THREADS - {SPARE_THREADS}")
        return self
