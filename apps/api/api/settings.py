"""api's settings, beside those of every service."""

from typing import Annotated

from pydantic import Field, FilePath

from servicekit.settings import ServiceSettings


class ApiSettings(ServiceSettings):
    """What api needs besides."""

    pool_replica: int = Field(default=12, ge=1)  # most of its statements are reads
    read_cache_seconds: float = Field(default=60, ge=0, le=3600)  # how long a row is kept in Valkey; 0: no cache
    jwks_url: Annotated[str, Field(pattern=r"^https?://")]
    jwks_ca: FilePath | None = None  # by which the edge's certificate is verified, where that is not the platform's own
    token_issuer: str
    token_audience: str
