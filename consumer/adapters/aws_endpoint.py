"""Where a service of AWS is: botocore's own endpoint rules and settings, without a boto3 client and what it loads.

botocore is imported only where the settings do not name the endpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from consumer.errors import ConfigurationError

if TYPE_CHECKING:
    from botocore.session import Session


@dataclass(frozen=True, slots=True)
class Service:
    """A service as people call it, as botocore's variables and profiles name it, and the version of its API."""

    title: str
    name: str
    version: str


SQS: Final = Service("SQS", "sqs", "2012-11-05")
DYNAMODB: Final = Service("DynamoDB", "dynamodb", "2012-08-10")


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """What every call is posted to (`url`), and what of it is signed."""

    url: str
    host: str
    path: str
    region: str

    @classmethod
    def at(cls, url: str, region: str) -> Self:
        """The endpoint whose root is `url`: the JSON protocol names everything in the body, never in the path."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        return cls(url if parts.path else f"{url}/", host, parts.path or "/", region)


def new_session() -> Session:
    from botocore.session import Session

    return Session()


def find_endpoint(
    service: Service, region: str, endpoint_url: str | None, botocore: Callable[[], Session] = new_session
) -> ServiceEndpoint:
    """The endpoint as boto3 finds it; reads botocore's files, so not for the event loop.

    In this order: `endpoint_url`, AWS_ENDPOINT_URL_<SERVICE>, AWS_ENDPOINT_URL, the profile's own (unless
    AWS_IGNORE_CONFIGURED_ENDPOINT_URLS), and else AWS's rules for the region with AWS_USE_DUALSTACK_ENDPOINT and
    AWS_USE_FIPS_ENDPOINT. Raises ConfigurationError when the settings contradict each other.
    """
    if endpoint_url:
        return ServiceEndpoint.at(endpoint_url, region)
    from botocore.exceptions import BotoCoreError

    session = botocore()
    try:
        return ServiceEndpoint.at(
            _configured(session, service) or _by_rules(session, service, region), region
        )
    except BotoCoreError as error:
        raise ConfigurationError(
            [f"{service.title} cannot be addressed in the region {region}: {error}"]
        ) from error


def _configured(session: Session, service: Service) -> str | None:
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    profile: dict[str, Any] = session.get_scoped_config()
    services: dict[str, Any] = {}
    if "services" in profile:
        services = session.full_config.get("services", {}).get(profile["services"]) or {}
        if not services:
            from botocore.exceptions import InvalidConfigError

            raise InvalidConfigError(
                error_msg=f"there is no section [services {profile['services']}], which the profile names"
            )
    found = (
        os.environ.get(f"AWS_ENDPOINT_URL_{service.name.upper()}"),
        os.environ.get("AWS_ENDPOINT_URL"),
        services.get(service.name, {}).get("endpoint_url"),
        profile.get("endpoint_url"),
    )
    return next(filter(None, found), None)


def _by_rules(session: Session, service: Service, region: str) -> str:
    from botocore.endpoint_provider import EndpointProvider

    loader = session.get_component("data_loader")
    rules = EndpointProvider(
        loader.load_data(f"{service.name}/{service.version}/endpoint-rule-set-1"),
        loader.load_data("partitions"),
    )
    found = rules.resolve_endpoint(
        Region=region,
        UseDualStack=bool(session.get_config_variable("use_dualstack_endpoint")),
        UseFIPS=bool(session.get_config_variable("use_fips_endpoint")),
    )
    return str(found.url)
