"""Known vulnerabilities of the locked packages, from the package index's advisories (`make audit`).

It fails where there are any. Where the service does not answer nothing is known, which is said, and on GitHub, where it
is reached, is a failure too. What was looked at and cannot be mended is in ``ACCEPTED``, with the reason.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ACCEPTED: dict[str, str] = {}  # reason by advisory


def main() -> None:
    """Audit, and say of how many packages something is known."""
    command = [sys.argv[1], "--requirement", str(ROOT / "requirements.lock"), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        packages = []
    audited = [each for each in packages if "vulns" in each]
    found = [
        f"{each['name']} {each['version']}: {one['id']} (mended in {', '.join(one['fix_versions']) or 'none'})"
        for each in audited
        for one in each["vulns"]
        if one["id"] not in ACCEPTED
    ]
    print(f"{len(audited)} of {len(packages)} packages audited, {len(found)} advisories")
    if found:
        raise SystemExit("\n".join(found))
    if missing := [each["name"] for each in packages if "vulns" not in each]:
        print(f"::warning::not audited: {', '.join(missing)}")
    if not audited:
        print(f"::warning::NOT AUDITED: the advisories could not be had. {done.stderr.strip()[-200:]}")
        if os.environ.get("GITHUB_ACTIONS"):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
