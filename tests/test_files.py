import json
import os

import pytest

from mixbench.files import MAX_DEPTH, read_bytes, read_json, read_text, write_bytes


# A pipe must be refused: opened plainly, it would wait for a writer for ever.
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pipe", "a pipe stands in place of a file"),
        ("folder", "a folder stands in place of a file"),
        ("device", "a device stands in place of a file"),
        ("dangling link", "No such file"),
        ("large", "more than 1,073,741,824 bytes"),
    ],
)
def test_what_is_no_regular_file_is_an_oserror_and_no_wait(tmp_path, kind, words):
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "gone.png")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(OSError, match=words):
        read_bytes(path, 1 << 30)


def test_a_regular_file_is_read_through_a_link(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_bytes(tmp_path / "b", None) == b"a"


def test_a_large_file_is_not_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_bytes(path, limit=4)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(path) == "{}"
    assert read_json(path) == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "deeply nested"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deeply nested"),
        ('{"a":' * 40 + "1" + "}" * 40, "deeply nested"),
        ('{"a": 1, "a": 2}', "a key appears twice"),
        ('{"a": [1, 1' + "0" * 400 + "]}", "beyond 64 bits"),
        ("9" * 5000, "digits"),
        (r'["\ud800"]', "no Unicode"),
        (r'{"\udfff": 1}', "no Unicode"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
    ids=lambda text: text[:20],
)
def test_json_that_is_more_than_plain_values_is_refused(tmp_path, text, reason):
    path = tmp_path / "file"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="utf-8"):
        read_json(path)


def test_plain_json_comes_back(tmp_path):
    value = {"a": [1, -(1 << 63), 0.5, True, None, "é"], "b": {"c": float("inf")}}
    path = tmp_path / "file"
    path.write_text(json.dumps(value))
    assert read_json(path) == value
    path.write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    read_json(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_reader_sees_the_old_file_or_the_new_one_never_a_mixture(tmp_path):
    path = tmp_path / "file"
    path.write_text("old and whole")
    with path.open() as reader:
        write_bytes(path, lambda file: file.write(b"new"))
        assert reader.read() == "old and whole"
    assert path.read_text() == "new"
