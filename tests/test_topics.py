"""Topic filters: which overlap, held to a slow twin that tries every topic."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from monitor.topics import overlap

LEVELS = ["a", "b", "+"]

filters = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(st.sampled_from(LEVELS), min_size=1, max_size=3),
    st.sampled_from([[], ["#"]]),
)

TOPICS = ["/".join(levels) for depth in range(1, 6) for levels in product("ab", repeat=depth)]
"""Every topic of up to five levels: one more than the longest filter."""


@given(filters, filters)
def test_filters_overlap_if_some_topic_fits_both(one: str, other: str) -> None:
    naive = any(topic_matches_sub(one, x) and topic_matches_sub(other, x) for x in TOPICS)
    assert overlap(one, other) is overlap(other, one) is naive
