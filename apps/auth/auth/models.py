"""The bodies that auth takes, and what it answers."""

import re
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.config import JsonDict

from auth.passwords import MAX_BYTES, MIN_LENGTH, is_common
from servicekit.answers import Answer
from servicekit.requests import Body, Text

# One @, a dotted domain, no spaces: whether an address works, only a mail to it can tell.
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+")

_SECRET: JsonDict = {"format": "password", "maxLength": MAX_BYTES}


def _normal_email(text: str) -> str:
    text = text.strip().lower()
    if not _EMAIL.fullmatch(text) or not text.isprintable():
        raise ValueError("must be an e-mail address")
    return text


def _short_enough_for_bcrypt(text: str) -> str:
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"must have at most {MAX_BYTES} bytes in UTF-8")
    return text


def _not_common(text: str) -> str:
    if is_common(text):
        raise ValueError("must not be one of the most common passwords")
    return text


Email = Annotated[Text, Field(max_length=254, json_schema_extra={"format": "email"}), AfterValidator(_normal_email)]
Password = Annotated[
    Text,
    AfterValidator(_short_enough_for_bcrypt),
    Field(min_length=1, description=f"At most {MAX_BYTES} bytes in UTF-8", json_schema_extra=_SECRET),
]
NewPassword = Annotated[
    Password,
    Field(
        min_length=MIN_LENGTH,
        description=f"At most {MAX_BYTES} bytes in UTF-8, and none of the most common passwords",
        json_schema_extra=_SECRET,
    ),
    AfterValidator(_not_common),
]
MailToken = Annotated[Text, Field(min_length=1, max_length=200)]


class Registration(Body):
    """An account to be."""

    email: Email
    password: NewPassword


class Login(Body):
    """Who logs in."""

    email: Email
    password: Password


class RefreshToken(Body):
    """A session, by its newest refresh token."""

    refresh_token: Annotated[Text, Field(min_length=1, max_length=200)]


class PasswordChange(Body):
    """A new password, and the one that it replaces."""

    current: Password
    new: NewPassword


class MailRequest(Body):
    """Who is to get a mail."""

    email: Email


class Verification(Body):
    """The token of a mail that confirms an address."""

    token: MailToken


class PasswordReset(Body):
    """The token of a mail that resets a password, and the new one."""

    token: MailToken
    password: NewPassword


class Account(Answer):
    """An account that was registered; `email` is as it was understood, in lower case."""

    id: UUID
    email: str


class Tokens(Answer):
    """What a session is used with: an access token, and the refresh token that brings the next ones, once."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, Field(description="Seconds until the access token expires")]
    refresh_token: str


class ShownSession(Answer):
    """A session that goes on; address and user agent are those of its last use."""

    id: UUID
    created_at: datetime
    last_used_at: datetime
    address: str | None
    user_agent: str | None
    current: Annotated[bool, Field(description="Whether the request's access token is of this session")]


class Sessions(Answer):
    """An account's sessions that go on, the last used first."""

    sessions: list[ShownSession]


class TokenClaims(Answer):
    """What an access token says."""

    model_config = ConfigDict(extra="allow")

    iss: str
    aud: str | list[str]
    sub: Annotated[UUID, Field(description="The account's id")]
    email: str
    iat: int
    exp: int
    jti: str


class Jwk(Answer):
    """A public key (RFC 7517)."""

    kty: Literal["RSA"]
    use: Literal["sig"]
    alg: Literal["RS256"]
    kid: str
    n: str
    e: str


class Jwks(Answer):
    """The public keys of all access tokens that are good."""

    keys: list[Jwk]
