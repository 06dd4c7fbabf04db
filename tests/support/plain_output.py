"""What a command may write where the output is no terminal: to a pipe or a file."""

import unicodedata


def assert_plain(said):
    """No control character but the ends of lines, no empty note, and no two empty lines."""
    for text in said:
        control = {c for c in text if unicodedata.category(c) == "Cc"} - {"\n"}
        assert not control, f"{control} in {text!r}"
    assert "" not in said.err.splitlines(), said.err
    lines = said.out.splitlines()
    assert "" not in lines[:1] + lines[-1:] and "\n\n\n" not in said.out, said.out
