"""When a study is complete: the rule by itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from wetread.domain.study import Arrived, CompletenessRule, completeness

RULE = CompletenessRule(quiet=timedelta(seconds=60), deadline=timedelta(seconds=300))
START = datetime(2026, 11, 20, 8, tzinfo=UTC)
ARRIVED = Arrived(START, START, 3)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_each_image_starts_the_quiet_period_anew() -> None:
    assert completeness(RULE, ARRIVED, at(0)) == at(60)
    assert completeness(RULE, replace(ARRIVED, last_at=at(50)), at(60)) == at(110)
    assert completeness(RULE, ARRIVED, at(60)) == "quiet period over"


def test_the_deadline_ends_a_trickle() -> None:
    trickling = replace(ARRIVED, last_at=at(290))
    assert completeness(RULE, trickling, at(290)) == at(300)
    assert completeness(RULE, trickling, at(300)) == "deadline passed"


def test_all_announced_images_complete_at_once_and_fewer_wait() -> None:
    assert completeness(RULE, replace(ARRIVED, expected_count=3), at(0)) == "all expected instances are here"
    assert completeness(RULE, replace(ARRIVED, expected_count=4), at(0)) == at(60)
    assert completeness(RULE, replace(ARRIVED, expected_count=4), at(60)) == "quiet period over"


def test_somebody_who_knows_ends_the_wait() -> None:
    assert completeness(RULE, replace(ARRIVED, declared_complete=True, expected_count=9), at(0)) == "declared complete"
