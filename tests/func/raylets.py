"""``python -m tests.func.raylets``: a Ray cluster of two machines, pretended on this one, until its input ends.

It says its address. Told ``kill``, it kills the second machine's raylet, and told ``add``, it starts another such. The
first machine has two pretended GPUs.
"""

import os
import subprocess
import sys

from tests.conftest import ROOT

COMMON = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


class Raylets:
    """That process: two machines, of one CPU each."""

    def __init__(self):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.func.raylets"],
            cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.address = self.process.stdout.readline().strip()
        assert self.address, "it has ended"

    def tell(self, command):
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self):
        self.process.communicate(timeout=60)


def main():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**COMMON, "num_gpus": 2})
    second = cluster.add_node(**COMMON, num_gpus=0)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(second, allow_graceful=False)
        else:
            second = cluster.add_node(**COMMON, num_gpus=0)
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
