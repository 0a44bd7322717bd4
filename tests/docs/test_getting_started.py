"""The files that `docs/getting-started.md` has its reader write are taken by S3, SQS and the program as they are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.acceptance.command import Command
from tests.acceptance.stack import KEY_ID, REGION, SECRET_KEY, moto_server
from tests.docs.sources import FOLDER, PAGES, blocks
from tests.doubles.strict_gcs import StrictGcsThread

_NAMES: Final = {
    "REGION": REGION,
    "ACCOUNT": "123456789012",
    "SOURCE": "my-source",
    "PROJECT": "my-project",
    "DESTINATION": "my-replica",
}
_FILE: Final = re.compile(r"^cat > (\S+) <<END\n.*?^END$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with the files, written by the page's own commands."""
    found = list(_FILE.finditer(blocks((FOLDER / "getting-started.md").read_text(encoding="utf-8"))))
    assert [one[1] for one in found] == ["queue.json", "notifications.json", "rights.json", ".env.local"]
    commands = "\n".join(one[0] for one in found)
    subprocess.run(["sh", "-eu", "-c", commands], cwd=tmp_path, env=_NAMES, check=True, timeout=60)
    return tmp_path


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_check_has_nothing_to_say_about_what_the_page_sets_up(written: Path) -> None:
    (written / "run").mkdir()
    with moto_server() as aws, StrictGcsThread() as gcs:
        aws.s3.create_bucket(
            Bucket=_NAMES["SOURCE"], CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        aws.sqs.create_queue(
            QueueName="replicator-events-dead", Attributes={"MessageRetentionPeriod": "1209600"}
        )
        queue = aws.sqs.create_queue(QueueName="replicator-events", Attributes=_json(written / "queue.json"))[
            "QueueUrl"
        ]
        aws.s3.put_bucket_notification_configuration(
            Bucket=_NAMES["SOURCE"], NotificationConfiguration=_json(written / "notifications.json")
        )
        gcs.create_bucket(_NAMES["DESTINATION"])

        command = Command(
            "check",
            env={
                "PATH": "/usr/bin:/bin",
                "AWS_ACCESS_KEY_ID": KEY_ID,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "S3_ENDPOINT_URL": aws.url,
                "SQS_ENDPOINT_URL": aws.url,
                "STORAGE_EMULATOR_HOST": gcs.url,
                "COLUMNS": "300",
            },
            folder=written / "run",
            files={
                ".env.local": (written / ".env.local").read_text(encoding="utf-8"),
                "credentials.json": '{"type": "service_account"}',
            },
        )
        assert command.wait() == 0, command.stdout + command.stderr
        assert "s3://my-source/" in command.stdout
        assert "gs://my-replica/" in command.stdout
        assert not re.search(r"\b(warning|failed)\b", command.stdout), command.stdout

        aws.s3.put_object(Bucket=_NAMES["SOURCE"], Key="hello.txt", Body=b"hello")
        received = aws.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)
        assert any("hello.txt" in message["Body"] for message in received["Messages"])


def test_the_rights_are_those_that_the_work_needs_on_what_the_page_makes(written: Path) -> None:
    queue = f"arn:aws:sqs:{REGION}:123456789012:replicator-events"
    allowed = {
        statement["Resource"]: sorted(
            [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        )
        for statement in _json(written / "rights.json")["Statement"]
    }
    assert allowed == {
        "arn:aws:s3:::my-source/*": ["s3:GetObject"],
        "arn:aws:s3:::my-source": ["s3:ListBucket"],
        queue: [
            "sqs:ChangeMessageVisibility",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ReceiveMessage",
        ],
        f"{queue}-dead": ["sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"],
    }
    policy = json.loads(_json(written / "queue.json")["Policy"])["Statement"][0]
    assert policy["Resource"] == queue
    assert policy["Condition"]["ArnLike"] == {"aws:SourceArn": "arn:aws:s3:::my-source"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_shell_can_be_read_by_a_shell(page: Path) -> None:
    found = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for block in found:
        # What a reader has to fill in.
        typed = block.replace("URI...", "URI").replace("…", "")
        answer = subprocess.run(
            ["sh", "-n"], input=typed, capture_output=True, text=True, timeout=60, check=False
        )
        assert answer.returncode == 0, f"{answer.stderr}\n{block}"
