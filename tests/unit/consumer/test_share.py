"""A bad row is set aside, a broken deploy is not: more than a share of a full window stops it."""

from __future__ import annotations

from consumer.share import BadShare


def test_before_the_window_is_full_nothing_is_too_much() -> None:
    """The first row of a new topic may well be a bad one."""
    share = BadShare(0.1, 1000)
    assert share.exceeded(1, 1) == ""
    assert share.exceeded(999, 999) == ""
    assert share.exceeded(1000, 101) != ""


def test_just_the_share_is_not_too_much() -> None:
    share = BadShare(0.1, 1000)
    assert share.exceeded(1000, 100) == ""
    assert share.exceeded(1000, 101) == (
        "101 of the last 1000 events cannot be inserted, more than 10%"
    )


def test_batches_count_together() -> None:
    share = BadShare(0.1, 1000)
    share.add(600, 60)
    assert share.exceeded(399, 100) == ""
    assert share.exceeded(400, 40) == ""
    assert share.exceeded(400, 41).startswith("101 of the last 1000")


def test_good_batches_make_room_for_bad_rows() -> None:
    share = BadShare(0.1, 1000)
    share.add(900, 0)
    assert share.exceeded(100, 100) == ""
    assert share.exceeded(100, 101) != ""


def test_old_batches_leave_the_window_once_the_newer_ones_fill_it() -> None:
    share = BadShare(0.1, 1000)
    share.add(500, 500)
    share.add(600, 0)  # 600 alone do not fill it: the first one stays
    assert share.exceeded(0, 0).startswith("500 of the last 1100")
    share.add(400, 0)  # now these 1000 do
    assert share.exceeded(0, 0) == ""
    assert share.exceeded(100, 110) == ""
    assert share.exceeded(100, 111).startswith("111 of the last 1100")


def test_a_share_of_nothing_stops_at_the_first_bad_row_of_a_full_window() -> None:
    share = BadShare(0.0, 10)
    assert share.exceeded(10, 0) == ""
    assert share.exceeded(10, 1) != ""


def test_a_share_of_everything_never_stops() -> None:
    assert BadShare(1.0, 10).exceeded(10, 10) == ""


def test_what_has_begun_is_not_hidden_by_good_batches_before_it() -> None:
    share = BadShare(0.1, 1000)
    share.add(50_000, 0)
    assert share.exceeded(50_000, 10_000).startswith("10000 of the last 50000")
    assert share.exceeded(900, 900) == "", "no window yet without the good ones"
    share.add(900, 900)
    assert share.exceeded(900, 900).startswith("1800 of the last 1800")


def test_no_more_batches_are_kept_than_the_window_needs() -> None:
    share = BadShare(0.1, 1000)
    for _ in range(100):
        share.add(400, 0)
        share.add(0, 0)
        assert sum(rows for rows, _ in list(share._batches)[1:]) < 1000
    share.add(1000, 0)
    assert list(share._batches) == [(1000, 0)]
