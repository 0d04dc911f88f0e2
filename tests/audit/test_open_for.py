"""Bytes times time for which a hazard was open, against sums made by hand: every fact is 10 ns after the last."""

from __future__ import annotations

from execbench.record.audit import verdicts
from tests.audit.story import PAGE, Story, retired_and_unmapped


def byte_ns(story: Story, hazard: int) -> int | None:
    return verdicts(story.end())[hazard].byte_ns


def story_of(*, synchronized: bool) -> Story:
    """256 bytes stored under X at t = 30, published at 40 (at 50 if synchronized), out of sight 30 ns later."""
    story = Story("x86_64")
    area = story.area()
    region = story.region(area)
    story.alias("t", area, "ro")
    story.map("t", area, "ro-x")
    story.store("t", area.va)
    if synchronized:
        story.sync("t")
    story.reach("t", region)
    story.gp()
    story.unreach("t", region)
    story.gp()
    story.map("t", area, "none")
    return story


def test_stale_bytes_from_the_publication_to_its_end():
    assert byte_ns(story_of(synchronized=False), 1) == 256 * (70 - 40)
    assert byte_ns(story_of(synchronized=True), 1) == 0


def test_torn_bytes_from_the_store():
    assert byte_ns(story_of(synchronized=False), 2) == 256 * (70 - 30)
    assert byte_ns(story_of(synchronized=True), 2) == 256 * (50 - 30)


def test_a_grace_period_has_no_end_to_wait_for():
    story = story_of(synchronized=True)
    assert byte_ns(story, 5) == 0
    late = retired_and_unmapped()
    assert byte_ns(late, 5) is None


def test_refused_fetches_last_as_long_as_the_publication():
    story = Story("arm64")
    area = story.area()
    region = story.region(area)
    story.map("t", area, "rw-nx")
    story.store("t", area.va)
    story.map("t", area, "ro-x")
    story.flush("t", how="broadcast")
    story.reach("t", region)  # 50
    story.unreach("t", region)
    assert story.conditions(3) == {"nx-fault"}
    assert byte_ns(story, 3) == 256 * 10


def test_stale_translations_until_the_flush_is_complete():
    story = Story("x86_64")
    area = story.area(pages=4)
    story.map("t", area, "rw-nx")
    story.map("t", area, "ro-x", 1, 3)  # 20
    story.flush("t", area.va + PAGE, 1)  # 30: one page of three
    story.flush("t")  # 40
    story.flush("t")
    assert story.end().open_for[4, "overlap"] == PAGE * 10 + 2 * PAGE * 20


def test_an_address_in_use_again_until_the_flush_or_the_end():
    story = Story("x86_64")
    old, new = story.area(), story.area(pfn=200)
    story.map("t", old, "ro-x")
    story.map("t", old, "none")
    story.map("t", new, "rw-nx")  # 30
    story.gp()  # 40, 50
    assert story.end().open_for[4, "reused"] == PAGE * 20
    story.flush("t")  # 60
    story.gp()
    assert story.end().open_for[4, "reused"] == PAGE * 30


def test_aliases_are_measured_by_their_bytes():
    story = Story("x86_64")
    area = story.area(pages=2)
    first, second = story.region(area), story.region(area, 256)
    story.map("t", area, "ro-x")  # 10
    story.tell("window", "t", "mm", area.va, 256, True)
    story.store("t", area.va, through="mm")
    story.tell("window", "t", "mm", area.va, 256, False)  # 20 ns
    story.alias("t", area, "ro")  # 50
    story.flush("t")  # 60
    story.reach("t", first)
    story.reach("t", second)
    held = story.end().open_for
    assert held[6, "mm"] == 256 * 20
    assert held[6, "direct"] == PAGE * 50, "the frame that both lie in, once"


def test_permanent_aliases_as_long_as_text_is_published():
    story = Story("x86_64")
    area = story.area()
    region = story.region(area)
    story.map("t", area, "rw-x")  # 10
    story.store("t", area.va)
    story.reach("t", region)  # 30
    story.unreach("t", region)  # 40
    story.map("t", area, "none")  # 50
    held = story.end().open_for
    assert held[6, "direct"] == 256 * 10
    assert held[6, "text"] == PAGE * 40


def test_the_direct_map_read_only_but_not_flushed_is_a_downgrade():
    story = Story("x86_64")
    area = story.area()
    region = story.region(area)
    story.map("t", area, "ro-x")
    story.store("t", area.va)
    story.alias("t", area, "ro")
    story.reach("t", region)  # 40
    story.flush("t")  # 50
    story.gp()
    story.unreach("t", region)  # 80
    assert story.conditions(4) >= {"downgrade"}
    assert byte_ns(story, 4) == 256 * 10
