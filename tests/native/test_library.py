"""The C code of AugMix gives every bit that torch gives, or is not used."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Generator
from torch.utils.data import DataLoader

import mixbench.functional as mf
from mixbench.errors import NATIVE
from mixbench.native import library

pytestmark = pytest.mark.skipif(bool(library.missing_reason()), reason=library.missing_reason())


@pytest.fixture
def both(monkeypatch):
    """What a function gives by the C code, which must have taken it, and by torch."""
    taken = []

    def call(name, *arguments):
        taken.append(library.call(name, *arguments))
        return taken[-1]

    for name in ("image_ops", "augmix"):
        monkeypatch.setattr(sys.modules[f"mixbench.functional.{name}"], "call", call)

    def compute(function):
        taken.clear()
        found = function()
        assert taken
        assert all(taken)
        with monkeypatch.context() as patch:
            patch.setenv(NATIVE, "0")
            taken.clear()
            expected = function()
            assert not taken
        return found, expected

    return compute


def pictures(channels, height, width, generator):
    """Noise, little contrast, one value, and all values in order."""
    shape = (4, channels, height, width)
    x = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    x[1] = x[1] // 3 + 40
    x[2] = 77
    x[3] = (torch.arange(height * width).view(height, width) % 256).to(torch.uint8)
    return x


def operations(place, generator, rows=24):
    """One operation at levels that include the ends."""
    levels = 10 * torch.rand(rows, 1, generator=generator)
    levels[:8] = torch.tensor([0.0, 10.0]).repeat(4)[:, None]
    signs = 1 - 2 * torch.randint(2, (rows, 1), generator=generator)
    return torch.full((rows, 1), place), levels, signs


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", mf.OPERATIONS)
def test_an_operation_gives_the_bits_of_torch_at_any_size_and_level(both, name, channels):
    generator = Generator().manual_seed(channels)
    for height, width in ((32, 32), (1, 1), (2, 9), (17, 5), (33, 70)):
        x = pictures(channels, height, width, generator)
        ops, levels, signs = operations(mf.OPERATIONS.index(name), generator)
        values = mf.op_values(ops, levels, signs, height, width)
        assert torch.equal(*both(lambda: mf.apply_ops(x, ops, values)))  # noqa: B023


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"severity": 10.0, "all_ops": True, "depth": 5}])
def test_views_have_the_bits_of_torch(both, settings, channels):
    generator = Generator().manual_seed(0)
    x = pictures(channels, 32, 31, generator)
    chains = mf.draw_chains(96, generator=generator, **settings)
    assert torch.equal(*both(lambda: mf.augmix(x, chains=chains)))
    assert torch.equal(*both(lambda: mf.augmix(x / 255, chains=chains)))


def test_the_order_in_memory_does_not_matter(both):
    generator = Generator().manual_seed(3)
    whole = torch.randint(0, 256, (20, 40, 8, 3), generator=generator, dtype=torch.uint8)
    x = whole.permute(2, 3, 0, 1)[::2, :, ::2]
    chains = mf.draw_chains(8, generator=generator)
    turned = mf.Chains(*(part.mT.contiguous().mT for part in chains[:4]), chains.m)
    assert not x.is_contiguous()
    assert not turned.weights.is_contiguous()
    found, expected = both(lambda: mf.augmix(x, chains=turned))
    assert torch.equal(found, expected)
    assert torch.equal(found, mf.augmix(x.contiguous(), chains=chains))
    made = mf.chain_images(x, chains).contiguous()
    assert torch.equal(*both(lambda: mf.mix_chains(x, made, chains)))


class Wrapped(torch.Tensor):
    """A tensor that may hold its values elsewhere."""


def test_what_the_c_code_does_not_know_is_left_to_torch():
    x = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    one = torch.ones(2, 1, dtype=torch.int64)
    for place, value in ((13, 0.0), (3, 31.0), (7, 9.0), (8, -9.0)):
        with pytest.raises((ValueError, IndexError, RuntimeError)):
            mf.apply_ops(x, place * one, value * one.double())
    chains = mf.draw_chains(2, generator=Generator().manual_seed(0))
    wide = chains._replace(weights=chains.weights.double(), m=chains.m.double())
    assert mf.augmix(x, chains=wide).dtype == torch.float64
    assert library.serves(x)
    assert not library.serves(x.as_subclass(Wrapped))
    for images in (x[:0], x[[0, 1, 0]]):
        with pytest.raises(RuntimeError):
            mf.mix_chains(images, mf.chain_images(x, chains), chains)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The empty cache of a process that has not looked for the library yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library._library.cache_clear()
    yield library.cache_folder()
    library._library.cache_clear()


def views():
    generator = Generator().manual_seed(5)
    x = pictures(3, 12, 12, generator)
    return mf.augmix(x, chains=mf.draw_chains(64, severity=10.0, generator=generator))


@pytest.fixture
def expected(monkeypatch):
    """The views that torch makes."""
    with monkeypatch.context() as patch:
        patch.setenv(NATIVE, "0")
        return views()


def test_without_a_compiler_or_with_a_broken_one_views_are_the_same(
    expected, cache, tmp_path, monkeypatch
):
    compiler = tmp_path / "programs" / "cc"
    compiler.parent.mkdir()
    monkeypatch.setenv("PATH", str(compiler.parent))
    for script, reason in (
        (None, "there is no C compiler cc on the PATH"),
        ("echo an error >&2; exit 1", "cc failed: an error"),
        ("exit 0", "No such file"),
        ("while :; do :; done", "cc did not end within 0.1 s"),
    ):
        if script:
            compiler.write_text(f"#!/bin/sh\n{script}\n")
            compiler.chmod(0o755)
        if "while" in (script or ""):
            monkeypatch.setattr(library, "LIMIT_S", 0.1)
        library._library.cache_clear()
        assert reason in library.missing_reason()
        assert torch.equal(views(), expected)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_cache_that_cannot_be_used_is_the_reason_to_go_without(cache, expected):
    cache.parent.write_text("no folder")
    assert "Not a directory" in library.missing_reason()
    assert torch.equal(views(), expected)


def test_a_broken_library_is_built_again(cache, expected, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delenv("XDG_CACHE_HOME")
        built = library._library()
        assert not isinstance(built, str)
    cache.mkdir(parents=True)
    broken = cache / Path(built._name).name
    broken.write_bytes(b"")
    library._library.cache_clear()
    assert torch.equal(views(), expected)
    assert not library.missing_reason()
    assert broken.stat().st_size


class Views:
    """A data set whose items are views, each made in a process that has no library yet."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        assert not library.missing_reason()
        return os.getpid(), views()


def test_processes_that_build_it_at_once_and_threads_agree(cache, expected):
    made = list(DataLoader(Views(), batch_size=None, num_workers=2))  # pyright: ignore
    assert made[0][0] != made[1][0]
    assert [path.suffix for path in cache.iterdir()] == [".so"]
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(lambda _: views(), range(8)))
    for part in (*(part for _, part in made), *parts):
        assert torch.equal(part, expected)
