"""Tags in SQL comments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe_rules.tags import MAX_TAGS, MAX_VALUE, merge, parse


@pytest.mark.parametrize(
    ("comment", "tags"),
    [
        ("/*route='%2Fpolls%201',framework='django%3A5'*/", {"route": "/polls 1", "framework": "django:5"}),
        ("/* a = 'b' , c='d' */", {"a": "b", "c": "d"}),
        ("a='it\\'s'", {"a": "it's"}),
        ("a='%27'", {"a": "'"}),
        ("na%20me='x'", {"na me": "x"}),
        ("-- a='b'", {"a": "b"}),
        (
            "/*application:Shop,controller:posts,action:index*/",
            {"application": "Shop", "controller": "posts", "action": "index"},
        ),
        ("/*line:/app/x.rb:5:in*/", {"line": "/app/x.rb:5:in"}),
        ("/* just words */", {}),
        ("/*+ SeqScan(t) */", {}),
        ("/* TODO: see the issue, it's open */", {}),
        ("/*a='b' and more*/", {}),
        ("/*a='cut", {}),
        ("", {}),
    ],
)
def test_comment(comment: str, tags: dict[str, str]) -> None:
    assert parse(comment) == tags


def test_number_and_length_are_bounded() -> None:
    assert len(parse(",".join(f"k{number}='v'" for number in range(100)))) == MAX_TAGS
    assert len(parse(f"k='{'v' * 2000}'")["k"]) == MAX_VALUE


def test_the_last_of_equal_keys_counts() -> None:
    assert merge(["/*a='1',b='2'*/", "/*a='3'*/", "/* no tags */"]) == {"a": "3", "b": "2"}


@given(st.text(max_size=60) | st.text(alphabet="ab='\\,:% /*-", max_size=60))
def test_parse_never_raises(text: str) -> None:
    for key, value in parse(text).items():
        assert isinstance(key, str)
        assert isinstance(value, str)
