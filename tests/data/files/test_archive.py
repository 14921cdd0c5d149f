import io
import stat
import tarfile
import zipfile

import pytest

from mixbench.data.files.archive import MAX_RATIO, open_files
from mixbench.errors import UserError


def write_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", ["folder", "zip", "tar", "tgz", "tar.xz"])
def test_all_kinds_of_places_give_the_same_files(tmp_path, kind):
    content = {"top/a.txt": b"first\n\n second\n", "top/deep/b.bin": bytes(range(256)) * 9}
    place = tmp_path / f"x.{kind}"
    if kind == "folder":
        for name, value in content.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(value)
    elif kind == "zip":
        write_zip(place, content.items())
    else:
        modes = {"tar": "w", "tgz": "w:gz", "tar.xz": "w:xz"}
        write_tar(place, content.items(), modes[kind])
    files = open_files(place)
    assert files.names == sorted(content)
    assert {name: files.read(name) for name in files.names} == content
    assert files.text("top/a.txt") == ["first", "second"]
    assert files.prefix("deep/b.bin") == "top/"
    assert files.prefix("c") is None
    with pytest.raises(UserError, match="top/c is missing"):
        files.read("top/c")
    assert [path.name for path in tmp_path.iterdir()] == [place.name]  # nothing is unpacked


# FAULTS row 63.
@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:/evil"])
@pytest.mark.parametrize("kind", ["zip", "tgz", "tar"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, kind, name):
    members = [("good", b"1"), (name, b"2")]
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        write_zip(path, members)
    else:
        write_tar(path, members, "w:gz" if kind == "tgz" else "w")
    with pytest.raises(UserError, match=r"not safe to unpack.*leads out"):
        open_files(path)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


# FAULTS row 63.
@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = write_tar(tmp_path / "x.tar.gz", [(special("a", kind, "/etc/passwd"), b"")])
    with pytest.raises(UserError, match="a is a link or a device"):
        open_files(path)


def test_a_link_in_a_zip_is_refused(tmp_path):
    link = zipfile.ZipInfo("a")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = write_zip(tmp_path / "x.zip", [(link, "/etc/passwd")])
    with pytest.raises(UserError, match="a is a link or a device"):
        open_files(path)


# FAULTS row 63.
@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_an_archive_that_unpacks_to_an_absurd_size_is_refused_unread(tmp_path, kind):
    zeros = b"\0" * (MAX_RATIO * (1 << 16) + 1)
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        write_zip(path, [("zeros", zeros)])
    else:
        write_tar(path, [("zeros", zeros)])
    assert path.stat().st_size < 1 << 16
    with pytest.raises(UserError, match=r"unpacks from .* to .*, more than 200 times its size"):
        open_files(path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
def test_a_broken_archive_is_refused_by_name(tmp_path, kind):
    path = tmp_path / f"broken.{kind}"
    path.write_bytes(b"<html>not found</html>" * 40)
    with pytest.raises(UserError, match="the archive cannot be read") as error:
        open_files(path)
    assert f"broken.{kind}" in str(error.value)


def test_a_truncated_archive_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar.gz", [("a", bytes(range(256)) * 4000)])
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match="the archive cannot be read"):
        open_files(path)


def test_a_list_or_a_link_cannot_lead_out_of_a_folder(tmp_path):
    (tmp_path / "secret").write_text("x")
    (tmp_path / "set" / "inner").mkdir(parents=True)
    (tmp_path / "set" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "set" / "own").write_text("y")
    (tmp_path / "set" / "inner" / "back").symlink_to(tmp_path / "set" / "own")
    files = open_files(tmp_path / "set")
    with pytest.raises(UserError, match="leads out"):
        files.read("../secret")
    with pytest.raises(UserError, match="leads out"):
        files.read(str(tmp_path / "secret"))
    with pytest.raises(UserError, match="link is a link that leads out"):
        files.read("link")
    assert files.read("inner/back") == b"y"
