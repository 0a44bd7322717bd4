"""deploy/terraform: read by OpenTofu, held against the providers' schemas, the recorded permissions and the pages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from consumer.settings import Settings
from tests.deploy.bundle_provider_schemas import SCHEMAS, used
from tests.deploy.permissions.files import FOLDER
from tests.deploy.terraform import ROOT, TERRAFORM, Tofu, TofuError

STARTED = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
KEYLESS = (ROOT / "docs" / "keyless.md").read_text(encoding="utf-8")
ACCOUNT, REGION, NAME = "123456789012", "eu-central-1", "cross-cloud-replicator"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/{NAME}"
PROVIDER = "projects/42/locations/global/workloadIdentityPools/replicator/providers/aws"


def text_of(name: str) -> str:
    return (TERRAFORM / name).read_text(encoding="utf-8")


def default_of(name: str) -> int:
    found = re.search(
        rf'variable "{name}" \{{.*?default\s+= (\d+)', text_of("modules/aws/variables.tf"), re.DOTALL
    )
    assert found, name
    return int(found[1])


def test_the_schemas_of_all_that_is_used_are_bundled() -> None:
    for provider, names in used().items():
        bundle = json.loads((SCHEMAS / f"terraform-{provider}.json").read_text(encoding="utf-8"))
        assert names == bundle["schemas"].keys(), "python -m tests.deploy.bundle_provider_schemas"


def test_the_queue_is_as_the_pages_say() -> None:
    told = json.loads(re.search(r"cat > queue.json <<END\n(.*?)END", STARTED, re.DOTALL)[1].replace("$", ""))  # type: ignore[index]
    assert default_of("visibility_timeout_seconds") == int(told["VisibilityTimeout"])
    assert default_of("message_retention_seconds") == int(told["MessageRetentionPeriod"])
    assert default_of("max_receive_count") == int(json.loads(told["RedrivePolicy"])["maxReceiveCount"])
    assert default_of("max_receive_count") > Settings.model_fields["max_receive_count"].default
    events = re.search(r'"Events": (\[.*?\])', STARTED)
    assert events
    assert events[1] in text_of("modules/aws/main.tf")


def test_the_trust_is_as_the_pages_say() -> None:
    """The subject and the condition decide who is let in: one role, however its sessions are called."""
    text = text_of("modules/gcp/main.tf")
    assert '"google.subject" = "assertion.arn.extract(\'assumed-role/{role}/\')"' in text
    assert "google.subject=assertion.arn.extract('assumed-role/{role}/')" in KEYLESS
    condition = re.search(r'attribute_condition = "(.*)"', text)
    assert condition
    written = (
        condition[1].replace("${var.aws_account_id}", "$ACCOUNT").replace("${var.aws_role_name}", "$ROLE")
    )
    assert written.replace("${var.aws_partition}", "aws") in KEYLESS


def test_the_environment_is_of_settings() -> None:
    names = re.findall(r"^    ([A-Z_]+) +=", text_of("examples/s3-to-gcs/outputs.tf"), re.MULTILINE)
    assert len(names) == 5
    assert {name.lower() for name in names} <= Settings.model_fields.keys()


def test_every_use_that_can_be_chosen_has_its_files() -> None:
    found = re.search(r"setsubtract\(var\.uses, (\[.*?\])\)", text_of("modules/aws/variables.tf"))
    assert found
    for use in [*json.loads(found[1]), "daemon-s3-to-gcs", "keda"]:
        assert (FOLDER / "aws" / f"{use}.json").is_file(), use
    for use in re.findall(r'"([a-z0-9-]+-(?:gcs|objects))"', text_of("modules/gcp/main.tf")):
        assert (FOLDER / "gcp" / f"{use}-destination.json").is_file(), use


# --- with OpenTofu


@pytest.fixture(scope="module")
def tofu(tmp_path_factory: pytest.TempPathFactory) -> Tofu:
    return Tofu.prepared(tmp_path_factory.mktemp("tofu"))


@pytest.mark.emulators
def test_it_is_formatted(tofu: Tofu) -> None:
    tofu.run("fmt", "-check", "-recursive", "-diff", str(tofu.terraform))


@pytest.mark.emulators
def test_it_is_valid(tofu: Tofu) -> None:
    assert "The configuration is valid" in tofu.run(f"-chdir={tofu.example}", "validate", "-no-color")


@pytest.mark.emulators
@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("aws/main.tf", "sqs_managed_sse_enabled   ", "sqs_managed_sse_enabld   ", "sqs_managed_sse_enabld"),
        ("aws/main.tf", "aws_sqs_queue.dead_letters.arn", "aws_sqs_queue.dead_letters.urn", "urn"),
        ("gcp/main.tf", "    account_id = var", "    account = var", "account_id"),
    ],
)
def test_a_mistake_is_found(tmp_path: Path, file: str, old: str, new: str, told: str) -> None:
    broken = Tofu.prepared(tmp_path)
    module = broken.terraform / "modules" / file
    text = module.read_text(encoding="utf-8")
    assert old in text
    module.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(TofuError, match=told):
        broken.run(f"-chdir={broken.example}", "validate", "-no-color")


@pytest.mark.emulators
def test_what_it_makes_is_what_the_daemon_needs(tofu: Tofu) -> None:
    (tofu.example / "expected.json").write_text(json.dumps(expected()), encoding="utf-8")
    assert "6 passed, 0 failed" in tofu.run(f"-chdir={tofu.example}", "test", "-no-color")


def expected() -> dict[str, Any]:
    queue = f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{NAME}-events"
    environment = {
        "AWS_REGION": REGION,
        "SQS_QUEUE_URL": queue,
        "SQS_DLQ_URL": f"{queue}-dead",
        "SOURCE_BUCKETS": "my-source",
        "GCS_BUCKET_NAME": "my-destination",
    }
    configuration = json.loads(re.search(r"```json\n(\{.*?\})\n```", KEYLESS, re.DOTALL)[1])  # type: ignore[index]
    configuration["audience"] = f"//iam.googleapis.com/{PROVIDER}"
    return {
        "environment": environment,
        "credential_configuration": configuration,
        "helm_values": {
            "config": environment,
            "serviceAccount": {"awsRoleArn": ROLE_ARN},
            "google": {"federation": {"trusts": "aws", "provider": PROVIDER, "serviceAccount": ""}},
        },
        "policies": {use: policy(use) for use in ("daemon-s3-to-gcs", "dead-letters-sqs")},
        "permissions": [f"storage.objects.{word}" for word in ("create", "delete", "get", "list")],
    }


def policy(use: str) -> Any:
    text = (FOLDER / "aws" / f"{use}.json").read_text(encoding="utf-8")
    for word, name in (
        ("SOURCE_BUCKET", "my-source"),
        ("DEAD_LETTER_QUEUE_NAME", f"{NAME}-events-dead"),
        ("QUEUE_NAME", f"{NAME}-events"),
        ("REGION", REGION),
        ("ACCOUNT_ID", ACCOUNT),
    ):
        text = text.replace(word, name)
    return json.loads(text)
