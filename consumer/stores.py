"""The stores on both sides: every adapter that the routes need, each made once; what nobody needs is not imported."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

from consumer.adapters.aws import AwsCredentials, AwsSession, Endpoints, new_aws_session
from consumer.adapters.credential_words import aws_words
from consumer.adapters.gcs import GcsDestination
from consumer.adapters.gcs_auth import GoogleToken, NoToken
from consumer.adapters.gcs_compose import GcsComposer
from consumer.adapters.http import HttpClient
from consumer.adapters.s3 import S3Source
from consumer.model import Store
from consumer.ports import DestinationStore, Observer, SourceStore
from consumer.routes import Place
from consumer.settings import Settings

if TYPE_CHECKING:
    from consumer.adapters.gcs_client import Token
    from consumer.adapters.s3_destination import S3Destination
    from consumer.adapters.s3_uploads import S3Uploads
    from consumer.listing import Listing

GOOGLE_ENDPOINT: Final = "https://storage.googleapis.com"


class Stores:
    """Sources by the kind of store, destinations by place."""

    def __init__(self, settings: Settings, http: HttpClient, observer: Observer) -> None:
        self._settings = settings
        self._http = http
        self._observer = observer
        self._gcs: dict[str, GcsDestination] = {}
        self._s3: dict[Place, S3Destination] = {}
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
        return GoogleToken(str(file) if file else None, aws=self.aws_credentials)

    @cached_property
    def pubsub_token(self) -> Token:
        from consumer.adapters.pubsub_calls import PUBSUB_SCOPE

        if self._settings.pubsub_emulator_host:
            return NoToken()
        file = self._settings.google_application_credentials
        return GoogleToken(str(file) if file else None, PUBSUB_SCOPE, aws=self.aws_credentials)

    def credentials_used(self) -> list[tuple[str, str]]:
        """Each cloud whose credentials were asked for by now, and which ones they are, in words."""
        used = []
        if kind := self.aws_credentials.kind_used:
            used.append(("AWS", aws_words(kind)))
        for name in ("google_token", "pubsub_token"):
            words = getattr(self.__dict__.get(name), "words", "")
            if words:
                return [*used, ("Google Cloud", words)]
        return used

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

    @cached_property
    def gcs_source(self) -> SourceStore:
        from consumer.adapters.gcs_source import GcsSource

        return GcsSource(self._http, self.google_token, self._observer, endpoint=self._gcs_endpoint)

    def source(self, store: Store) -> SourceStore:
        return self.s3_source if store is Store.S3 else self.gcs_source

    def destination(self, place: Place) -> DestinationStore:
        return self.gcs_destination(place) if place.store is Store.GCS else self.s3_destination(place)

    def gcs_destination(self, place: Place) -> GcsDestination:
        known = self._gcs.get(place.bucket)
        if known is None:
            known = self._gcs[place.bucket] = GcsDestination(
                self._http,
                self.google_token,
                self._observer,
                bucket=place.bucket,
                endpoint=self._gcs_endpoint,
            )
        return known

    def s3_destination(self, place: Place) -> S3Destination:
        from consumer.adapters.s3_destination import S3Destination
        from consumer.adapters.s3_requests import S3Requests

        known = self._s3.get(place)
        if known is None:
            requests = S3Requests(
                self._http,
                self.aws_credentials,
                self._endpoints,
                region=self._settings.aws_region,
                custom_endpoint=self._settings.s3_endpoint_url is not None,
            )
            known = self._s3[place] = S3Destination(
                requests, self._observer, bucket=place.bucket, prefix=place.prefix
            )
        return known

    def composer(self, place: Place) -> GcsComposer:
        """What puts giant objects together in a bucket of GCS."""
        known = self._composers.get(place.bucket)
        if known is None:
            known = self._composers[place.bucket] = GcsComposer(
                self.gcs_destination(place).client,
                self._observer,
                bucket=place.bucket,
                endpoint=self._gcs_endpoint,
            )
        return known

    def uploads(self, place: Place) -> S3Uploads:
        """The unfinished uploads in a bucket of S3."""
        from consumer.adapters.s3_uploads import S3Uploads

        return S3Uploads(self.s3_destination(place), prefix=place.prefix)

    def listing(self, store: Store, *, destination: bool = False) -> Listing:
        """What buckets of that kind hold, as a source or as a destination."""
        if store is Store.GCS:
            from consumer.adapters.gcs_listing import GcsListing

            return GcsListing(
                self._http,
                self.google_token,
                self._observer,
                endpoint=self._gcs_endpoint,
                destination=destination,
            )
        from consumer.adapters.s3_listing import S3Listing
        from consumer.adapters.s3_requests import S3Requests

        settings = self._settings
        payer = None if destination else settings.s3_request_payer
        requests = S3Requests(
            self._http,
            self.aws_credentials,
            self._endpoints,
            region=settings.aws_region,
            custom_endpoint=settings.s3_endpoint_url is not None,
            headers={"x-amz-request-payer": payer} if payer else {},
        )
        return S3Listing(requests, self._observer, destination=destination)

    @cached_property
    def _endpoints(self) -> Endpoints:
        return Endpoints(self.aws, self._settings.s3_endpoint_url)

    @property
    def _gcs_endpoint(self) -> str:
        return self._settings.storage_emulator_host or GOOGLE_ENDPOINT
