"""What happens once in each replication stands first, with the interval of its mean and the ratio between arms."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from execbench.report.answer import sentences, summary
from execbench.report.comparison import comparison
from execbench.report.completion import means, once
from execbench.report.html import page
from execbench.report.setting import setting_of
from execbench.report.text import render

TIMES = {"module_alloc": (100e6, 110e6, 120e6), "alloc-write-map": (200e6, 220e6, 240e6)}


@pytest.fixture(scope="module")
def ended(make_results):
    """Three replications of a workload that ends, with one `bpf everything` in each; every load is one of many."""
    results = make_results(replications=3)
    results.cells = results.cells[results.cells["arm"].isin(TIMES)]
    results.cells["spec"] = results.cells["spec"].str.replace("steady-state", "terminating")
    rows = [{"cell": cell, "replication": r, "client": "bpf", "kind": "everything", "metric": metric, "unit": "1",
             "value": value, "n": 1}
            for cell, arm in zip(results.cells["cell"], results.cells["arm"], strict=True)
            for r, time in enumerate(TIMES[arm])
            for metric, value in (("throughput", 1.0), ("latency_sum", time), ("api_sum", 0.0), ("queue_mean", 0.0),
                                  ("service_mean", time))]  # fmt: skip
    results.frames["metrics"] = pd.concat([results.frames["metrics"], pd.DataFrame(rows)], ignore_index=True)
    return results


def test_only_what_happens_once_and_only_where_the_workload_ends(ended):
    setting, frame = setting_of(ended), comparison(ended)
    assert once(frame, setting) == [("bpf", "everything")]
    assert once(frame, dataclasses.replace(setting, horizon="steady-state")) == []


def test_mean_with_its_t_interval_and_the_ratio_of_means(ended):
    frame = comparison(ended)
    found = means(ended, frame[frame["kind"] == "everything"])["module_alloc"]
    half = 4.302653 * 10e6 / 3**0.5
    assert (found.value, found.low, found.high) == pytest.approx((110e6, 110e6 - half, 110e6 + half), rel=1e-6)
    [(_, said)] = sentences(ended, frame, setting_of(ended))
    assert said[0] == ("Over a whole bpf everything (mean) the fastest run is with module_alloc: 110 ms; "
                       "alloc-write-map takes 2.00 [2.00, 2.00] times as long.")  # fmt: skip
    assert said[1].startswith("At the median the ")


def test_it_stands_before_the_tables_of_text_and_page(ended):
    frame, setting = comparison(ended), setting_of(ended)
    text = render(frame, setting, said=summary(ended, frame, setting))
    assert text.startswith(
        "Once in each replication, mean over them with its 95 % interval\n  bpf everything: 110 [85, 135] ms"
    )
    assert text.count("bpf everything: ") == 1
    assert text.index("Over a whole bpf everything") > text.index("bpf load (")
    html = page(ended, frame, setting)
    places = [html.index(words) for words in ("<h1>", "Over a whole bpf everything", "<h2>bpf everything",
                                              "<h2>bpf load")]  # fmt: skip
    assert places == sorted(places)
    assert html.count("<h2>bpf everything") == 1
    assert "110<small>[85, 135]</small>" in html


def test_an_arm_that_did_not_come_to_its_end_is_not_compared(ended):
    frame, setting = comparison(ended), setting_of(ended)
    frame.loc[frame["arm"] == "alloc-write-map", "undone"] = 7
    [(_, said)] = sentences(ended, frame, setting)
    assert said[0] == ("bpf everything: not complete in every replication with alloc-write-map; lengthen --duration to "
                       "compare.")  # fmt: skip
    assert not any("Over a whole" in sentence for sentence in said)
    assert "not complete in every replication" in page(ended, frame, setting)
