"""What the guides tell people to type is typed here."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from making import photograph
from paths import ROOT

from mixbench import cli
from mixbench.config.schema import DataInfo, NetConfig
from mixbench.methods import METHODS
from mixbench.testing.contract import check_method
from mixbench.testing.mixers import check_mixer
from mixbench.testing.samples import sample_batch, sample_method

SMALL = ["data.limit=64", "net.width=4", "epochs=1", "batch_size=16", "wandb.mode=disabled"]
SMALL += ["eval.suites=[calibration]"]
OWN = {"tent_mix": "TentMix", "last_mix": "LastMix", "learned_mix": "LearnedMix"}


def blocks(page, language="python"):
    text = (ROOT / "docs" / f"{page}.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def write_modules(page):
    """Blocks that begin with the name of a file become that file."""
    for block in blocks(page):
        if match := re.match(r"# (\w+\.py)\n", block):
            Path(match[1]).write_text(block)


@pytest.fixture
def workplace(tmp_path, monkeypatch, runs):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_the_page_on_plain_pytorch_runs_from_top_to_bottom(workplace, capsys):
    torch.manual_seed(0)
    scope, before = {}, None
    for block in blocks("plain-pytorch"):
        exec(block, scope)
        if "mixer" in scope:
            before = scope["mixer"].query.weight.grad
    assert before is not None
    assert bool((before != 0).any())
    assert float(capsys.readouterr().out.partition("(")[2].partition(",")[0].rstrip(")\n")) >= 0


def test_the_page_has_every_method_in_three_lines_or_says_why_not():
    page = (ROOT / "docs" / "plain-pytorch.md").read_text()
    section = page.partition("## Every method")[2].partition("\n## ")[0]
    code, prose = "".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)), section
    parts = {part.split("\n")[0]: part for part in re.split(r"(?m)^# ", code)[1:]}
    names = [re.split(r"\W", title)[0] for title in parts]
    assert all(part.strip().count("\n") <= 3 for part in parts.values())
    told = {name for name in METHODS.table if f"`{name}`" in prose}
    assert sorted([*names, *told]) == sorted(METHODS.table)


def test_the_mixer_of_the_page_is_found_out(workplace):
    write_modules("plain-pytorch")
    scope = {}
    exec(Path("my_mixers.py").read_text(), scope)
    errors = [found.error for found in check_mixer(scope["cutmix"]) if "label" in found.error]
    page = (ROOT / "docs" / "plain-pytorch.md").read_text()
    assert errors
    assert errors[0] in page


@pytest.mark.parametrize("name", OWN)
def test_methods_of_the_page_take_a_step_and_draw_a_picture(workplace, name):
    write_modules("own-method")
    scope = {}
    exec(Path(f"{name}.py").read_text(), scope)
    method = sample_method(scope[OWN[name]])
    x, targets = sample_batch()
    logits, mixed = method.predict(method.mix(x, targets))
    terms = method.loss(logits, mixed)
    (sum(terms.values()) if isinstance(terms, dict) else terms).backward()
    assert all(p.grad is not None for group in method.param_groups() for p in group["params"])
    with torch.no_grad():
        (sheet,) = method.picture(x, targets, method.mix(x, targets))
    assert len(sheet.drawn()) >= 4


@pytest.mark.slow  # each trains
@pytest.mark.parametrize("name", OWN)
def test_methods_of_the_page_keep_all_rules(workplace, name):
    write_modules("own-method")
    assert [found for found in check_method(f"{name}:{OWN[name]}") if found.error] == []


def test_the_network_of_the_page_can_be_cut(workplace):
    write_modules("own-method")
    scope = {}
    exec(Path("small_net.py").read_text(), scope)
    net = scope["small_net"](NetConfig(width=4), DataInfo(5, 16, 16))
    x = torch.rand(2, 3, 16, 16)
    assert net(x).shape == (2, 5)
    halves = net.head(net.forward_stages(net.forward_stages(x, stop=1), start=1))
    torch.testing.assert_close(halves, net(x))


@pytest.mark.slow  # networks are traced
def test_the_page_on_what_comes_after_training_is_carried_out(workplace, runs, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    assert cli.main(["run", "data=digits", "method=mixup", *SMALL]) == 0
    (folder,) = runs.iterdir()
    Path("images").mkdir()
    for index in range(3):
        Path(f"images/{index}.png").write_bytes(photograph(index, 20 + index, 30))
    Path("photo.png").write_bytes(photograph(9))
    page = (ROOT / "docs" / "after-training.md").read_text()
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", page, re.DOTALL):
        block = block.replace("runs/ID", str(folder))
        if language == "python":
            exec(block, {})
            continue
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            assert cli.main(words[1:]) == 0, (words, capsys.readouterr().err)
    assert len(Path("found.csv").read_text().splitlines()) == 5
