"""A Ray cluster whose machines are all on this one, with a core each."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
QUICK = {  # a dead machine is noticed within two seconds
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


@contextlib.contextmanager
def started(count: int, settings: dict[str, Any] | None = None, **node: Any) -> Iterator[Any]:
    """`ray.cluster_utils.Cluster` of `count` machines, the driver on the first; all of it ends with the block.

    settings: Ray's own, over `QUICK`; node: what each machine has beside its core, as `object_store_memory`.
    """
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK | (settings or {})} | node
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(count - 1):
                cluster.add_node(num_cpus=1, **node)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
