"""JSON that is damaged, missing or nested without end, and numbers that it lacks."""

import json
import math

import pytest

from vilta.json_text import json_object, parse_json, with_nan, without_nan

DEEP = "[" * 100_000


def test_what_json_says_is_returned():
    assert parse_json('{"a": [1, null]}') == parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "{", DEEP, b"\xff\xfe\xfa"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize("content", [None, "", "[1]", "3", DEEP, '{"a"'])
def test_a_record_that_cannot_be_read_is_empty(tmp_path, content):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    assert json_object(tmp_path / "x.json") == {}
    assert json_object(tmp_path) == {}


def test_a_record_is_read(tmp_path):
    (tmp_path / "x.json").write_text('{"a": 1}')
    assert json_object(tmp_path / "x.json") == {"a": 1}


def test_numbers_that_json_lacks_are_null_and_nan_again():
    kept = without_nan({"a": {"b": math.nan}, "c": [math.inf, 1.5], 3: (True, "x")})
    assert kept == {"a": {"b": None}, "c": [None, 1.5], "3": [True, "x"]}
    json.dumps(kept, allow_nan=False)
    again = with_nan(kept)
    assert math.isnan(again["a"]["b"]) and again["3"] == [True, "x"]
