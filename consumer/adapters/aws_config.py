"""What AWS's own environment variables and shared config files say about endpoints, read as botocore reads them.

Written out because botocore's session alone takes more memory than all of the queue's and the stores' code; held
against botocore by tests. Credentials stay botocore's own affair.
"""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_Section = dict[str, Any]
"""Texts by name; an indented block is a mapping of its own."""

_FILES: Final = (
    ("AWS_CONFIG_FILE", "~/.aws/config", True),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", False),
)


class AwsConfig:
    """The chosen profile under the environment. Raises ValueError where botocore would refuse what is written."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment
        profiles: dict[str, _Section] = {}
        self._services: dict[str, _Section] = {}
        for variable, usual, has_kinds in _FILES:
            for name, section in _read(self._environment.get(variable, usual)).items():
                kind, own_name = _kind(name) if has_kinds else ("profile", name)
                if kind == "profile":
                    profiles.setdefault(own_name, {}).update(section)
                elif kind == "services":
                    self._services[own_name] = section
        chosen = self._environment.get("AWS_DEFAULT_PROFILE", self._environment.get("AWS_PROFILE"))
        if chosen is not None and chosen not in profiles:
            raise ValueError(f"the profile {chosen!r} of AWS_PROFILE is in no config file")
        self._profile = profiles.get(chosen or "default", {})

    def text(self, *names: str, variable: str | None = None) -> str | None:
        """The variable, else the profile's first of `names`; `s3.x` is x in the block `s3`."""
        if variable is not None and variable in self._environment:
            return self._environment[variable]
        for name in names:
            block, _, inner = name.rpartition(".")
            section = self._profile.get(block) if block else self._profile
            found = section.get(inner) if isinstance(section, dict) else None
            if isinstance(found, str):
                return found
        return None

    def flag(self, *names: str, variable: str | None = None) -> bool | None:
        """The same as a boolean; None when nothing is said."""
        text = self.text(*names, variable=variable)
        return None if text is None else text.lower() == "true"

    def endpoint_url(self, service: str) -> str | None:
        """The custom endpoint of `s3`, `sqs`…, from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile."""
        if self.flag("ignore_configured_endpoint_urls", variable="AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
            return None
        own, every = f"AWS_ENDPOINT_URL_{service.upper()}", "AWS_ENDPOINT_URL"
        return (
            self._environment.get(own)
            or self._environment.get(every)
            or self._of_services(service)
            or self.text("endpoint_url")
        )

    def _of_services(self, service: str) -> str | None:
        name = self.text("services")
        if name is None:
            return None
        if not self._services.get(name):
            raise ValueError(f"the profile names the services section {name!r}, which is in no config file")
        block = self._services[name].get(service)
        return block.get("endpoint_url") if isinstance(block, dict) else None


def _read(name: str) -> dict[str, _Section]:
    path = Path(os.path.expandvars(name)).expanduser()
    parser = configparser.RawConfigParser()
    try:
        parser.read([path])
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as an AWS config file") from error
    return {
        section: {name: _value(parser.get(section, name), path) for name in parser.options(section)}
        for section in parser.sections()
    }


def _value(text: str, path: Path) -> str | dict[str, str]:
    if not text.startswith("\n"):
        return text
    lines = [line.partition("=") for line in text.splitlines() if line.strip()]
    if not all(equals for _, equals, _ in lines):
        raise ValueError(f"{path} cannot be read as an AWS config file")
    return {name.strip(): value.strip() for name, _, value in lines}


def _kind(section: str) -> tuple[str, str]:
    """What a section of the config file is, and its own name: `[profile x]`, `[services x]`, `[default]`."""
    if section == "default":
        return "profile", section
    try:
        kind, name = shlex.split(section)
    except ValueError:
        return "", section
    return kind, name
