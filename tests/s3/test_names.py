"""Names in the bucket: one for each key, in the order of the keys, in which no folder is also an object."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlog.errors import ConfigurationError
from dynlog.objects import check_key
from dynlog.storage.s3.names import Names, decode, encode


def is_legal(key: str) -> bool:
    try:
        check_key(key)
    except ConfigurationError:
        return False
    return True


CHARACTERS = st.sampled_from(" !#-./0ab~\u00e9\U0001f600")
SEGMENTS = st.one_of(
    st.text(CHARACTERS, min_size=1, max_size=4),
    st.sampled_from(
        [
            "a.json",
            ".dynlog",
            "x.b",
            "y" * 189 + ".a",
            "w" * 184 + ".a",
            "x" * 188 + "\u00e9",
            " " * 95,
            " " * 96,
            "/",
            "/",
        ]
    ),
    st.integers(185, 395).map(lambda size: "z" * size),
)
KEYS = st.lists(SEGMENTS, min_size=1, max_size=6).map("".join).filter(is_legal)


@settings(max_examples=1500, deadline=None)
@given(KEYS, KEYS)
def test_names_tell_keys_apart_and_sort_as_they_do(one: str, other: str) -> None:
    first, second = encode(one), encode(other)
    assert (decode(first), decode(second)) == (one, other)
    assert (first == second, first < second) == (one == other, one < other)


@settings(max_examples=1500, deadline=None)
@given(KEYS, KEYS)
def test_no_object_is_the_folder_of_another_nor_a_segment_longer_than_a_file_system_takes(one: str, other: str) -> None:
    first, second = encode(one), encode(other)
    assert not second.startswith(f"{first}/")
    assert all(0 < len(segment.encode()) <= 250 for segment in first.split("/"))


@settings(max_examples=500, deadline=None)
@given(KEYS, st.integers(0, 1000))
def test_names_begin_with_what_all_keys_of_a_prefix_have_in_common(key: str, size: int) -> None:
    assert encode(key).startswith(encode(key[:size], whole=False))


@settings(max_examples=500, deadline=None)
@given(KEYS)
def test_the_stores_own_names_are_no_keys(key: str) -> None:
    own = Names("")
    assert not encode(key).startswith((own.own("notes", ""), own.own("uploads", ""), own.own("probes", "")))
    assert decode(f".dynlog/notes/{key}") is None


@pytest.mark.parametrize(
    "key", ["config.json", "llama/model-00001-of-00002.safetensors", "Llama-3.1-8B/tokenizer.json", "v1.0/a/b.tar.gz"]
)
def test_files_with_an_extension_are_their_own_names(key: str) -> None:
    assert encode(key) == key


def test_what_has_no_extension_is_marked() -> None:
    assert [encode(key) for key in ("LICENSE", "a/b", "a b", ".gitattributes", "v.1")] == [
        "LICENSE!", "a/b!", "a!0b!", ".gitattributes!", "v.1!",
    ]  # fmt: skip
