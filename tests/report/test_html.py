"""The HTML page: well-formed, self-contained, escaped, and the same bytes for the same data."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from execbench.report.comparison import comparison
from execbench.report.html import page
from execbench.report.setting import setting_of

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Checker(HTMLParser):
    """Collects open elements, identifiers and whatever a browser would fetch."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "srcset"):
                (self.references if str(value).startswith("#") else self.fetched).append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> inside <{self.open[-1]}>"
        self.open.pop()


@pytest.fixture(scope="module")
def html(results, compared):
    return page(results, *compared, "results/bpf-1234")


def checked(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    return checker


def test_well_formed_and_self_contained(html):
    found = checked(html)
    assert found.open == []
    assert found.fetched == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "<script" not in html
    assert len(found.ids) == len(set(found.ids))
    assert {f"#{name}" for name in found.ids} >= set(found.references)


def test_every_plot_is_inline_and_well_formed(html):
    plots = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(plots) == 4  # latency of load and free, phases, disturbance
    for plot in plots:
        ElementTree.fromstring(plot)
    assert re.search("latency of (a )?load", html)
    assert "interruptions per CPU [1/s]" in html
    assert "mean time per operation [" in html


def tables(html):
    """The comparison's tables: per table the titles of its groups, the titles of its columns and the number of rows."""
    found = []
    for text in re.findall(r'<table class="figures">(.*?)</table>', html, flags=re.DOTALL):
        groups = re.findall(r'<th class="group first" colspan="\d+">(.*?)</th>', text)
        columns = re.findall(r'<th(?: class="first")? title="[^"]*">(.*?)<span class="unit">(.*?)</span>', text)
        found.append((groups, columns, text.count('class="swatch"')))
    return found


def test_no_table_is_wider_than_a_page(html):
    callers, memory, deferred = tables(html)
    assert callers[0] == ["what callers see"]
    assert memory[0] == ["per operation", "memory for text"]
    assert deferred[0] == ["from the request to its end", "per operation"]
    for _, columns, rows in (callers, memory, deferred):
        assert 2 < len(columns) <= 11  # twelve figures with intervals were 1400 pixels wide
        assert rows == 7  # every arm in every table
    assert len(callers[1]) <= 9


def test_isolated_cpus_have_unit_interval_and_cause(make_results, add_isolated):
    results = make_results(replications=10)
    add_isolated(results)
    found = page(results, comparison(results), setting_of(results))
    groups, columns, _ = tables(found)[1]
    assert "isolated CPUs, caused by this workload" in groups
    assert ("per isolated CPU and hour", "1/h") in columns
    assert "1,320,000<small>[1,050,000, 1,590,000]</small>" in found
    assert found.count("it is a sum of constants (how much came together)") == 1
    assert "isolated CPU:" not in page(*_plain(make_results))


def _plain(make_results):
    results = make_results(replications=2)
    return results, comparison(results), setting_of(results)


def test_text_from_files_is_escaped(html):
    assert "&lt;who&gt; pays" in html
    assert "<who>" not in html
    assert "needs arm64: &lt;sub-page&gt; permissions" in html


def test_first_screen_has_question_then_answer_then_table(html):
    places = [html.index(words) for words in ("<h1>What do loads cost", "At the median the fastest load",
                                              "what callers see", "<svg", "How it was run", "Costs used")]  # fmt: skip
    assert places == sorted(places)


def test_says_how_to_reproduce_and_what_costs_rest_on(html, results):
    assert "execbench run --workload bpf" in html
    assert "execbench verify results/bpf-1234" in html
    for cost in setting_of(results).costs:
        assert f"<code>{cost.name}</code>" in html
    assert html.count('class="tag assumed"') == sum(c.evidence == "assumed" for c in setting_of(results).costs)


def test_same_data_same_bytes(html, results, compared):
    assert page(results, *compared, "results/bpf-1234") == html


def test_sweep_has_a_line_plot_and_the_expected_reading(swept):
    found = page(*swept)
    assert checked(found).open == []
    assert "Rounds cost more with more CPUs." in found
    assert "median latency [" in found
    assert "cpus = 64" in found


def test_a_plain_run_without_operations_is_still_a_page(make_results):
    results = make_results(replications=1)
    for name in ("metrics", "histograms", "counters", "extremes", "peaks", "disturbance", "cpus"):
        results.frames[name] = results.frames[name].iloc[:0]
    found = page(results, comparison(results), setting_of(results))
    assert "No class of operation entered" in found
