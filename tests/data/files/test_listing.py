"""Lists of images: their columns, delimiters, splits, and what is refused."""

import json

import pytest

from mixbench.data.files.listing import read_list
from mixbench.errors import UserError


@pytest.fixture
def written(tmp_path):
    def write(text, name="list.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.png,ant\nb c.png,bee\n",
        "path;label\r\na.png;ant\r\nb c.png;bee\r\n",
        "path\tlabel\na.png\tant\nb c.png\tbee",
        "Filename | Class \n a.png | ant \n\n b c.png | bee\n",
        'label,path\n"ant",a.png\nbee,"b c.png"\n',
        "a.png,ant\nb c.png,bee\n",
    ],
)
def test_delimiters_orders_and_names_of_columns(written, text):
    for encoding in ("utf-8", "utf-8-sig"):
        found = read_list(written(text, encoding=encoding))
        assert found.names == ["a.png", "b c.png"]
        assert found.labels == ["ant", "bee"]
        assert found.splits is None
        assert found.classes == ["ant", "bee"]


def test_lines_of_json_with_names_of_hugging_face(written):
    rows = [{"file_name": "a.png", "label": 1}, {"file_name": "b.png", "label": 0, "note": "x"}]
    found = read_list(written("\n".join(map(json.dumps, rows)), "metadata.jsonl"))
    assert (found.names, found.labels) == (["a.png", "b.png"], ["1", "0"])
    assert any("note" in notice for notice in found.notices)


def test_numbers_are_classes_in_their_order_however_they_are_spelt(written):
    text = "path,label\na.png,10\nb.png,2.0\nc.png,02\n"
    found = read_list(written(text))
    assert found.labels == ["10", "2", "2"]
    assert found.classes == ["2", "10"]
    assert read_list(written(text + "d.png,1.5\n")).classes == ["02", "1.5", "10", "2.0"]


def test_words_for_splits(written):
    words = ["train", "Training", "valid", "dev", "VAL", "test"]
    lines = "".join(f"{row}.png,ant,{word}\n" for row, word in enumerate(words))
    found = read_list(written("path,label,split\n" + lines))
    assert found.splits == ["train", "train", *["validation"] * 3, "test"]


def test_a_line_that_stands_twice_is_counted(written):
    found = read_list(written("path,label\na.png,ant\na.png,ant\nb.png,bee\n"))
    assert found.names == ["a.png", "b.png"]
    assert found.repeated == 1


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("", "names no image|cannot be told apart", ""),
        ("path,label\n", "names no image", ""),
        ("id,species\n1,ant\n", "no column path and label; found id, species", ""),
        ("path,species\na.png,ant\n", "no column label", ""),
        ("a.png ant\n", "columns of the list cannot be told apart", ""),
        ("path,label\na.png,ant\nb.png\n", "line 3 has 1 column in place of 2", ":3"),
        ("path,label\na.png,\nb.png,bee\n", "1 of 2 lines have no label; the first: line 2", ":2"),
        ("path,label\n,ant\nb.png,bee\n", "1 of 2 lines have no path", ":2"),
        ("path,label\na.png,ant\na.png,bee\n", "a.png has two labels, ant and bee", ":3"),
        (
            "path,label,split\na.png,ant,train\na.png,ant,test\n",
            "a.png has two splits, train and test",
            ":3",
        ),
        ("path,label,split\na.png,ant,maybe\n", "unknown splits: maybe", ""),
        ("path,label,split\na.png,ant,\n", "no split", ":2"),
        ('path,label\n"a.png,ant\n', "not a CSV file", ""),
    ],
)
def test_what_a_list_cannot_be_is_refused_with_its_line(written, text, what, where):
    path = written(text)
    with pytest.raises(UserError, match=what) as caught:
        read_list(path)
    assert caught.value.where == f"{path}{where}"
    assert caught.value.todo


def test_text_that_is_no_utf8_and_json_that_is_none(written):
    with pytest.raises(UserError, match="not UTF-8"):
        read_list(written("path,label\nä.png,ant\n", encoding="latin-1"))
    for text in ('{"file_name": "a.png", "label": 1}\n{', "[1]\n", "[" * 10**5):
        with pytest.raises(UserError, match=r"line [12] is no"):
            read_list(written(text, "metadata.jsonl"))


def test_a_list_without_labels_can_be_none(written):
    assert read_list(written("file_name,text\na.png,an ant\n"), labelled=False) is None
