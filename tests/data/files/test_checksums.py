"""Checksums of archives."""

import zipfile

import numpy as np
import pytest

from mixbench.data.files.checksums import check_archive, is_archive


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "some.npz"
    np.savez(target, logits=np.arange(6.0), labels=np.arange(3))
    return target


def test_a_whole_archive_passes_compressed_or_not(path, tmp_path):
    check_archive(str(path), stored=True)
    small = tmp_path / "small.npz"
    np.savez_compressed(small, logits=np.zeros(10_000))
    check_archive(small)


def test_every_flipped_bit_is_noticed_or_without_effect(path):
    whole = path.read_bytes()
    with np.load(path) as content:
        expected = {name: content[name] for name in content.files}
    noticed = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            check_archive(path, stored=True)
        except (ValueError, OSError):
            noticed += 1
            continue
        with np.load(path) as content:
            assert sorted(content.files) == sorted(expected), place
            for name, value in expected.items():
                assert np.array_equal(content[name], value), place
    assert noticed > len(whole) // 2


def test_an_archive_that_would_grow_is_refused_where_members_are_stored(path):
    np.savez_compressed(path, logits=np.zeros(100_000))
    with pytest.raises(ValueError, match="larger than the file"):
        check_archive(path, stored=True)


def test_two_members_of_one_name_are_refused(tmp_path):
    path = tmp_path / "twice.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", "second")
    with pytest.raises(ValueError, match="one name"):
        check_archive(path)


def test_an_archive_is_known_by_either_end(path):
    whole = path.read_bytes()
    assert is_archive(path)
    path.write_bytes(b"XX" + whole[2:])
    assert is_archive(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert is_archive(path)
    path.write_bytes(b"XX" + whole[2 : len(whole) // 2])
    assert not is_archive(path)
