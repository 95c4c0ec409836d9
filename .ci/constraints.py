"""Writes constraints.txt: the exact versions that pip chooses today for pmagic and all that its tests need.

    make constraints

pip only plans here; nothing is installed. The tests and the checks install these versions, so that a new release of a
library changes nothing before somebody runs this again. A build of torch for one kind of machine is not named.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = "# The versions that the tests run with. Made by `make constraints`; do not edit.\n"


def main(torch: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        plan = ["install", "--quiet", "--dry-run", "--ignore-installed", "--report", str(report)]
        subprocess.run([sys.executable, "-m", "pip", *plan, torch, f"{ROOT}[test,world,browser]"], check=True)
        packages = [each["metadata"] for each in json.loads(report.read_text())["install"]]
    versions = {each["name"].lower(): each["version"].partition("+")[0] for each in packages}
    versions.pop("pmagic")
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    (ROOT / "constraints.txt").write_text(HEAD + "".join(lines))
    print(f"{len(lines)} versions in constraints.txt")


if __name__ == "__main__":
    main(sys.argv[1])
