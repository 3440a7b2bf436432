from benchmarks.builds import compared


def test_builds_are_compared_turn_by_turn():
    """The ratio is the median of the turns' ratios, so that a machine that slows down for a turn counts once."""
    (row,) = compared({"pair": [0.1, 0.4, 0.09]}, {"pair": [0.05, 0.1, 0.03]}, scale=1000)
    assert row.work == "pair"
    assert (row.before, row.now) == (100, 50)
    assert (row.least, row.ratio, row.most) == (2, 3, 4)
