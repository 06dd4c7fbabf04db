"""JSON that is damaged, missing or nested without end."""

import pytest

from vilta.json_text import json_object, parse_json

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
