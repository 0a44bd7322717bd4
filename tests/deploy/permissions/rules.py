"""From recorded operations to the permissions that they need, and to policies of AWS and roles of Google Cloud.

Where each line is from: AWS, Service Authorization Reference (docs.aws.amazon.com/service-authorization), and for S3
the user guide's "Required permissions for Amazon S3 API operations"; Google Cloud, "IAM permissions for JSON methods"
(cloud.google.com/storage/docs/access-control/iam-json) and "Access control with IAM" of Pub/Sub. A batch of SQS needs
the permission of its single operation. Asking which permissions one has (`testIamPermissions`) needs none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Statement = dict[str, Any]

NOT_FOUND: Final = "s3:ListBucket"
"""S3 says of an object that is not there that it is not (404) only to who may list its bucket, and 403 to others."""

S3: Final[Mapping[str, str]] = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "ListObjectsV2": "s3:ListBucket",
    # With `If-Match` also s3:GetObject, as a deletion has it: who replaces looks at what is there anyway.
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
}
_OF_BUCKETS: Final = frozenset({"s3:ListBucket", "s3:ListBucketMultipartUploads"})

GOOGLE: Final[Mapping[str, Sequence[str]]] = {
    "objects.insert": ["storage.objects.create"],
    "objects.insert (overwriting)": ["storage.objects.create", "storage.objects.delete"],
    "objects.compose": ["storage.objects.create", "storage.objects.get"],
    "objects.compose (overwriting)": [
        "storage.objects.create",
        "storage.objects.get",
        "storage.objects.delete",
    ],
    "objects.get": ["storage.objects.get"],
    "objects.list": ["storage.objects.list"],
    "objects.delete": ["storage.objects.delete"],
    "buckets.get": ["storage.buckets.get"],
    "buckets.testIamPermissions": [],
    "Pull": ["pubsub.subscriptions.consume"],
    "Acknowledge": ["pubsub.subscriptions.consume"],
    "ModifyAckDeadline": ["pubsub.subscriptions.consume"],
    "GetSubscription": ["pubsub.subscriptions.get"],
    "Publish": ["pubsub.topics.publish"],
    "TestIamPermissions": [],
}
OPTIONAL: Final = frozenset({"storage.buckets.get"})
"""What is asked for once, and done without where it is refused: no role has it. See docs/permissions.md."""

_ARNS: Final[Mapping[str, str]] = {
    "source": "arn:aws:s3:::SOURCE_BUCKET",
    "destination": "arn:aws:s3:::DESTINATION_BUCKET",
    "inventory": "arn:aws:s3:::INVENTORY_BUCKET",
    "queue": "arn:aws:sqs:REGION:ACCOUNT_ID:QUEUE_NAME",
    "dead letters": "arn:aws:sqs:REGION:ACCOUNT_ID:DEAD_LETTER_QUEUE_NAME",
    "ledger": "arn:aws:dynamodb:REGION:ACCOUNT_ID:table/LEDGER_TABLE",
}
_AWS: Final = frozenset({"s3", "sqs", "dynamodb"})

KEDA: Final[Sequence[Statement]] = (
    {
        "Sid": "QueueLength",
        "Effect": "Allow",
        "Action": ["sqs:GetQueueAttributes"],
        "Resource": [_ARNS["queue"]],
    },
)
"""Of KEDA's own scaler, which is no part of this program: keda.sh/docs/latest/scalers/aws-sqs."""

KMS: Final[Sequence[Statement]] = (
    {
        "Sid": "ReadUnderKey",
        "Effect": "Allow",
        "Action": ["kms:Decrypt"],
        "Resource": ["SOURCE_KEY_ARN", "QUEUE_KEY_ARN"],
    },
    {
        "Sid": "WriteUnderKey",
        "Effect": "Allow",
        "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
        "Resource": ["DESTINATION_KEY_ARN", "DEAD_LETTER_QUEUE_KEY_ARN"],
    },
)
"""Only where a bucket or queue is encrypted under a key of its owner (SSE-KMS): the services ask for it in our name. An
upload in parts to such a bucket has to decrypt, too (S3 user guide, "Uploading an object using multipart upload")."""


@dataclass(frozen=True, slots=True)
class Calls:
    """The operations of one use, by service and by what they are called for; `adds_to` is the use that it extends."""

    title: str
    calls: Mapping[str, Mapping[str, Sequence[str]]]
    adds_to: str = ""

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Calls:
        return cls(document["use"], document["calls"], document.get("adds_to", ""))

    def document(self) -> dict[str, Any]:
        extends = {"adds_to": self.adds_to} if self.adds_to else {}
        return {"use": self.title, **extends, "calls": self.calls}


def actions(calls: Calls) -> dict[str, list[str]]:
    """The actions of AWS, by what they are allowed on."""
    found: dict[str, set[str]] = {}
    for service in _AWS & calls.calls.keys():
        for about, operations in calls.calls[service].items():
            for operation in operations:
                found.setdefault(about, set()).add(_action(service, operation))
    for about, allowed in found.items():
        # A report of an inventory that is not there may as well be forbidden.
        if "s3:GetObject" in allowed and about != "inventory":
            allowed.add(NOT_FOUND)
    return {about: sorted(found[about]) for about in _ARNS if about in found}


def _action(service: str, operation: str) -> str:
    return S3[operation] if service == "s3" else f"{service}:{operation.removesuffix('Batch')}"


def without(granted: Mapping[str, Sequence[str]], base: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """What is granted beyond what another use has already."""
    left = {
        about: [one for one in rights if one not in base.get(about, ())] for about, rights in granted.items()
    }
    return {about: rights for about, rights in left.items() if rights}


def statements(name: str, granted: Mapping[str, Sequence[str]]) -> list[Statement]:
    """The statements of a use's policy: actions by what they are allowed on, with placeholders for names.

    Their ids are of the use, so that the policies of several uses can be put together.
    """
    found = []
    for about, allowed in granted.items():
        words = re.split("[- ]", f"{name} {about}")
        sid, arn = "".join(word[0].upper() + word[1:] for word in words), _ARNS[about]
        of_bucket = [action for action in allowed if action in _OF_BUCKETS]
        of_objects = [action for action in allowed if action not in _OF_BUCKETS]
        if of_objects:
            is_s3 = arn.startswith("arn:aws:s3:")
            found.append(
                _statement(f"{sid}Objects" if is_s3 else sid, of_objects, f"{arn}/*" if is_s3 else arn)
            )
        if of_bucket:
            found.append(_statement(f"{sid}Bucket", of_bucket, arn))
    return found


def _statement(sid: str, allowed: Sequence[str], resource: str) -> Statement:
    return {"Sid": sid, "Effect": "Allow", "Action": list(allowed), "Resource": [resource]}


def policy(found: Sequence[Statement]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(found)}


def permissions(calls: Calls) -> dict[str, list[str]]:
    """The permissions of Google Cloud, by what they are granted on; the optional ones included."""
    found: dict[str, set[str]] = {}
    for service in calls.calls.keys() - _AWS:
        for about, operations in calls.calls[service].items():
            for operation in operations:
                found.setdefault(about, set()).update(GOOGLE[operation])
    return {about: sorted(found[about]) for about in sorted(found) if found[about]}


def role(title: str, granted: Sequence[str]) -> dict[str, Any]:
    """A custom role, as `gcloud iam roles create --file` reads it."""
    return {"title": title, "stage": "GA", "includedPermissions": list(granted)}
