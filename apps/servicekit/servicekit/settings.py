"""Settings: read once at start from the environment and from systemd credentials, typed and checked.

A field's environment variable is its name in capitals. A field marked `CREDENTIAL` is read from a file:
`$CREDENTIALS_DIRECTORY/<field>`, or the file that `<FIELD>_FILE` names (for development).
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, SecretStr, ValidationError, model_validator

EXIT_CONFIG = 78  # sysexits.h EX_CONFIG: restarting the unit does not help
MAX_POOL = 20  # connections of one instance, both targets together

CREDENTIAL = "credential"


class SettingsError(Exception):
    """A setting is missing or wrong; the text is one line that names its variable."""


def _host_list(text: str) -> str:
    for entry in text.split(","):
        host, _, port = entry.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"expected host:port[,host:port...], got {entry!r}")
    return text


class DatabaseSettings(BaseModel):
    """Where the poolers are, and how many connections one instance may hold."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_hosts: Annotated[str, AfterValidator(_host_list)]
    database_name: str = "app"
    database_ro_name: str = "app_ro"
    database_user: str
    database_password: Annotated[SecretStr, CREDENTIAL]
    database_sslmode: Literal["disable", "require", "verify-ca", "verify-full"] = "verify-full"
    tls_ca: FilePath | None = None


class ServerSettings(BaseModel):
    """What gunicorn itself needs to know."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    instance: int = Field(default=1, ge=1, le=99)
    base_port: int = Field(ge=1, le=65000)
    threads: int = Field(default=8, ge=1, le=64)
    drain_seconds: float = Field(default=0, ge=0, le=20)  # served with /readyz at 503 before a stop begins
    tls_ca: FilePath | None = None
    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None

    @property
    def port(self) -> int:
        return self.base_port + self.instance

    @property
    def instance_id(self) -> str:
        return f"{socket.gethostname()}:{self.port}"

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None

    @model_validator(mode="after")
    def _certificate_is_complete(self) -> Self:
        if self.tls_cert or self.tls_key:
            for name in ("tls_ca", "tls_cert", "tls_key"):
                if getattr(self, name) is None:
                    raise ValueError(f"{name.upper()}: needed, because TLS_CERT or TLS_KEY is set")
        return self


class ServiceSettings(DatabaseSettings, ServerSettings):
    """What every service needs; a service adds its own by inheriting."""

    environment: str = "development"
    pool_primary: int = Field(default=8, ge=1)
    pool_replica: int = Field(default=4, ge=1)
    pool_wait: float = Field(default=2, ge=0, le=30)  # seconds
    # What instances share is there; None: they share nothing. Without a password it is asked as nobody in particular.
    valkey_address: Annotated[str, Field(pattern=r"^\S+:\d+$")] | None = None
    valkey_password: Annotated[SecretStr | None, CREDENTIAL] = None
    valkey_timeout_ms: float = Field(default=100, ge=1, le=1000)
    trace_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/]+/?$")
    trace_sample_ratio: float = Field(default=0.1, ge=0, le=1)
    slow_query_ms: float = Field(default=100, ge=0)
    slow_request_ms: float = Field(default=1000, ge=0)

    @model_validator(mode="after")
    def _pools_fit(self) -> Self:
        if self.pool_primary + self.pool_replica > MAX_POOL:
            raise ValueError(f"POOL_PRIMARY and POOL_REPLICA: together at most {MAX_POOL}")
        return self


Model = TypeVar("Model", bound=BaseModel)


def load(model: type[Model], environ: Mapping[str, str]) -> Model:
    """Read the model's fields; raises `SettingsError`."""
    values: dict[str, str] = {}
    for name, field in model.model_fields.items():
        text = _credential(name, environ) if CREDENTIAL in field.metadata else environ.get(name.upper())
        if text:  # an empty variable counts as not set: unit files cannot leave one out
            values[name] = text
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_one_line(error, model)) from None


def load_or_exit(model: type[Model], program: str) -> Model:
    """Read the model from this process's environment; a wrong setting ends the process with one line."""
    try:
        return load(model, os.environ)
    except SettingsError as error:
        print(f"{program}: wrong setting: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CONFIG)


def _credential(name: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(f"{name.upper()}_FILE")
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        candidate = Path(directory, name)
        path = str(candidate) if candidate.exists() else path
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{name.upper()}: cannot read the credential {path}: {error}") from None


def _one_line(error: ValidationError, model: type[BaseModel]) -> str:
    first: Any = error.errors(include_input=False, include_url=False)[0]
    message = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    if first["type"] == "missing":
        is_credential = CREDENTIAL in model.model_fields[name].metadata
        message = f"missing: hand over the credential {name!r}" if is_credential else "missing"
    return f"{name.upper()}: {message}"
