import gzip
import os

import pytest
import torch

from mixbench.data.fixations import read_fixations
from mixbench.errors import UserError

LINES = "1,7,200,100,50,25,300,200,100,10\n2,7,200,100,0,0,5\n1,9,10,10\n"


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_places_are_shares_of_the_image_and_people_are_joined(tmp_path, ending):
    path = tmp_path / f"fixations{ending}"
    opened = gzip.open if ending.endswith("gz") else open
    with opened(path, "wt") as file:
        file.write(LINES)
    found = read_fixations(path)
    assert list(found) == [7, 9]
    expected = torch.tensor([[0.25, 0.25, 300], [1, 1, 10], [0, 0, 5]], dtype=torch.float64)
    torch.testing.assert_close(found[7], expected)
    assert found[9].shape == (0, 3)


@pytest.mark.parametrize(
    "line",
    [
        "1,7,200",
        "1,7,200,100,50,25",
        "1,bird,200,100,50,25,300",
        "1,7,0,100,50,25,300",
        "1,7,200,100,50,250,300",
        "1,7,200,100,-1,25,300",
        "1,7,200,100,50,25,nan",
        "1,7,200,100,50,25,inf",
    ],
)
def test_a_line_that_is_no_scan_path_is_named(tmp_path, line):
    path = tmp_path / "fixations.csv"
    path.write_text(LINES + line + "\n")
    with pytest.raises(UserError, match="not a scan path") as caught:
        read_fixations(path)
    assert caught.value.where == f"{path}:4"
    assert "x, y, ms" in caught.value.todo


def test_a_missing_or_damaged_file_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_fixations(tmp_path / "none.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="a pipe stands in place of a file"):
        read_fixations(tmp_path / "pipe.csv")
    (tmp_path / "half.csv.gz").write_bytes(gzip.compress(LINES.encode() * 99)[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        read_fixations(tmp_path / "half.csv.gz")
    (tmp_path / "plain.csv.gz").write_text(LINES)
    with pytest.raises(UserError, match="cannot be read"):
        read_fixations(tmp_path / "plain.csv.gz")
