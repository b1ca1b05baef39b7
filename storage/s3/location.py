"""Where a store lies and with whose keys it is opened: the URL, and the environment for what the URL leaves out."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from minio.credentials.providers import (
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    IamAwsProvider,
    Provider,
    StaticProvider,
)
from minio.helpers import BaseURL, check_bucket_name

from dynlog.errors import ConfigurationError
from dynlog.objects import check_key
from dynlog.url import Url, read_options

AWS = "https://s3.amazonaws.com"
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Location:
    """A bucket at an endpoint, and the prefix below which the store's names lie (empty, or with a slash at its end)."""

    bucket: str
    prefix: str
    endpoint: str
    region: str
    base: BaseURL
    credentials: Provider | None
    authorities: Path | None


def locate(url: Url) -> Location:
    """Reads ``s3://user:password@bucket/prefix?endpoint=...&region=...&ca=...``; raises ConfigurationError.

    Without them the endpoint is AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or Amazon's, the region AWS_REGION,
    AWS_DEFAULT_REGION or us-east-1; the user and password are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and
    AWS_SESSION_TOKEN), else those of AWS's credentials file, else those that a pod's or container's role gives.
    """
    options = read_options(url, {"endpoint": _endpoint, "region": str, "ca": _file})
    if url.port or not url.host:
        raise ConfigurationError(f"{url}: the bucket stands where a host would, as in s3://bucket/prefix?endpoint=...")
    if bool(url.user) != bool(url.password):
        raise ConfigurationError(f"{url}: user and password are needed, or neither: s3://user:password@bucket/prefix")
    prefix = url.path.strip("/")
    if prefix:
        check_key(prefix)
    environment = os.environ
    endpoint = options.get("endpoint") or _endpoint_of_environment()
    region = (
        options.get("region")
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or DEFAULT_REGION
    )
    try:
        base = BaseURL(endpoint, region)
        check_bucket_name(url.host, s3_check=base.is_aws_host)
    except ValueError as error:
        raise ConfigurationError(f"{url}: {error}") from None
    return Location(
        url.host, f"{prefix}/" if prefix else "", endpoint, region, base, _credentials(url), options.get("ca")
    )


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("http://host:port or https://host:port is needed")
    if "@" in parts.netloc:
        raise ValueError("user and password stand before the bucket, as in s3://user:password@bucket")
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"http://host:port or https://host:port is needed ({error})") from None
    return f"{parts.scheme}://{parts.netloc}"


def _endpoint_of_environment() -> str:
    name = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
    try:
        return _endpoint(os.environ[name]) if name else AWS
    except ValueError as error:
        raise ConfigurationError(f"the environment's {name}: {error}") from None


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError("a file with certificates in PEM is needed")
    try:
        ssl.create_default_context(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ValueError(f"a file with certificates in PEM is needed ({error})") from None
    return path


_ROLE = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")


def _credentials(url: Url) -> Provider | None:
    """None means requests without a signature, as public buckets take them."""
    if url.user and url.password:
        return StaticProvider(url.user, url.password)
    found: list[Provider] = []
    if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
        found.append(EnvAWSProvider())
    try:
        provider = AWSConfigProvider()
        provider.retrieve()
        found.append(provider)
    except ValueError:
        pass  # no such file or profile
    if any(os.environ.get(name) for name in _ROLE):
        found.append(IamAwsProvider())
    return ChainedProvider(found) if found else None
