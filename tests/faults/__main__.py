"""``python -m tests.faults --seeds 0-199``: run schedules, keep what happened, shrink what fails.

Everything is kept in a work folder: the quiet run of this version of the code, and a line for each schedule
(``results.jsonl``). Seeds that have survived are not run again.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.faults.faults import FAULTS
from tests.faults.project import STAGES, code_version, reference
from tests.faults.run import Run
from tests.faults.schedule import Schedule, draw, shrink

MOUNTS = "CADMLLM_FAULTS_MOUNTS"  # variable: this process has mounts of its own, which go with it


def main() -> None:
    """Run what is asked for; exit with 1 where something did not survive."""
    args = _parse()
    _take_mounts_of_its_own()
    mounts = os.environ[MOUNTS] == "1"
    args.work.mkdir(parents=True, exist_ok=True)
    results = args.work / "results.jsonl"
    last = {line["seed"]: line for line in _read(results)}
    due = {seed: draw(seed) for seed in args.seeds if args.again or not last.get(seed, {}).get("survived")}
    quiet = reference(args.work, max(each.first + each.count for each in due.values())) if due else None

    def run(schedule: Schedule) -> dict:
        return Run(schedule, quiet, args.work, mounts).result()

    print(f"{len(due)} of {len(args.seeds)} schedules are due, {'with' if mounts else 'without'} mounts", flush=True)
    for seed, schedule in due.items():
        meant = schedule if args.only is None else schedule.only(args.only)
        found = {**run(meant), "code": code_version()}
        if not found["survived"] and args.only is None and not args.as_drawn:
            kept = shrink(meant, lambda fewer: not run(fewer)["survived"])
            found["shortest"] = f"python -m tests.faults --seeds {seed} --only {','.join(map(str, kept))}"
        last[seed] = found
        if args.only is None:
            with open(results, "a") as file:
                file.write(json.dumps(found) + "\n")
        _tell(found)
    _summarise([last[seed] for seed in args.seeds if seed in last])
    sys.exit(any(not last[seed]["survived"] for seed in args.seeds if seed in last))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=list(range(200)), help="such as 0-199 or 3,7")
    parser.add_argument("--work", type=Path, default=Path("scratch/faults"), help="where results are kept")
    parser.add_argument("--only", type=_seeds, help="numbers of the faults of each schedule that are left in it")
    parser.add_argument("--again", action="store_true", help="also seeds that have survived")
    parser.add_argument("--as-drawn", action="store_true", help="do not shrink what fails")
    args = parser.parse_args()
    args.work = args.work.absolute()
    return args


def _seeds(text: str) -> list[int]:
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _take_mounts_of_its_own() -> None:
    """Start anew in a mount namespace, where that is allowed: small and read-only disks need mounts."""
    if MOUNTS in os.environ:
        return
    command = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    allowed = not subprocess.run([*command, "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode
    os.environ[MOUNTS] = str(int(allowed))
    if allowed:
        again = [sys.executable, "-m", "tests.faults", *sys.argv[1:]]
        os.execvp(command[0], [*command, *again])


def _read(results: Path) -> list[dict]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def _tell(found: dict) -> None:
    faults = ", ".join(each.split()[0] for each in found["faults"]) or "none"
    how = "dvc repro: " if found["by_dvc"] else ""
    verdict = "survived" if found["survived"] else "FAILED"
    print(
        f"{found['seed']:4d} {verdict} in {found['seconds']:5.1f} s; {how}{' '.join(found['stages'])}; {faults}",
        flush=True,
    )
    for text in found["wrong"]:
        print(f"     {text}", flush=True)
    if "shortest" in found:
        print(f"     the shortest: {found['shortest']}", flush=True)


def _summarise(lines: list[dict]) -> None:
    struck = Counter(each["fault"] for line in lines for each in line["attempts"] if each["struck"])
    survived = sum(line["survived"] for line in lines)
    print(f"{survived} of {len(lines)} schedules survived; faults that struck: {sum(struck.values())}")
    print(", ".join(f"{name} {struck[name]}" for name in FAULTS))
    met = Counter(name for line in lines for name in line["stages"])
    print(", ".join(f"{stage.name} {met[stage.name]}" for stage in STAGES))


if __name__ == "__main__":
    main()
