"""The stores on both sides: every adapter that the routes need, each made once; what nobody needs is not imported."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from consumer.adapters.aws import AwsCredentials, AwsSession, Endpoints, new_aws_session
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import GoogleToken, NoToken
from consumer.adapters.gcs_compose import GcsComposer
from consumer.adapters.http import HttpClient
from consumer.adapters.s3 import S3Source
from consumer.model import Store
from consumer.ports import DestinationStore, Observer, SourceStore
from consumer.settings import Settings

if TYPE_CHECKING:
    from consumer.adapters.gcs_client import Token

GOOGLE_ENDPOINT: Final = "https://storage.googleapis.com"


class Stores:
    """Sources by the kind of store, destinations and composers by bucket."""

    def __init__(self, settings: Settings, http: HttpClient, observer: Observer) -> None:
        self._settings = settings
        self._http = http
        self._observer = observer
        self._destinations: dict[tuple[Store, str], DestinationStore] = {}
        self._composers: dict[str, GcsComposer] = {}

    @cached_property
    def aws(self) -> AwsSession:
        settings = self._settings
        secret, token = settings.aws_secret_access_key, settings.aws_session_token
        return new_aws_session(
            settings.aws_region,
            settings.aws_access_key_id,
            secret.get_secret_value() if secret else None,
            token.get_secret_value() if token else None,
        )

    @cached_property
    def aws_credentials(self) -> AwsCredentials:
        return AwsCredentials(self.aws)

    @cached_property
    def google_token(self) -> Token:
        if self._settings.storage_emulator_host:
            return NoToken()
        file = self._settings.google_application_credentials
        return GoogleToken(str(file) if file else None)

    @cached_property
    def s3_source(self) -> S3Source:
        settings = self._settings
        return S3Source(
            self._http,
            self.aws_credentials,
            self._endpoints,
            self._observer,
            region=settings.aws_region,
            custom_endpoint=settings.s3_endpoint_url is not None,
            request_payer=settings.s3_request_payer,
        )

    def source(self, store: Store) -> SourceStore:
        return self.s3_source

    def destination(self, store: Store, bucket: str) -> DestinationStore:
        known = self._destinations.get((store, bucket))
        if known is None:
            known = self._destinations[store, bucket] = self._new_gcs_destination(bucket)
        return known

    def composer(self, bucket: str) -> GcsComposer:
        """What puts giant objects together in this bucket of GCS."""
        known = self._composers.get(bucket)
        if known is None:
            known = self._composers[bucket] = GcsComposer(
                self._new_gcs_destination(bucket).client,
                self._observer,
                bucket=bucket,
                endpoint=self._gcs_endpoint,
            )
        return known

    def _new_gcs_destination(self, bucket: str) -> GcsDestination:
        return GcsDestination(
            self._http, self.google_token, self._observer, bucket=bucket, endpoint=self._gcs_endpoint
        )

    @cached_property
    def _endpoints(self) -> Endpoints:
        return Endpoints(self.aws, self._settings.s3_endpoint_url)

    @property
    def _gcs_endpoint(self) -> str:
        return self._settings.storage_emulator_host or GOOGLE_ENDPOINT
