import inspect
import sys

import pytest

from mixbench.data.files.tree import files_below, folder_entries, is_hidden
from mixbench.errors import UserError


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


@pytest.mark.parametrize(
    "name",
    ["._0.png", "ant/.ipynb_checkpoints/0.png", "__MACOSX/ant/0.png", "ant/Thumbs.db",
     "ant/thumbs.DB", "ant/desktop.ini", "@eaDir/0.png/x.jpg", ".DS_Store"],
)  # fmt: skip
def test_files_of_file_managers_and_archivers_are_hidden(name):
    assert is_hidden(name)


@pytest.mark.parametrize("name", ["ant/0.png", "./ant/0.png", "a.b/c..png", "../x.png", "thumbs/0"])
def test_files_of_people_are_not(name):
    assert not is_hidden(name)


def test_files_are_listed_in_the_order_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    write(tmp_path, *(f"ant/{name}" for name in
          ("b.png", "a-b/1.png", "a/2.png", "a/x/0.png", "a.png", "a/10.png")))  # fmt: skip
    (tmp_path / "linked").mkdir()
    write(tmp_path, "linked/c.png")
    (tmp_path / "ant/z").symlink_to(tmp_path / "linked")
    theirs = [path for path, _ in ImageFolder(tmp_path).imgs if "/ant/" in path]
    found, circles = files_below(tmp_path / "ant")
    assert [str(tmp_path / "ant" / name) for name in found] == theirs
    assert len(found) == 7
    assert not circles


def test_a_link_to_a_folder_around_it_is_counted_and_not_followed(tmp_path):
    write(tmp_path, "ant/day/0.png")
    (tmp_path / "ant/day/again").symlink_to(tmp_path / "ant")
    (tmp_path / "ant/itself").symlink_to(tmp_path / "ant/itself")
    assert files_below(tmp_path) == (["ant/itself", "ant/day/0.png"], 1)


def test_folders_may_lie_deeper_than_python_recurses(tmp_path):
    write(tmp_path, "a/" * 300 + "0.png")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        assert files_below(tmp_path) == (["a/" * 300 + "0.png"], 0)
    finally:
        sys.setrecursionlimit(limit)


def test_a_hidden_folder_counts_once_and_is_not_entered(tmp_path):
    write(tmp_path, "0.png", ".git/a", ".git/b/c")
    (tmp_path / ".git" / "b").chmod(0)
    try:
        assert files_below(tmp_path) == ([".git", "0.png"], 0)
    finally:
        (tmp_path / ".git" / "b").chmod(0o755)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read") as error:
        folder_entries(tmp_path / "missing")
    assert str(tmp_path / "missing") in str(error.value)
