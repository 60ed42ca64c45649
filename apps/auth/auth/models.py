"""The bodies that auth takes."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from auth.passwords import MAX_BYTES, MIN_LENGTH, is_common
from servicekit.requests import Body, Text

# One @, a dotted domain, no spaces: whether an address works, only a mail to it can tell.
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+")


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


Email = Annotated[Text, Field(max_length=254), AfterValidator(_normal_email)]
Password = Annotated[Text, AfterValidator(_short_enough_for_bcrypt), Field(min_length=1)]
NewPassword = Annotated[Password, Field(min_length=MIN_LENGTH), AfterValidator(_not_common)]


class Registration(Body):
    """POST /register."""

    email: Email
    password: NewPassword


class Login(Body):
    """POST /login."""

    email: Email
    password: Password


class RefreshToken(Body):
    """POST /refresh and /logout."""

    refresh_token: Annotated[Text, Field(min_length=1, max_length=200)]


class PasswordChange(Body):
    """POST /password."""

    current: Password
    new: NewPassword
