"""Topic filters: which overlap, held to a slow twin that tries every topic."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from monitor.topics import disjoint, filters_of, matcher, overlap

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


@given(st.lists(filters, min_size=1, max_size=4))
def test_disjoint_filters_match_at_least_the_same_and_nothing_twice(
    given_filters: list[str],
) -> None:
    found = disjoint(given_filters)
    for topic in TOPICS:
        wanted = any(topic_matches_sub(each, topic) for each in given_filters)
        assert bool(matcher(given_filters).fullmatch(topic.encode())) is wanted
        matching = sum(topic_matches_sub(each, topic) for each in found)
        assert wanted <= matching <= 1


@given(filters)
def test_all_filters_of_a_topic_are_found(one: str) -> None:
    for topic in TOPICS:
        assert (one in filters_of(topic)) is topic_matches_sub(one, topic)
