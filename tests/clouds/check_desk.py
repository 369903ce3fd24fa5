"""cloud-check as a user runs it, in a process of its own, against a simulated cloud."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
QUICK = ("--pace", "0.2", "--patience", "120")
"""A look costs nothing here, so there are more of them."""
_OTHERS = ("CLOUD_TRAIN_", "AWS_", "AZURE_", "GOOGLE_")


@dataclass(frozen=True)
class CheckDesk:
    """A folder with a config file, and the variables of a user who has an account."""

    folder: Path
    config: Path
    store: str
    environment: Mapping[str, str]

    @classmethod
    def made(cls, folder: Path, cloud: str, settings: Mapping[str, Any], store: str, environment: Mapping[str, str]) -> "CheckDesk":
        """One with these settings in its config file."""
        config = folder / "account.yaml"
        config.write_text(json.dumps({"provider": cloud, "store": store, cloud: dict(settings)}), encoding="utf-8")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
        return cls(folder, config, store, {**kept, **environment, "HOME": str(folder), "PYTHONPATH": str(ROOT)})

    @property
    def session(self) -> Path:
        """The folder with the report and the answers."""
        return self.folder / "session"

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start cloud-check with these words, and the config file."""
        command = [sys.executable, "-m", "tools.cloud_check", str(self.config), "--folder", str(self.session), *QUICK, *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *words: str) -> "Checked":
        """Run it to its end."""
        process = self.start(*words)
        printed, told = process.communicate()
        return Checked(process.returncode, printed, told, self.session)


@dataclass(frozen=True)
class Checked:
    """What came of it."""

    status: int
    printed: str
    told: str
    session: Path

    @property
    def report(self) -> dict[str, Any]:
        """The report."""
        found: dict[str, Any] = json.loads((self.session / "report.json").read_text(encoding="utf-8"))
        return found

    def verdicts(self) -> dict[str, str]:
        """Check → verdict."""
        return {result["check"]: result["verdict"] for result in self.report["results"]}

    def facts(self, check: str, verdict: str) -> list[str]:
        """What was expected where a check came to this verdict."""
        return [
            fact["expected"]
            for each in self.report["results"]
            if each["check"] == check
            for fact in each["facts"]
            if fact["verdict"] == verdict
        ]

    def costing(self) -> Sequence[str]:
        """What is left and costs money."""
        return [left["what"] for left in self.report["left"] if left["costs"]]

    def sent(self) -> str:
        """The text of all files that a user may send."""
        files = [*self.session.glob("answers/*"), self.session / "report.md", self.session / "report.json"]
        return "\n".join(file.read_text(encoding="utf-8") for file in files)

    def everything(self) -> bytes:
        """All files of the session, its ledger included, and what was printed."""
        files = [file.read_bytes() for file in self.session.rglob("*") if file.is_file()]
        return b"\n".join([self.printed.encode(), self.told.encode(), *files])
