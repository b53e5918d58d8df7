"""``python -m tests.func.raylets``: a Ray cluster of two machines, pretended on this one, until its input ends.

It says its address. Told ``kill``, it kills the second machine's raylet, and told ``add``, it starts another such. The
first machine has two pretended GPUs.
"""

import sys

from ray.cluster_utils import Cluster

COMMON = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}


def main():
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
