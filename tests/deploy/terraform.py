"""OpenTofu over a copy of deploy/terraform, with plugins that know the providers' schemas and nothing else."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.emulators.provision import provisioned_folder

ROOT: Final = Path(__file__).resolve().parents[2]
TERRAFORM: Final = ROOT / "deploy" / "terraform"
EXAMPLE: Final = "examples/s3-to-gcs"
CHECKS: Final = [Path(__file__).with_name(f"{name}.tftest.hcl") for name in ("example", "module")]
SCHEMAS: Final = ROOT / "tests" / "deploy" / "schemas"
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class TofuError(Exception):
    """What OpenTofu had to say."""


@dataclass(frozen=True)
class Tofu:
    """A copy of `deploy` in a folder of its own, set up without a network."""

    folder: Path

    @property
    def terraform(self) -> Path:
        return self.folder / "deploy" / "terraform"

    @property
    def example(self) -> Path:
        return self.terraform / EXAMPLE

    @classmethod
    def prepared(cls, folder: Path) -> Tofu:
        made = cls(folder)
        for name in ("terraform", "permissions"):
            shutil.copytree(ROOT / "deploy" / name, folder / "deploy" / name)
        system = f"{platform.system().lower()}_{_MACHINES[platform.machine()]}"
        for provider in ("aws", "google"):
            version = json.loads((SCHEMAS / f"terraform-{provider}.json").read_text(encoding="utf-8"))[
                "version"
            ]
            place = folder / "mirror/registry.opentofu.org/hashicorp" / provider / version / system
            place.mkdir(parents=True)
            plugin = provisioned_folder("provider-of-schemas") / "provider"
            # By the name that it is started by it knows whose schemas it is to read.
            shutil.copy2(plugin, place / f"terraform-provider-{provider}_v{version}")
        # One line each: HCL wants it so.
        lines = ("provider_installation {", "filesystem_mirror {", f'path = "{folder}/mirror"', "}", "}")
        text = "\n".join(["disable_checkpoint = true", *lines, ""])
        (folder / "rc").write_text(text, encoding="utf-8")
        for checks in CHECKS:  # before `init`, which looks for the modules that they name, too
            shutil.copy(checks, made.example)
        made.run(f"-chdir={made.example}", "init", "-backend=false")
        return made

    def run(self, *arguments: str) -> str:
        """What is printed. Raises TofuError."""
        done = subprocess.run(
            [str(provisioned_folder("tofu") / "tofu"), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "TF_CLI_CONFIG_FILE": str(self.folder / "rc"),
                "PROVIDER_SCHEMAS": str(SCHEMAS),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise TofuError(done.stdout + done.stderr)
        return done.stdout
