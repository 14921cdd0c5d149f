import pytest
from drawn import all_axes, notes, texts

from mixbench.errors import UserError
from mixbench.leaderboard.plots.draw import draw


def attacked(runs, method="erm", seed=0, images=20, data="cifar10", **rates):
    judged = {"adversarial": {"images": images}}
    return runs.add(method, seed, metrics=rates, evaluations=judged, data=data)


def test_each_attack_has_a_diagram_of_error_rates_by_radius(runs):
    attacked(runs, fgsm_4=30.0, fgsm_8=60.0, pgd20_1=50.0)
    figure = draw("severity", runs.board())
    fgsm, pgd = all_axes(figure)
    assert [line.tolist() for line in fgsm.get_lines()[0].get_data()] == [[0, 4, 8], [10, 30, 60]]
    assert [line.tolist() for line in pgd.get_lines()[0].get_data()] == [[0, 1], [10, 50]]
    assert {"FGSM", "PGD, 20 steps", "error rate (%)", "radius (1/255)"} <= set(texts(figure))


def test_rates_are_means_over_seeds(runs):
    for seed, rate in enumerate((30.0, 40.0)):
        attacked(runs, seed=seed, fgsm_4=rate)
    (axes,) = all_axes(draw("severity", runs.board()))
    assert list(axes.get_lines()[0].get_ydata()) == [10, 35]
    assert len(axes.collections) == 1


def test_it_is_said_how_many_images_were_attacked(runs):
    attacked(runs, fgsm_4=30.0)
    assert "20 of 40 test images" in notes(draw("severity", runs.board()))
    attacked(runs, "mixup", images=30, fgsm_4=30.0)
    assert "do not compare" in notes(draw("severity", runs.board()))


def test_what_holds_for_several_tables_is_said_once(runs):
    for data in ("cifar10", "cifar100"):
        attacked(runs, data=data, fgsm_4=30.0)
    assert notes(draw("severity", runs.board())).count("20 of 40 test images") == 1


def test_rows_that_were_not_attacked_are_named(runs):
    attacked(runs, fgsm_4=30.0)
    runs.add("mixup")
    assert "Not shown: mixup" in notes(draw("severity", runs.board()))


def test_rates_that_are_not_finite_have_no_place(runs):
    attacked(runs, fgsm_4=30.0, fgsm_8=float("nan"))
    (axes,) = all_axes(draw("severity", runs.board()))
    assert list(axes.get_lines()[0].get_xdata()) == [0, 4]


def test_runs_that_were_not_attacked_are_refused_with_the_suite_to_run(runs):
    runs.add("erm")
    with pytest.raises(UserError) as raised:
        draw("severity", runs.board())
    assert "--suite adversarial" in raised.value.todo


def corrupted(runs, method="erm", seed=0, images=40, end="_c_gen", sets="all", **scores):
    found = {"clean": 10.0, "noise": 40.0, "blur": 30.0, "weather": 25.0, "digital": 20.0}
    found |= {f"severity_{s}": 10.0 + 5 * s for s in range(1, 6)} | scores
    metrics = {f"{name}{end}": value for name, value in found.items()}
    metrics["mean_ce" + end.removesuffix("_c")] = 25.0
    facts = {"corruption": {"images": images, "sets": sets}}
    return runs.add(method, seed, metrics=metrics, evaluations=facts)


def test_corruptions_have_a_curve_by_severity_and_the_means_of_their_groups(runs):
    corrupted(runs)
    figure = draw("severity", runs.board())
    curve, groups = all_axes(figure)
    drawn = [line.tolist() for line in curve.get_lines()[0].get_data()]
    assert drawn == [[0, 1, 2, 3, 4, 5], [10, 15, 20, 25, 30, 35]]
    assert list(groups.get_lines()[0].get_ydata()) == [40, 30, 25, 20]
    labels = [text.get_text() for text in groups.get_xticklabels()]
    assert labels == ["noise", "blur", "weather", "digital"]
    assert {"Corruptions, made here", "severity"} <= set(texts(figure))
    assert "40 of 40 test images" in notes(figure)


def test_published_and_generated_corruptions_never_share_a_diagram(runs):
    corrupted(runs)
    corrupted(runs, "mixup", end="_c")
    figure = draw("severity", runs.board())
    assert [len(axes.get_lines()) for axes in all_axes(figure)] == [1, 1, 1, 1]
    assert {"Corruptions, made here", "Corruptions, published"} <= set(texts(figure))


def test_curves_of_different_numbers_of_images_make_no_mean(runs):
    corrupted(runs, seed=0)
    corrupted(runs, seed=1, images=20)
    with pytest.raises(UserError, match="no run was attacked or saw corruptions"):
        draw("severity", runs.board())


def test_attacks_and_corruptions_stand_side_by_side(runs):
    attacked(runs, fgsm_4=30.0)
    corrupted(runs, "mixup")
    assert len(all_axes(draw("severity", runs.board()))) == 3


def test_rows_that_saw_other_corruptions_are_not_drawn_among_the_rest(runs):
    for method in ("erm", "mixup"):
        corrupted(runs, method)
    corrupted(runs, "cutmix", sets="only fog")
    figure = draw("severity", runs.board())
    assert [len(axes.get_lines()) for axes in all_axes(figure)] == [2, 2]
    assert "cutmix" in notes(figure)


def test_groups_of_rows_lie_side_by_side_with_bars_and_no_line_between_them(runs):
    for method in ("erm", "mixup"):
        for seed in range(2):
            corrupted(runs, method, seed, noise=40.0 + seed)
    curve, groups = all_axes(draw("severity", runs.board()))
    first, second = (line.get_xdata() for line in groups.get_lines())
    assert all(abs(a - b) > 0.2 for a, b in zip(first, second, strict=True))
    assert [round(place) for place in first] == [0, 1, 2, 3]
    assert {line.get_linestyle() for line in groups.get_lines()} == {"None"}
    heights = [bar.get_segments()[0][:, 1] for bar in groups.collections]
    assert [high - low for low, high in heights] == pytest.approx([2**0.5, 2**0.5])
    assert len(curve.collections) == 2
