"""The chart and kustomize's folder, read by the tools that will read them: Helm, kubeconform, kustomize."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.auth import aws, identity_pool

from consumer.adapters.aws import AwsCredentials, AwsSession
from consumer.adapters.gcs_federation import AwsFederation, with_our_credentials
from consumer.settings import Settings
from tests.deploy.chart import (
    CHART,
    KUBERNETES,
    KUSTOMIZE,
    NAME,
    SCHEMAS,
    SECRETS,
    Manifest,
    ToolError,
    kustomize_files,
    render,
    tool,
)
from tests.deploy.test_image import BESIDE_THE_BUDGET_MIB, RUN, _only
from tests.docs.http_page import document
from tests.emulators.provision import provisioned_folder

pytestmark = pytest.mark.emulators

CASES = sorted((CHART / "ci").glob("*.yaml"))
MINIMAL = CHART / "ci" / "minimal.yaml"
NAMES = {name.upper() for name in Settings.model_fields}
# Read by botocore, not by the program.
IDENTITY = {"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}


def pod_of(manifests: list[Manifest]) -> Manifest:
    pod: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return pod


def only(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    (found,) = [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and name in (None, manifest["metadata"]["name"])
    ]
    return found


def configuration(manifests: list[Manifest]) -> dict[str, str]:
    (source,) = [
        one["configMapRef"] for one in pod_of(manifests)["containers"][0]["envFrom"] if "configMapRef" in one
    ]
    data: dict[str, str] = only(manifests, "ConfigMap", source["name"])["data"]
    return data


def conform(folder: Path, manifests: str) -> str:
    file = folder / "manifests.yaml"
    file.write_text(manifests, encoding="utf-8")
    location = str(SCHEMAS / "{{.ResourceKind}}{{.KindSuffix}}.json")
    return tool("kubeconform", "-strict", "-summary", "-schema-location", location, file)


@pytest.fixture(params=CASES, ids=lambda path: path.stem)
def case(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def rendered(case: Path) -> list[Manifest]:
    return render("--values", case, release="replicator", namespace="data")


def test_helm_finds_nothing_to_complain_of(case: Path) -> None:
    shown = tool("helm", "lint", "--strict", "--kube-version", KUBERNETES, "--values", case, CHART)

    assert "1 chart(s) linted, 0 chart(s) failed" in shown


def test_kubernetes_would_take_every_field(rendered: list[Manifest], tmp_path: Path) -> None:
    shown = conform(tmp_path, yaml.safe_dump_all(rendered))

    assert f"Valid: {len(rendered)}, Invalid: 0, Errors: 0, Skipped: 0" in shown


def test_a_misspelt_field_would_be_seen_in_every_kind(tmp_path: Path) -> None:
    kinds = {manifest["kind"]: manifest for path in CASES for manifest in render("--values", path)}

    # The file beside these, of no version, is Compose's.
    assert len(kinds) == len(list(SCHEMAS.glob("*-v*.json")))
    for kind, manifest in kinds.items():
        inner = manifest.get("spec", manifest)
        inner["misspelt"] = 1
        with pytest.raises(ToolError, match="additional properties 'misspelt' not allowed"):
            conform(tmp_path, yaml.safe_dump(manifest))
        del inner["misspelt"]
        assert "Valid: 1" in conform(tmp_path, yaml.safe_dump(manifest)), kind


def test_kustomizes_files_are_what_the_chart_renders() -> None:
    for path, text in kustomize_files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path}; run: python -m tests.deploy.chart"


def test_kustomize_builds_what_the_chart_renders() -> None:
    built = list(yaml.safe_load_all(tool("kustomize", "build", KUSTOMIZE / "base")))
    rendered = render("--values", MINIMAL)

    def essence(manifests: list[Manifest]) -> dict[str, Any]:
        # A generated ConfigMap carries a hash of its content in its name, and no labels.
        text = re.sub(rf"{NAME}-[a-z0-9]{{10}}\b", NAME, json.dumps(manifests))
        found = {}
        for manifest in json.loads(text):
            del manifest["metadata"]
            manifest.get("spec", {}).get("template", {}).get("metadata", {}).pop("annotations", None)
            found[manifest["kind"]] = manifest
        return found

    assert essence(built) == essence(rendered)


def test_the_example_of_kustomize_is_whole(tmp_path: Path) -> None:
    text = tool("kustomize", "build", KUSTOMIZE / "overlays" / "example")
    built = list(yaml.safe_load_all(text))
    settings = Settings.model_validate(configuration(built))
    trigger = only(built, "ScaledObject")["spec"]["triggers"][0]["metadata"]

    assert f"Valid: {len(built)}, Invalid: 0, Errors: 0, Skipped: 0" in conform(tmp_path, text)
    assert "replicas" not in only(built, "Deployment")["spec"]
    assert (trigger["queueURL"], trigger["awsRegion"]) == (settings.sqs_queue_url, settings.aws_region)


@pytest.mark.parametrize("component", sorted(path.name for path in (KUSTOMIZE / "components").iterdir()))
def test_each_component_of_kustomize_goes_with_the_base(component: str, tmp_path: Path) -> None:
    copy = tmp_path / "kustomize"
    for path in KUSTOMIZE.rglob("*.*"):
        if path.is_file():
            target = copy / path.relative_to(KUSTOMIZE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    overlay = copy / "overlays" / "one"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["../../base"], "components": [f"../../components/{component}"]}),
        encoding="utf-8",
    )
    text = tool("kustomize", "build", overlay)

    assert "Invalid: 0, Errors: 0, Skipped: 0" in conform(tmp_path, text)


def test_the_container_gets_only_variables_that_the_program_knows(rendered: list[Manifest]) -> None:
    (container,) = pod_of(rendered)["containers"]
    given = {*configuration(rendered), *(one["name"] for one in container.get("env", []))}

    assert given <= NAMES | IDENTITY
    assert "AWS_REGION" in given
    for secret in [manifest for manifest in rendered if manifest["kind"] == "Secret"]:
        assert set(secret["stringData"]) <= set(SECRETS)


def test_the_configuration_is_the_one_that_was_meant(case: Path, rendered: list[Manifest]) -> None:
    data = configuration(rendered)
    given = yaml.safe_load(case.read_text(encoding="utf-8"))["config"]
    data.pop("ROUTES_FILE", None)

    settings = Settings.model_validate(data)

    assert set(given) - {"ROUTES_FILE"} <= set(data)
    for name in (
        "CONCURRENCY",
        "WORKERS",
        "LEDGER_TTL_SECONDS",
        "DRAIN_TIMEOUT_SECONDS",
        "REPLICATE_DELETES",
    ):
        if name in given:
            assert getattr(settings, name.lower()) == given[name]
    assert list(settings.source_buckets) == given.get("SOURCE_BUCKETS", [])
    if "ROUTES" in given:
        assert json.loads(data["ROUTES"]) == given["ROUTES"]


def test_no_secret_is_in_anything_but_the_secret(rendered: list[Manifest]) -> None:
    secrets = [value for one in rendered if one["kind"] == "Secret" for value in one["stringData"].values()]
    rest = json.dumps([manifest for manifest in rendered if manifest["kind"] != "Secret"])

    assert not [value for value in secrets if value in rest]
    assert not [name for name in SECRETS if f'"{name}": ' in rest]


def test_secrets_reach_the_container() -> None:
    manifests = render("--values", CHART / "ci" / "gke.yaml")
    named = {"secretRef": {"name": only(manifests, "Secret")["metadata"]["name"], "optional": False}}
    mine = render("--values", MINIMAL, "--set", "secret.existingSecret=mine")

    assert named in pod_of(manifests)["containers"][0]["envFrom"]
    assert {"secretRef": {"name": "mine", "optional": False}} in pod_of(mine)["containers"][0]["envFrom"]
    assert not [manifest for manifest in mine if manifest["kind"] == "Secret"]


def test_the_pod_has_no_rights_that_it_does_not_need(rendered: list[Manifest]) -> None:
    pod = pod_of(rendered)
    for_pod = pod["securityContext"]
    (container,) = pod["containers"]

    assert for_pod["runAsNonRoot"] is True
    assert f"{for_pod['runAsUser']}:{for_pod['runAsGroup']}" == _only(RUN, "USER")
    assert for_pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
    accounts = [manifest for manifest in rendered if manifest["kind"] == "ServiceAccount"]
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    assert not accounts or pod["serviceAccountName"] == accounts[0]["metadata"]["name"]


def test_the_pod_is_given_time_to_drain(rendered: list[Manifest]) -> None:
    pod = pod_of(rendered)
    settings = Settings.model_validate({**configuration(rendered), "ROUTES_FILE": None})
    paused = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)

    # Kubernetes counts preStop as well; the program takes up to 5 s after the drain to give back what it holds.
    assert pod["terminationGracePeriodSeconds"] >= math.ceil(settings.drain_timeout_seconds) + paused + 10


def test_the_probes_ask_routes_of_the_sidecar_at_its_port(rendered: list[Manifest]) -> None:
    (container,) = pod_of(rendered)["containers"]
    settings = Settings.model_validate({**configuration(rendered), "ROUTES_FILE": None})
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}

    assert {probe["path"] for probe in asked.values()} <= set(document()["paths"])
    assert asked["liveness"] == asked["startup"] == {"path": "/healthz", "port": "http"}
    assert asked["readiness"] == {"path": "/readyz", "port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": settings.api_port}]
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > settings.startup_timeout_seconds


def test_the_pod_has_room_for_its_memory_budget() -> None:
    derived = [path for path in CASES if "resources" not in yaml.safe_load(path.read_text(encoding="utf-8"))]
    assert {path.stem for path in derived} == {"eks", "gke", "minimal"}
    for path in derived:
        manifests = render("--values", path)
        settings = Settings.model_validate(configuration(manifests))
        resources = pod_of(manifests)["containers"][0]["resources"]
        processes = settings.workers + 1 if settings.workers > 1 else 1
        limit = int(resources["limits"]["memory"].removesuffix("Mi"))
        assert limit >= settings.memory_budget_mib + processes * BESIDE_THE_BUDGET_MIB
        assert int(resources["requests"]["cpu"].removesuffix("m")) == 500 * settings.workers
        # A throttled process extends its leases late.
        assert "cpu" not in resources["limits"]


def test_selectors_find_the_pod(rendered: list[Manifest]) -> None:
    labels = only(rendered, "Deployment")["spec"]["template"]["metadata"]["labels"]
    matched = {
        manifest["kind"]: manifest["spec"].get("podSelector", manifest["spec"].get("selector"))
        for manifest in rendered
        if manifest["kind"] in {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"}
    }

    for kind, selector in matched.items():
        wanted = selector.get("matchLabels", selector)
        assert wanted
        assert wanted.items() <= labels.items(), kind


def test_what_is_mounted_is_there_and_what_is_named_is_mounted(rendered: list[Manifest]) -> None:
    pod = pod_of(rendered)
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", [])}
    files = [one["value"] for one in container.get("env", []) if one["value"].startswith("/")]

    assert {mount["name"] for mount in mounts.values()} == {
        volume["name"] for volume in pod.get("volumes", [])
    }
    assert {str(Path(file).parent) for file in files} <= set(mounts)
    assert all(mount["readOnly"] for mount in mounts.values())
    for volume in pod.get("volumes", []):
        if volume["name"] == "gcp" and "configMap" in volume:
            held = only(rendered, "ConfigMap", volume["configMap"]["name"])["data"]
            source = json.loads(held["credentials.json"])["credential_source"]
            assert "environment_id" in source or str(Path(source["file"]).parent) in mounts


def test_identities_need_no_key() -> None:
    eks, gke = (render("--values", CHART / "ci" / f"{name}.yaml") for name in ("eks", "gke"))
    audiences = {
        source["serviceAccountToken"]["audience"]
        for manifests in (eks, gke)
        for volume in pod_of(manifests)["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    }

    assert only(eks, "ServiceAccount")["metadata"]["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/cross-cloud-replicator"
    }
    assert only(gke, "ServiceAccount")["metadata"]["annotations"] == {
        "iam.gke.io/gcp-service-account": "replicator@example-project.iam.gserviceaccount.com"
    }
    assert audiences == {"sts.amazonaws.com"}


def test_keda_counts_what_waits_and_what_is_in_flight() -> None:
    manifests = render("--values", CHART / "ci" / "eks.yaml")
    scaled = only(manifests, "ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    data = configuration(manifests)

    assert trigger["type"] == "aws-sqs-queue"
    assert trigger["metadata"] == {
        "queueURL": data["SQS_QUEUE_URL"],
        "awsRegion": data["AWS_REGION"],
        "queueLength": "2000",
        "scaleOnInFlight": "true",
        "scaleOnDelayed": "false",
    }
    assert scaled["scaleTargetRef"]["name"] == only(manifests, "Deployment")["metadata"]["name"]
    assert (
        trigger["authenticationRef"]["name"] == only(manifests, "TriggerAuthentication")["metadata"]["name"]
    )
    # A number here would undo KEDA's at every upgrade.
    assert "replicas" not in only(manifests, "Deployment")["spec"]


def test_keda_can_use_the_keys_of_the_secret() -> None:
    switches = ["keda.enabled=true", "keda.authentication.type=secret"]
    manifests = render("--values", CHART / "ci" / "bare.yaml", "--set", ",".join(switches))
    wanted = only(manifests, "TriggerAuthentication")["spec"]["secretTargetRef"]

    secret = only(manifests, "Secret")
    assert {one["name"] for one in wanted} == {secret["metadata"]["name"]}
    assert {one["key"] for one in wanted} == set(secret["stringData"])
    assert (
        only(manifests, "ScaledObject")["spec"]["triggers"][0]["metadata"]["awsEndpoint"]
        == "http://elasticmq:9324"
    )


def test_each_part_can_be_left_out() -> None:
    everything = {manifest["kind"] for manifest in render("--values", CHART / "ci" / "eks.yaml")}
    least = {manifest["kind"] for manifest in render("--values", CHART / "ci" / "bare.yaml")}

    assert everything == {
        *("ServiceAccount", "ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"),
        *("ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"),
    }
    assert least == {"ConfigMap", "Deployment", "Secret"}


def test_the_dashboard_is_given_as_it_is() -> None:
    manifests = render("--values", CHART / "ci" / "eks.yaml", release=NAME)
    given = only(manifests, "ConfigMap", f"{NAME}-dashboard")["data"]["replicator.json"]

    assert given == (CHART / "files" / "replicator.json").read_text(encoding="utf-8").rstrip("\n") + "\n"


def rules_of(*arguments: str | Path) -> dict[str, dict[str, Any]]:
    """The rules as they are rendered, by their names."""
    (_, alerts) = groups = only(render(*arguments), "PrometheusRule")["spec"]["groups"]
    assert [group["name"] for group in groups] == ["replicator.objectives", "replicator.alerts"]
    assert all("alert" in rule for rule in alerts["rules"])
    return {rule.get("alert") or rule["record"]: rule for group in groups for rule in group["rules"]}


def written_rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((CHART / "files" / "replicator.rules.yaml").read_text(encoding="utf-8"))["groups"]
    return {rule.get("alert") or rule["record"]: rule for group in groups for rule in group["rules"]}


def test_the_rules_are_given_as_they_are_with_what_the_release_knows() -> None:
    given, written = rules_of("--values", CHART / "ci" / "eks.yaml"), written_rules()

    # 256 MiB of budget and 256 for each of two workers and their parent.
    known = {
        "replicator:lag_objective_seconds": {"expr": "vector(60.5)"},
        "replicator:memory_limit_bytes": {"expr": f"vector({(256 + 3 * 256) << 20})"},
    }
    assert given == {name: rule | known.get(name, {}) for name, rule in written.items()}


def test_no_alert_asks_for_a_pod_where_none_is_a_good_sign() -> None:
    given, written = rules_of("--values", CHART / "ci" / "cluster-tokens.yaml"), written_rules()

    assert set(written) - set(given) == {"ReplicatorAbsent", "ReplicatorDeploymentGone"}
    assert given["replicator:memory_limit_bytes"]["expr"] == f"vector({3 << 29})"


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ("{limits: {memory: 2Gi}}", "vector(2147483648)"),
        ("{limits: {memory: 500M}}", "vector(500000000)"),
        ("{limits: {memory: 1000000000}}", "vector(1000000000)"),
        ("{limits: {cpu: 1}}", None),
    ],
)
def test_the_memory_limit_of_the_rules_is_the_containers(
    limits: str, told: str | None, tmp_path: Path
) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(f"resources: {limits}", encoding="utf-8")
    given = rules_of("--values", MINIMAL, "--values", values, "--set", "prometheusRule.enabled=true")

    # Without a limit there is nothing to be near to, and the alert has nothing to compare with.
    assert given.get("replicator:memory_limit_bytes", {}).get("expr") == told


def test_prometheus_takes_the_rules(rendered: list[Manifest], tmp_path: Path) -> None:
    for rule in [manifest for manifest in rendered if manifest["kind"] == "PrometheusRule"]:
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump(rule["spec"]), encoding="utf-8")
        promtool = provisioned_folder("prometheus") / "promtool"
        subprocess.run([promtool, "check", "rules", "--lint=all", "--lint-fatal", file], check=True)


def credentials_of(case: str) -> tuple[Manifest, Manifest]:
    """The pod, and the credentials file that is mounted where the program looks for it."""
    manifests = render("--values", CHART / "ci" / f"{case}.yaml", release=NAME)
    pod = pod_of(manifests)
    (container,) = pod["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}["GOOGLE_APPLICATION_CREDENTIALS"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == "gcp"]
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "gcp"]
    data = only(manifests, "ConfigMap", volume["configMap"]["name"])["data"]
    return pod, json.loads(data[given.removeprefix(mount["mountPath"] + "/")])


def test_google_is_shown_the_pods_aws_role() -> None:
    pod, document = credentials_of("eks")
    credentials = aws.Credentials.from_info(document)
    fed = with_our_credentials(credentials, AwsCredentials(AwsSession("eu-central-1")))

    # By this google-auth tells which kind of file it is.
    assert document["subject_token_type"] == "urn:ietf:params:aws:token-type:aws4_request"
    assert isinstance(fed, AwsFederation)
    pool = "iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/replicator"
    assert fed.info["audience"] == f"//{pool}/providers/aws"
    assert fed.info["service_account_impersonation_url"].endswith(
        "/replicator@example-project.iam.gserviceaccount.com:generateAccessToken"
    )
    assert document["credential_source"]["regional_cred_verification_url"].startswith(
        "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity"
    )
    assert [one["name"] for one in pod["volumes"]] == ["gcp"]


def test_google_is_shown_a_token_of_the_cluster() -> None:
    pod, document = credentials_of("cluster-tokens")
    credentials = identity_pool.Credentials.from_info(document)
    projected = {one["name"]: one["projected"] for one in pod["volumes"] if "projected" in one}
    (token,) = projected["gcp-token"]["sources"]

    assert credentials.info["credential_source"] == {"file": "/var/run/secrets/gcp-token/token"}
    assert token["serviceAccountToken"]["audience"] == "https:" + document["audience"]
    assert set(projected) == {"gcp-token", "aws-token"}


def test_a_changed_configuration_is_a_new_pod() -> None:
    def annotations(*arguments: str) -> object:
        manifests = render("--values", CHART / "ci" / "gke.yaml", *arguments)
        return only(manifests, "Deployment")["spec"]["template"]["metadata"]["annotations"]

    before = annotations()
    assert annotations() == before
    assert annotations("--set", "config.CONCURRENCY=33") != before
    assert annotations("--set", "secret.values.API_TOKEN=other") != before


WRONG = {
    "config.CONCURENCY=3": "at '/config': additional properties 'CONCURENCY' not allowed",
    "config.API_TOKEN=x": "at '/config': additional properties 'API_TOKEN' not allowed",
    "config.CONCURRENCY=5000": "at '/config/CONCURRENCY': maximum: got 5,000, want 1,000",
    "config.CONCURRENCY=many": "at '/config/CONCURRENCY': 'many' does not match",
    "config.ON_FOREIGN_OBJECT=clobber": "must be one of '', 'refuse', 'overwrite'",
    "config.API_HOST=127.0.0.1": "at '/config/API_HOST': value must be one of",
    "config.API_PORT=0": "at '/config/API_PORT': minimum: got 0, want 1",
    "config.AWS_REGION=": "at '/config/AWS_REGION'",
    "config.SQS_QUEUE_URL=": "set SQS_QUEUE_URL or PUBSUB_SUBSCRIPTION",
    "config.GCS_BUCKET_NAME=": "set GCS_BUCKET_NAME, ROUTES or ROUTES_FILE",
    "secret.values.PASSWORD=x": "at '/secret/values': additional properties 'PASSWORD' not allowed",
    "secret.existingSecret=a,secret.values.API_TOKEN=x": "existingSecret and values are both set",
    "secret.values.LEDGER_URL=redis://ledger/0": "egressPorts must hold 6379",
    "serviceAccount.awsRoleArn=role": "at '/serviceAccount/awsRoleArn': 'role' does not match",
    "google.existingSecret=a,config.GOOGLE_APPLICATION_CREDENTIALS=/b": "google: set one of",
    "google.federation.serviceAccount=a@b.iam.gserviceaccount.com": "serviceAccount is set without provider",
    "keda.enabled=true,keda.messagesPerPod=32": "messagesPerPod must be above CONCURRENCY, which is 32",
    "keda.enabled=true,keda.minReplicas=11": "minReplicas must be at most keda.maxReplicas",
    "image.digest=latest": "at '/image/digest': 'latest' does not match",
    "replcas=3": "additional properties 'replcas' not allowed",
}


@pytest.mark.parametrize(("given", "told"), WRONG.items(), ids=list(WRONG))
def test_a_wrong_value_is_refused_and_named(given: str, told: str) -> None:
    with pytest.raises(ToolError) as refused:
        render("--values", MINIMAL, "--set", given)

    assert told in str(refused.value)


def test_a_secret_in_the_wrong_place_is_not_shown() -> None:
    with pytest.raises(ToolError) as refused:
        render("--values", MINIMAL, "--set", "config.LEDGER_URL=redis://user:hunter2@ledger")

    assert "LEDGER_URL" in str(refused.value)
    assert "hunter2" not in str(refused.value)
