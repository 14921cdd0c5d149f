import os
import pickle
import pickletools

import numpy as np
import pytest

from mixbench.data.files.unpickle import UnsafePickleError, unpickle_arrays


class Calls:
    """Runs a command where it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


# A dict of byte strings as Python 2 writes it: {'data': array([[1, 2], [3, 4]]), 'labels': [6]}.
PYTHON2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
    b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87R"
    b"q\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x02\x03\xfctb"
    b"U\x06labels]q\x08K\x06au."
)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_bytes_survive_every_protocol(protocol):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 12), dtype=np.uint8)
    stored = {b"data": pixels, "labels": [1, 2, 3], "batch_label": b"x", "F": pixels.T}
    if protocol == 5:  # arrays as buffers, which no original archive holds
        with pytest.raises(UnsafePickleError, match="_frombuffer"):
            unpickle_arrays(pickle.dumps(stored, protocol))
        return
    found = unpickle_arrays(pickle.dumps(stored, protocol))
    assert np.array_equal(found["data"], pixels)
    assert np.array_equal(found["F"], pixels.T)
    assert found["labels"] == [1, 2, 3]


def test_a_pickle_of_python_2_is_read():
    pickletools.dis(PYTHON2, out=open(os.devnull, "w"))  # noqa: SIM115
    found = unpickle_arrays(PYTHON2)
    assert found["data"].tolist() == [[1, 2], [3, 252]]
    assert found["labels"] == [6]


@pytest.mark.parametrize(
    "hostile",
    [
        Calls(os.system, "touch hacked"),
        Calls(eval, "open('hacked', 'w')"),
        Calls(getattr, "text", "upper"),
        Calls(np.load, "x"),
        Calls(np.dtype, "O"),
        np.array([Calls(os.system, "touch hacked")], dtype=object),
        np.arange(3.0),
    ],
)
def test_whatever_else_a_pickle_names_is_refused_and_not_run(hostile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickleError):
        unpickle_arrays(pickle.dumps({"data": hostile}, 2))
    assert not list(tmp_path.iterdir())


def test_a_broken_or_foreign_pickle_is_refused():
    whole = pickle.dumps({"data": np.zeros((2, 3), np.uint8)}, 2)
    for raw in (b"", b"no pickle", whole[:-20], pickle.dumps([1, 2])):
        with pytest.raises(UnsafePickleError):
            unpickle_arrays(raw)


def test_an_array_must_have_the_bytes_that_its_shape_needs():
    lying = PYTHON2.replace(b"K\x02K\x02\x86", b"K\x02K\x03\x86")
    with pytest.raises(UnsafePickleError, match="4 bytes for an array of shape"):
        unpickle_arrays(lying)
