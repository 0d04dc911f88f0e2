"""What a machine may say of RCU, and which releases listen."""

from __future__ import annotations

import pytest

from execbench.kernel.releases import release_from
from execbench.simulate import rcu_rules
from tests.kernel.bench import bench_costs

CPUS = (4, 64)


@pytest.mark.parametrize(
    ("release", "unset"), [("6.1", (False, False)), ("6.12", (False, False)), ("6.18", (True, False)),
                           ("7.3", (True, True))],
)  # fmt: skip
@pytest.mark.parametrize("wanted", [None, False, True])
def test_a_parameter_that_a_release_has_not_changes_nothing(
    release: str, unset: tuple[bool, bool], wanted: bool | None
) -> None:
    """kernel/rcu/tree.c: rcu_normal_wake_from_gp is in 6.12 (0) and 7.3 (1); 6.1 calls wait_rcu_gp(call_rcu) always."""
    config = {"hz": 1000, "preempt": "full"} | ({} if wanted is None else {"rcu_normal_wake_from_gp": wanted})
    rules = [rcu_rules(config, release_from({"release": release}), bench_costs(), cpus) for cpus in CPUS]
    expected = unset if wanted is None or release == "6.1" else (wanted, wanted)
    assert tuple(one.wake_from_gp for one in rules) == expected


def test_a_release_with_the_parameter_taken_back_to_it_listens() -> None:
    changed = release_from({"release": "6.1", "wake_from_gp_param": True})
    config = {"hz": 1000, "preempt": "full", "rcu_normal_wake_from_gp": True}
    assert rcu_rules(config, changed, bench_costs(), 64).wake_from_gp
