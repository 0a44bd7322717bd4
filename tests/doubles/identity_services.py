"""The services that hand out credentials inside AWS and Google Cloud, on one loopback port: STS, a container's agent
(ECS, EKS Pod Identity), the instance metadata services of EC2 and GCE, and Google's STS.

    with IdentityServices() as services:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", services.url)
        …
        assert services.asked == ["AssumeRoleWithWebIdentity"]

Each answer carries other credentials: `KEY1`, `KEY2`…, `google-token-1`…, which live for `life` seconds. Who does not
show what the service asks for (a token file's content, a session token of IMDSv2, Google's header) is refused. A signed
request in place of a subject token is verified as AWS's STS does, by botocore's own signer, with the keys handed out.
Asked as a proxy (`http_proxy`), it answers for every host.
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

WEB_IDENTITY: Final = "web-identity-token-of-the-pod"
CONTAINER_AUTHORIZATION: Final = "authorization-token-of-the-pod"
INSTANCE_ROLE: Final = "instance-role"
SECRET: Final = "secret-of-the-identity-services"
AWS_PROVIDER: Final = (
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/aws"
)
SERVICE_ACCOUNT: Final = "replicator@project.iam.gserviceaccount.com"
_FROM_OUTSIDE: Final = (
    *("AWS_", "GOOGLE_", "GCE_", "CLOUDSDK_"),
    *("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"),
)
_IMDS_SESSION: Final = "imds-session-token"


def no_credentials_from_outside(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """What the machine of the tests has for credentials, or to reach their services by, is nowhere to be found."""
    for name in [name for name in os.environ if name.startswith(_FROM_OUTSIDE)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@dataclass(frozen=True)
class Refusal:
    """A 403 that says why; as badly as can be, it repeats what it was shown."""

    answer: Any


class IdentityServices:
    """`asked` names what was asked for with success, `refused` counts the rest."""

    def __init__(self, life: float = 3600.0) -> None:
        self.life = life
        self.asked: list[str] = []
        self.refused = 0
        self.google_refuses = ""
        """The error code that Google's STS answers with, or IAM Service Account Credentials when it is in capitals."""
        self.signed_for: list[str] = []
        """The STS of each signed request that was taken for a subject token, and"""
        self.signed_with: list[str] = []
        """the access keys."""
        self.tokens: list[str] = []
        """Google's, the newest last."""
        self.hosts: set[str] = set()
        """Those that it was asked for as a proxy."""
        self._given: dict[str, tuple[str, datetime]] = {}
        self._numbers = itertools.count(1)
        services = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                services._answer(self, "GET", b"")

            def do_PUT(self) -> None:
                services._answer(self, "PUT", b"")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                services._answer(self, "POST", body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="identity", daemon=True)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def end_sessions(self) -> None:
        """What was handed out until now is refused from now on, a second before its time or an hour."""
        past = datetime.now(UTC) - timedelta(seconds=1)
        self._given = {key: (token, past) for key, (token, _) in self._given.items()}
        self.tokens.append("nobody-has-this-one")

    def takes_key(self, key: str) -> bool:
        """Whether AWS would take a signature with this access key now."""
        return key in self._given and self._given[key][1] > datetime.now(UTC)

    def _answer(self, request: http.server.BaseHTTPRequestHandler, method: str, body: bytes) -> None:
        asked = urlsplit(request.path)
        if asked.netloc:
            self.hosts.add(asked.netloc)
        answer = self._answer_to(
            method,
            asked._replace(scheme="", netloc="").geturl(),
            {k.lower(): v for k, v in request.headers.items()},
            body,
        )
        refused = answer is None or isinstance(answer, Refusal)
        if refused:
            self.refused += 1
        answer = answer.answer if isinstance(answer, Refusal) else answer or ""
        content = answer if isinstance(answer, str) else json.dumps(answer)
        request.send_response(403 if refused else 200)
        request.send_header("Content-Type", "text/xml" if content.startswith("<") else "application/json")
        request.send_header("Metadata-Flavor", "Google")
        request.send_header("x-aws-ec2-metadata-token-ttl-seconds", "21600")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content.encode())

    def _answer_to(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if path == "/" and method == "POST":
            return self._sts(form, headers)
        if path == "/pod-identity" and headers.get("authorization") == CONTAINER_AUTHORIZATION:
            return self._of_container()
        if path.startswith("/latest/"):
            return self._imds(method, path, headers)
        if path == "/":  # whether this is Google's, by the header that every answer here has
            return "computeMetadata/"
        if path.startswith("/computeMetadata/") and headers.get("metadata-flavor") == "Google":
            return self._google_metadata(path)
        if path == "/google-sts" and form.get("subject_token_type", "").endswith("aws4_request"):
            return self._exchange_of_aws(form)
        if path.endswith(":generateAccessToken"):
            return self._impersonation(path, headers)
        if path == "/google-sts" and form.get("subject_token") == WEB_IDENTITY:
            self.asked.append("token exchange")
            return {
                **self._google_token(),
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            }
        if path == "/google-oauth" and "assertion" in form:
            self.asked.append("signed assertion")
            return self._google_token()
        return None

    def _exchange_of_aws(self, form: dict[str, str]) -> Any:
        """As Google's STS: the request is AWS's GetCallerIdentity, signed a moment ago, and for this provider."""
        if self.google_refuses.islower():
            return Refusal({"error": self.google_refuses, "error_description": form["subject_token"]})
        signed = json.loads(unquote(form["subject_token"]))
        given = {header["key"].lower(): header["value"] for header in signed["headers"]}
        if given.get("x-goog-cloud-target-resource") != form.get("audience") or not self._is_signed(
            signed, given
        ):
            return Refusal({"error": "invalid_grant", "error_description": form["subject_token"]})
        self.asked.append("AWS exchange")
        self.signed_for.append(signed["url"])
        return {**self._google_token(), "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}

    def _is_signed(self, signed: dict[str, Any], given: dict[str, str]) -> bool:
        _, _, scope = given["authorization"].partition("Credential=")
        key, _, region, service, _ = scope.partition(",")[0].split("/")
        token, expiry = self._given.get(key, ("", datetime.now(UTC)))
        if expiry <= datetime.now(UTC) or given.get("x-amz-security-token") != token:
            return False
        names = given["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        if not {"host", "x-amz-date", "x-amz-security-token"} <= set(names):
            return False
        request = AWSRequest(signed["method"], signed["url"], {name: given[name] for name in names})
        request.context["timestamp"] = given["x-amz-date"]
        signer = SigV4Auth(Credentials(key, SECRET, token), service, region)
        expected = signer.signature(
            signer.string_to_sign(request, signer.canonical_request(request)), request
        )
        self.signed_with.append(key)
        return f"Signature={expected}" in given["authorization"]

    def _impersonation(self, path: str, headers: dict[str, str]) -> Any:
        if self.google_refuses.isupper():
            return Refusal({"error": {"status": self.google_refuses, "message": headers["authorization"]}})
        if SERVICE_ACCOUNT not in path or headers.get("authorization", "")[7:] not in self.tokens:
            return None
        self.asked.append("impersonation")
        token = self._google_token()
        return {"accessToken": token["access_token"], "expireTime": _stamp(self.life)}

    def _sts(self, form: dict[str, str], headers: dict[str, str]) -> str | Refusal | None:
        action = form.get("Action", "")
        if action == "AssumeRoleWithWebIdentity" and form.get("WebIdentityToken") != WEB_IDENTITY:
            return Refusal(
                "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>"
                f"<Message>{form.get('WebIdentityToken')}</Message></Error></ErrorResponse>"
            )
        if action == "AssumeRole" and "Credential=SOURCEKEY/" not in headers.get("authorization", ""):
            return None
        self.asked.append(action)
        given = self._keys()
        return (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
            f"<AccessKeyId>{given['AccessKeyId']}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
            f"<SessionToken>{given['Token']}</SessionToken><Expiration>{given['Expiration']}</Expiration>"
            f"</Credentials><AssumedRoleUser><AssumedRoleId>A:s</AssumedRoleId><Arn>{form.get('RoleArn')}</Arn>"
            f"</AssumedRoleUser></{action}Result></{action}Response>"
        )

    def _of_container(self) -> dict[str, str]:
        self.asked.append("container")
        return self._keys()

    def _imds(self, method: str, path: str, headers: dict[str, str]) -> Any:
        if (method, path) == ("PUT", "/latest/api/token"):
            self.asked.append("IMDSv2 session")
            return _IMDS_SESSION
        if headers.get("x-aws-ec2-metadata-token") != _IMDS_SESSION:
            return None
        if path.endswith("/security-credentials/"):
            return INSTANCE_ROLE
        self.asked.append("IMDSv2 credentials")
        return {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": _stamp(0), **self._keys()}

    def _google_metadata(self, path: str) -> Any:
        if "/token" in path:
            self.asked.append("GCE token")
            return self._google_token()
        if "recursive=true" in path:
            return {"email": "pod@project.iam.gserviceaccount.com", "scopes": [], "aliases": ["default"]}
        return "project" if "project-id" in path else "answer"

    def _keys(self) -> dict[str, str]:
        number = next(self._numbers)
        ends = datetime.now(UTC) + timedelta(seconds=self.life)
        self._given[f"KEY{number}"] = (f"session-token-{number}", ends)
        return {
            "AccessKeyId": f"KEY{number}",
            "SecretAccessKey": SECRET,
            "Token": f"session-token-{number}",
            "Expiration": _stamp(self.life),
        }

    def _google_token(self) -> dict[str, Any]:
        token = f"google-token-{next(self._numbers)}"
        self.tokens.append(token)
        return {"access_token": token, "expires_in": int(self.life), "token_type": "Bearer"}


def _stamp(seconds: float) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"
