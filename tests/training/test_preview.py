from pathlib import Path

import pytest
from PIL import Image

from mixbench import compose
from mixbench.errors import UserError
from mixbench.methods import METHODS
from mixbench.methods.base import Method
from mixbench.pictures.sheet import Label
from mixbench.training import preview
from mixbench.training.preview import PictureForm, Subject, matrix, show


def subjects(names, words, **others):
    return {name: Subject(compose([f"method={name}", *words])) for name in names} | others


def test_a_matrix_shows_all_methods_the_same_pairs_of_other_classes(runs, tiny):
    names = ["erm", "mixup", "cutmix", "bc", "manifoldmixup", "alignmix", "samix", "tdattenmix"]
    sheet = matrix(subjects([*names, "mixup2", "choice"], tiny))
    for own, other in sheet.pairs[:4]:
        (row,) = sheet.rows(own, other)
        assert [panel.title for panel in row] == ["image", "partner", *names, "mixup2", "choice"]
        image, partner = (panel.lines[0].name for panel in row[:2])
        assert image != partner
        for panel in row[3:]:
            classes = {line.name for line in panel.lines if isinstance(line, Label)}
            assert classes == {image, partner}, panel.title
    assert any(text.startswith("samix: Initial weights") for text in sheet.caveats)


def test_methods_that_see_other_images_are_refused(runs, tiny):
    other = Subject(compose(["method=mixup", *tiny, "seed=5"]))
    with pytest.raises(UserError, match="another first batch"):
        matrix(subjects(["cutmix"], tiny, mixup=other))


def test_a_method_that_mixes_no_pairs_is_refused_in_a_matrix(runs, tiny):
    with pytest.raises(UserError, match="moco shows no pairs"):
        matrix(subjects(["mocosamix", "moco"], [*tiny, "task=ssl"]))


class DrawsItself(Method):
    def picture(self, x, targets, mixed):
        return Image.new("RGB", (40, 30), "red")


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_finished_picture_of_a_method_is_written_in_every_format(
    runs, tiny, tmp_path, monkeypatch, suffix
):
    monkeypatch.setitem(METHODS._objects, "mixup", DrawsItself)
    path = tmp_path / f"own.{suffix}"
    show(subjects(["mixup"], tiny), path)
    assert path.stat().st_size > 100
    with pytest.raises(UserError, match="no columns"):
        show(subjects(["mixup"], tiny), path, PictureForm(columns=("image",)))


def test_a_picture_that_is_too_large_for_its_format_is_refused(runs, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(preview.SIDES, "webp", 500)
    with pytest.raises(UserError, match="500 pixels a side"):
        show(subjects(["mixup"], tiny), tmp_path / "mixed.webp")
    assert not list(tmp_path.glob("*mixed*"))


@pytest.mark.parametrize(
    ("name", "form", "words"),
    [
        ("a.txt", PictureForm(), "no suffix of a picture"),
        ("a", PictureForm(), "no suffix of a picture"),
        ("a.png", PictureForm("gif"), "unknown format"),
        ("a.png", PictureForm("svg"), "ends in .png"),
        ("no/such/folder/a.png", PictureForm(), "no such folder"),
        ("a.png", PictureForm(scale=0.0), "scale"),
        ("a.png", PictureForm(scale=1e9), "scale"),
        ("a.png", PictureForm(scale=float("nan")), "scale"),
    ],
)
def test_a_wrong_form_is_refused_before_any_data_is_read(tmp_path, monkeypatch, name, form, words):
    monkeypatch.setattr(preview, "first_batch", None)
    with pytest.raises(UserError, match=words):
        show({"": Subject(compose("method=mixup"))}, tmp_path / name, form)


def test_svg_without_matplotlib_is_refused_before_any_data_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "first_batch", None)
    monkeypatch.setattr("mixbench.pictures.vector.plot_font", lambda: "")
    with pytest.raises(UserError, match="matplotlib"):
        show({"": Subject(compose("method=mixup"))}, tmp_path / "a.svg")


def test_a_format_may_be_named_for_a_file_of_another_ending(runs, tiny, tmp_path):
    path = tmp_path / "figure"
    show(subjects(["mixup"], tiny), path, PictureForm("png"))
    assert Path(path).read_bytes().startswith(b"\x89PNG")
    show(subjects(["mixup"], tiny), tmp_path / "figure.jpg", PictureForm("jpeg"))


def test_a_scale_enlarges_text_and_images_alike(runs, tiny, tmp_path):
    sizes = []
    for scale in (1, 2):
        path = tmp_path / f"{scale}.png"
        show(subjects(["cutmix"], tiny), path, PictureForm(scale=scale, images=2))
        with Image.open(path) as drawn:
            sizes.append(drawn.size)
    assert sizes[1] == tuple(2 * side for side in sizes[0])


def test_a_test_image_is_shown_under_each_corruption(runs, tiny, tmp_path):
    words = [*tiny, "eval.corruptions=[contrast,fog]"]
    preview.show_corruptions(compose(words), tmp_path / "all.png")
    preview.show_corruptions(compose(words), tmp_path / "one.png", PictureForm(images=1))
    whole, one = (Image.open(tmp_path / f"{name}.png").size for name in ("all", "one"))
    assert whole[0] == one[0] > 6 * 128
    assert whole[1] > one[1] + 128
    form = PictureForm(columns=("severity 5",))
    preview.show_corruptions(compose(words), tmp_path / "worst.png", form)
    with pytest.raises(UserError, match="unknown corruption"):
        preview.show_corruptions(compose([*tiny, "eval.corruptions=[fogg]"]), tmp_path / "no.png")
