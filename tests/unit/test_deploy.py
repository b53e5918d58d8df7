"""Files for clusters and containers: as far as parsers and dry runs see, what they name is there and is understood."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from torch.distributed.run import get_args_parser

from tests.unit.test_docs import mistake

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SBATCH = DEPLOY / "slurm.sbatch"
INSTRUCTIONS = {"FROM", "ARG", "WORKDIR", "RUN", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}


def assert_trains_elastically(command, environment):
    """A line of torchrun as its parser and that of ``cadmllm`` take it, with what a restart needs."""
    assert command[0] == "torchrun"
    args = get_args_parser().parse_args(command[1:])
    assert args.module
    assert args.training_script == "stages.cli"
    assert mistake(shlex.join(["cadmllm", *args.training_script_args])) is None
    assert args.nnodes == "1:2"
    assert args.rdzv_backend == "c10d"
    assert args.max_restarts > 0
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    return args


# -- Slurm -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dry_run(tmp_path):
    """The batch script as a job of two machines runs it, where ``srun`` says what it was given."""
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE"\n')
    (tmp_path / "scontrol").write_text("#!/bin/sh\nprintf 'node07\\nnode08\\n'\n")
    for each in ("srun", "scontrol"):
        (tmp_path / each).chmod(0o755)
    job = {"SLURM_JOB_NODELIST": "node0[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    env = {**os.environ, **job, "SLURM_JOB_ID": "17", "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(*arguments):
        return subprocess.run(["bash", SBATCH, *arguments], env=env, capture_output=True, text=True, check=False)

    return run


def test_a_slurm_job_starts_torchrun_on_each_machine(dry_run):
    subprocess.run(["bash", "-n", SBATCH], check=True)
    ran = dry_run("stage1_text")
    assert ran.returncode == 0, ran.stderr
    *command, shared = ran.stdout.splitlines()
    options = command[: command.index("torchrun")]
    assert options == ["--no-kill", "--kill-on-bad-exit=0"]  # or a machine that is lost ends all others
    args = assert_trains_elastically(command[len(options) :], {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": shared})
    assert (args.nproc_per_node, args.rdzv_endpoint, args.rdzv_id) == ("4", "node07:29500", "17")
    assert "a stage of params.yaml, as in: sbatch" in dry_run().stderr


def test_slurm_warns_before_it_kills_for_as_long_as_a_step_is_waited_for():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SBATCH.read_text(), re.MULTILINE))
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "time", "no-kill"} <= options.keys()
    assert options["ntasks-per-node"] == "1"  # torchrun starts the others
    (shutdown,) = re.findall(r"--shutdown-timeout (\d+)", SBATCH.read_text())
    assert options["signal"] == f"TERM@{shutdown}"


# -- Kubernetes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def service_and_job():
    return list(YAML(typ="safe", pure=True).load_all((DEPLOY / "kubernetes.yaml").read_text()))


def test_pods_find_each_other_and_share_the_project(service_and_job):
    service, job = service_and_job
    assert (service["kind"], service["apiVersion"], job["kind"], job["apiVersion"]) == (
        "Service",
        "v1",
        "Job",
        "batch/v1",
    )
    name, spec, pod = service["metadata"]["name"], job["spec"], job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"  # YAML's null would be an address of its own
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}  # a label that Jobs give
    assert pod["subdomain"] == name
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == 2
    (container,) = pod["containers"]
    args = assert_trains_elastically(container["command"], {each["name"]: each["value"] for each in container["env"]})
    port = service["spec"]["ports"][0]["port"]
    assert args.rdzv_endpoint == f"{job['metadata']['name']}-0.{name}:{port}"
    assert int(args.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert pod["terminationGracePeriodSeconds"] >= args.shutdown_timeout
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    assert "persistentVolumeClaim" in pod["volumes"][0]


def test_kubernetes_knows_every_field(service_and_job):
    validator = pytest.importorskip("kubernetes_validate")
    for document in service_and_job:
        validator.validate(document, validator.latest_version(), strict=True)


# -- the image ---------------------------------------------------------------------------------------------------------


def instructions():
    """Each instruction of the Dockerfile with its words."""
    text = "\n".join(line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    return [line.split(maxsplit=1) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]


def copied():
    """What is copied from the project into the image."""
    given = [shlex.split(words) for name, words in instructions() if name == "COPY"]
    return [source for words in given if not words[0].startswith("--from") for source in words[:-1]]


def test_an_image_is_made_of_what_is_there():
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    assert all((ROOT / source).exists() for source in copied())
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert admitted == set(copied())
    last = dict(instructions())
    assert last["USER"] == "1000"
    assert last["ENTRYPOINT"] == '["cadmllm"]'
    (install,) = (words for name, words in instructions() if name == "RUN" and "pip install" in words)
    assert "--constraint requirements.lock" in install
    (apt,) = (words for name, words in instructions() if name == "RUN" and "apt-get" in words)
    packages = (ROOT / ".ci/system-libraries").read_text()
    assert {"libgl1", "libx11-6"} <= set(apt.split()) & set(packages.split())


@pytest.mark.slow
def test_what_is_copied_is_enough_to_install_the_commands(tmp_path):
    for source in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, tmp_path / source)
    target = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    subprocess.run([*pip, "--target", target, "."], cwd=tmp_path, check=True)
    env = {**os.environ, "PYTHONPATH": str(target)}
    said = subprocess.run(
        [sys.executable, "-m", "stages.cli", "--version"],
        cwd=target,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith("cadmllm ")
    assert (target / "pipeline/report").is_dir()
    assert list((target / "pipeline/shipped").glob("*/*.safetensors"))
