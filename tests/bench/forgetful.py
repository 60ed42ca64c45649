"""auth that remembers no token, so that each one is verified as if it came for the first time."""

from flask import Flask

import servicekit.tokens
from auth.app import create_app


def create() -> Flask:
    servicekit.tokens.REMEMBERED = 0
    return create_app()
