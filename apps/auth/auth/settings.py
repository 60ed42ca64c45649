"""auth's settings, beside those of every service."""

import os
from typing import Annotated, Self

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from auth.tokens import load_signing_key
from servicekit.settings import CREDENTIAL, ServiceSettings


class AuthSettings(ServiceSettings):
    """What auth needs besides."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)

    token_issuer: str
    token_audience: str
    token_lifetime: int = Field(default=900, ge=60, le=86400)  # seconds
    session_lifetime: int = Field(default=30 * 86400, ge=3600)  # seconds after which a login ends for good
    signing_key: Annotated[RSAPrivateKey, CREDENTIAL, BeforeValidator(load_signing_key)]  # RSA private key, PEM
    bcrypt_cost: int = Field(default=12, ge=4, le=16)
    hash_patience: float = Field(default=2, ge=0, le=10)  # seconds to wait for a free core

    @property
    def hash_slots(self) -> int:
        """One hash a core, but never more than half of the threads."""
        return max(1, min(len(os.sched_getaffinity(0)), self.threads // 2))

    @property
    def hash_queue(self) -> int:
        """How many may wait for a slot: two threads always remain for tokens, whatever floods the logins."""
        return max(1, self.threads - self.hash_slots - 2)

    @model_validator(mode="after")
    def _threads_suffice(self) -> Self:
        if self.threads < 4:
            raise ValueError("THREADS: at least 4, so that logins cannot take all of them")
        return self
