"""What a run saved is read whole or refused."""

import pickle
import zipfile

import pytest
import torch

from mixbench.errors import UserError
from mixbench.records.checkpoints import LAST, PREVIOUS, read_checkpoint, read_plain, recovery_steps


def content() -> dict:
    state = {f"net.{name}": torch.arange(9.0) + place for place, name in enumerate("abc")}
    facts = {"format": 1, "config": {}, "info": {}, "data": "", "id": "x", "epoch": 1, "batch": 0}
    facts |= {"curves": {}}
    return {
        "state_dict": state,
        "optimizer_states": [],
        "lr_schedulers": [],
        "loops": {},
        "mixbench": facts,
        "mixbench_step": 3,
    }


@pytest.fixture
def path(tmp_path):
    target = tmp_path / LAST
    torch.save(content(), target)
    return target


def same(found: dict) -> bool:
    wanted = content()
    states = [value.pop("state_dict") for value in (found, wanted)]
    alike = all(torch.equal(states[0][name], value) for name, value in states[1].items())
    return found == wanted and list(states[0]) == list(states[1]) and alike


def test_every_flipped_bit_of_a_checkpoint_is_refused_or_without_effect(path):
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            found = read_checkpoint(path)
        except UserError as error:  # anything else would be a traceback
            refused += LAST in error.what and "\n" not in error.what
            continue
        assert same(found), place
    assert refused > len(whole) // 9


def test_a_tensor_that_is_marked_as_a_folder_is_refused(path):
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        place = archive.start_dir
        for member in archive.infolist():
            if "/data/" in member.filename:
                break
            extra = len(member.extra)
            place += 46 + len(member.filename) + extra + len(member.comment)
    changed = bytearray(whole)
    changed[place + 38] ^= 0x10
    path.write_bytes(changed)
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)


def test_the_way_back_names_the_file_that_is_there(path):
    assert recovery_steps(path) == f"rm {path} to start from step 0"
    path.with_name(PREVIOUS).touch()
    assert recovery_steps(path).startswith(f"mv {path.with_name(PREVIOUS)} {path} ")


def test_a_file_without_checksums_is_read_and_said_to_be_so(tmp_path, caplog):
    path = tmp_path / "old.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    with caplog.at_level("INFO", "mixbench"):
        found = read_plain(path, "")
    assert torch.equal(found["a"], torch.ones(3))
    assert "old.pth has no checksums" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mixbench", 3),
        ("state_dict", {"a": 1}),
        ("state_dict", [1]),
        ("mixbench_step", "3"),
    ],
)
def test_a_checkpoint_of_other_types_is_refused(path, key, value):
    torch.save(content() | {key: value}, path)
    with pytest.raises(UserError, match=key):
        read_checkpoint(path)


def test_a_pickle_that_breaks_itself_is_refused(tmp_path):
    path = tmp_path / LAST
    path.write_bytes(pickle.dumps(3)[:-1] + b"R.")  # calls a number
    with pytest.raises(UserError, match=LAST):
        read_plain(path, "")
