import math
import re

import pytest

from mixbench import cli
from mixbench.errors import UserError
from mixbench.leaderboard.columns import NONE
from mixbench.leaderboard.render import render
from mixbench.leaderboard.rows import build_leaderboard, find_runs
from mixbench.leaderboard.table import all_columns, default_columns
from mixbench.leaderboard.text import interval

METHODS = (
    *("erm", "mixup", "cutmix", "manifoldmixup", "bc", "alignmix", "samix", "automix"),
    *("tdattenmix", "tlalign", "transmix", "mixup2"),
)
SCORED = {"nll": 1.2345, "ece": 0.04, "ece_cf": 0.0123, "fgsm_8": 95.0, "pgd20_1": 61.0}
JUDGED = {"adversarial": {"images": 512}}


@pytest.fixture
def fill(add):
    """Twelve methods with all that a run of the default suites has."""

    def write(methods=METHODS, seeds=3):
        for place, method in enumerate(methods):
            for seed in range(seeds):
                metrics = {"top1": 40.0 + 2.1 * place + 0.3 * seed, **SCORED}
                add(
                    *(method, seed),
                    metrics=metrics,
                    evaluations=JUDGED,
                    img_per_s=500.0 - 20 * place,
                    train_size=30_000,
                )

    return write


def board(tmp_path):
    return build_leaderboard(find_runs([tmp_path]))


def lines(text, count):
    """The header, the dashes and the rows of the first table."""
    return text.splitlines()[1 : count + 3]


def test_twelve_methods_fit_into_a_hundred_signs(fill, tmp_path):
    fill()
    table = lines(render(board(tmp_path)), len(METHODS))
    assert max(map(len, table)) <= 100
    heads = re.split(r"\s{2,}", re.sub("[↑↓]", "", table[0]).strip())
    assert [head.strip() for head in heads] == [
        *("method", "n", "top1 ± sd", "vs erm", "p", "nll", "ece_cf", "pgd20_1", "cost")
    ]


@pytest.mark.parametrize("width", [100, 80, 60, 40, 10])
def test_columns_fall_away_from_the_right_on_a_narrow_terminal_and_are_named(fill, tmp_path, width):
    fill()
    (group,) = board(tmp_path).groups
    names = default_columns(group)
    text = render(board(tmp_path), width=width)
    table = lines(text, len(METHODS))
    shown = len(re.split(r"\s{2,}", table[1]))
    assert max(map(len, table)) <= width or shown == 1
    lost = names[shown:]
    assert bool(lost) == (width < 98)
    assert not lost or f"{', '.join(lost)}. Use a wider" in " ".join(text.split())


def test_a_file_or_a_program_gets_all_columns(fill, tmp_path):
    fill()
    assert "Use a wider terminal" not in render(board(tmp_path))


def test_columns_are_shown_as_they_are_asked_for(fill, tmp_path):
    fill()
    text = render(board(tmp_path), columns=["method", "ece", "top1"])
    assert lines(text, 1)[0].split() == ["method", "ece", "↓", "top1", "±", "sd", "↑"]
    every = render(board(tmp_path), columns=["all"]).splitlines()[1]
    for name in ("95 % interval", "fgsm_8", "ece ", "fidelity", "verified", "seeds", "cost"):
        assert name in every


def test_a_score_that_tables_do_not_list_can_be_asked_for(add, tmp_path):
    add("erm", 0, metrics={"top1": 90.0, "aurc": 0.125})
    add("mixup", 0, metrics={"top1": 90.0})
    text = render(board(tmp_path), columns=["method", "aurc"])
    assert "0.1250" in text
    assert NONE in text
    assert "aurc" not in render(board(tmp_path), columns=["all"])


def test_a_folder_without_runs_is_named_and_refused(tmp_path, capsys):
    assert cli.main(["leaderboard", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"where: {tmp_path}" in told
    assert "mixbench bench" in told


@pytest.mark.parametrize("option", ["--columns", "--sort"])
def test_an_unknown_column_is_refused_with_the_nearest_one(fill, tmp_path, option, capsys):
    fill(("erm", "mixup"), 1)
    assert cli.main(["leaderboard", str(tmp_path), option, "pgd20_11"]) == 2
    assert re.search(rf"'pgd20_11'(.|\n)*{option}(.|\n)*pgd20_1", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--columns", "top1,top1"], "twice"),
        (["--columns", "all", "--format", "csv"], "--columns"),
        (["--curve", "--sort", "nll"], "--sort"),
        (["--pivot", "method", "data", "--columns", "n"], "--columns"),
        (["--pivot", "method", "data", "--curve"], "--pivot"),
        (["--pivot", "method", "method"], "--pivot"),
        (["--pivot", "method", "data", "--format", "json"], "--pivot"),
    ],
)
def test_options_that_would_do_nothing_are_refused(fill, tmp_path, options, word, capsys):
    fill(("erm", "mixup"), 1)
    assert cli.main(["leaderboard", str(tmp_path), *options]) == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "first"),
    [("nll", "mixup"), ("pgd20_1", "cutmix"), ("cost", "cutmix"), ("method", "cutmix")],
)
@pytest.mark.parametrize("style", ["table", "csv"])
def test_rows_are_sorted_by_any_column_the_best_first_and_missing_values_last(
    add, tmp_path, key, first, style
):
    common = {"img_per_s": 100.0, "train_size": 100}
    add("erm", 0, metrics={"top1": 90.0, "pgd20_1": math.nan}, **common)
    add("mixup", 0, metrics={"top1": 80.0, "nll": 0.5, "pgd20_1": 9.0}, **common)
    own = common | {"img_per_s": 900.0}
    add("cutmix", 0, metrics={"top1": 70.0, "nll": 0.6, "pgd20_1": 3.0}, **own)
    text = render(board(tmp_path), style, sort=key)
    if style == "table":
        rows = [line.split()[0] for line in lines(text, 3)[2:]]
        assert rows[0] == first
        assert key == "method" or key == "cost" or rows[-1] == "erm"
        assert f"sorted by {key}" in text
    else:
        names = [line.split(",")[5] for line in text.splitlines()[1:]]
        assert names[0] == first


def test_rows_are_sorted_by_the_size_of_a_setting(add, tmp_path):
    for place, alpha in enumerate([10, 2, 0.5]):
        add("mixup", 0, 90.0 + place, settings={"alpha": alpha}, config_hash=str(place))
    add("erm", 0)
    text = render(board(tmp_path), sort="method.alpha")
    assert [line.split()[1] for line in lines(text, 4)[2:]] == ["0.5", "2", "10", NONE]
    assert "best value first" not in text


def test_rows_are_sorted_by_what_was_verified_the_best_first(add, tmp_path):
    for method, verified in (("a", False), ("b", None), ("c", True), ("d", "partly")):
        add(method, 0, verified=verified)
    text = render(board(tmp_path), sort="verified")
    assert [line.split()[0] for line in lines(text, 4)[2:]] == ["c", "d", "a", "b"]


def test_an_interval_that_begins_at_zero_is_sorted_like_any_other(add, tmp_path):
    for seed in range(2):
        add("erm", seed, 0.0)
        add("mixup", seed, 50.0)
        add("cutmix", 0, 60.0, folder=f"lone{seed}")
    text = render(board(tmp_path), sort="interval")
    assert [line.split()[0] for line in lines(text, 3)[2:]] == ["mixup", "erm", "cutmix"]


@pytest.mark.parametrize("wanted", [["method", "top1"], ["method", "method.eps", "top1"]])
def test_rows_are_told_apart_by_their_names_where_settings_have_no_columns(add, tmp_path, wanted):
    for place in range(2):
        own = {"eps": place, "layers": place}
        add("alignmix", 0, 80.0 + place, settings=own, config_hash=str(place))
    text = render(board(tmp_path), columns=wanted)
    assert {"alignmix eps=0 layers=0", "alignmix eps=1 layers=1"} <= {
        re.split(r"\s{2,}", line)[0] for line in text.splitlines()
    }


def test_a_long_name_of_a_checkpoint_leaves_room_for_the_scores(add, tmp_path):
    for place in range(2):
        start = {"method.mixer_ckpt": {"name": "x" * 3000 + str(place)}}
        own = {"config_hash": str(place), "row_hash": "r", "inputs": start}
        add("samix", 0, 80.0 + place, **own)
    text = render(board(tmp_path), width=100)
    assert "81.00" in text
    assert max(map(len, lines(text, 2))) <= 100
    assert len({row.label for row in board(tmp_path).groups[0].rows}) == 2


def test_a_long_setting_leaves_room_for_the_scores(add, tmp_path):
    for place in range(3):
        own = {"text": "x" * 3000 + str(place)}
        add("mixup", 0, 80.0 + place, settings=own, config_hash=str(place))
    text = render(board(tmp_path), width=100)
    assert "82.00" in text
    assert max(map(len, lines(text, 3))) <= 100
    assert len({row.label for row in board(tmp_path).groups[0].rows}) == 3


@pytest.mark.parametrize(
    ("low", "high", "name", "sign", "shown"),
    [
        (-5.0, 60.0, "top1", False, "0.00 to 60.00"),
        (80.0, 179.0, "top1", False, "80.00 to 100.00"),
        (-85.0, 179.0, "top1", False, "too few seeds"),
        (-120.0, -30.0, "top1", True, "-100.00 to -30.00"),
        (-80.0, 80.0, "top1", True, "too few seeds"),
        (-3.0, 250.0, "nll", False, "-3.0000 to 250.0000"),
        (math.nan, 1.0, "top1", False, NONE),
        (None, None, "top1", False, NONE),
        (math.inf, math.inf, "top1", False, NONE),
    ],
)
def test_percentages_stay_on_their_scale(low, high, name, sign, shown):
    assert interval(low, high, name, sign) == shown


def test_a_smoke_test_shows_no_difference_even_where_it_is_asked_for(add, tmp_path):
    for seed in range(3):
        add("erm", seed, 90.0 + seed / 10, data="digits")
        add("mixup", seed, 95.0 + seed / 10, data="digits")
    text = render(board(tmp_path), columns=["method", "difference", "p"])
    assert "5.00" not in text
    assert "<0.001" not in text


def test_two_seeds_of_a_wide_spread_say_so_in_place_of_an_interval(add, tmp_path):
    for seed, (a, b) in enumerate([(10.0, 20.0), (90.0, 40.0)]):
        add("erm", seed, a)
        add("mixup", seed, b)
    text = render(board(tmp_path), columns=["all"])
    row = next(line for line in text.splitlines() if line.startswith("mixup"))
    assert row.count("too few seeds") == 2
    assert not re.search(r"\b1\d\d\.\d\d\b", row)


def test_settings_in_which_rows_differ_are_columns_and_not_names(add, tmp_path):
    for place, eps in enumerate([0.05, 0.1, 0.5]):
        for seed in range(2):
            own = {"eps": eps, "iters": 50} if eps != 0.1 else {"iters": 50}
            top1 = 80.0 + place + seed / 10
            folder = add("alignmix", seed, top1, settings=own, config_hash=str(place))
            folder.joinpath("config.yaml").write_text(
                f"method: {{name: alignmix, eps: {eps}, iters: 50}}\n"
            )
    for seed in range(2):
        add("erm", seed, 80.0 + seed / 10)
    text = render(board(tmp_path))
    assert lines(text, 1)[0].split()[:3] == ["method", "eps", "n"]
    rows = [re.split(r"\s{2,}", line)[:2] for line in lines(text, 4)[2:]]
    eps = [value for name, value in rows if name.startswith("alignmix")]
    assert sorted(eps) == ["0.05", "0.1", "0.5"]  # the default, too, as the configuration has it
    assert "iters=50" in text  # said once, below
    assert {row.label for row in board(tmp_path).groups[0].rows} == {
        *("alignmix", "alignmix eps=0.05", "alignmix eps=0.5", "erm")
    }


def test_many_settings_stay_in_the_names(add, tmp_path):
    for place, key in enumerate(["a", "b", "c"]):
        add("mixup", 0, 90.0 + place, settings={key: place})
    (group,) = board(tmp_path).groups
    assert default_columns(group)[:2] == ["method", "n"]
    assert "mixup b=1" in render(board(tmp_path))


def test_a_setting_of_a_lone_row_is_said_below_and_not_in_its_name(add, tmp_path):
    add("samix", 0, 90.0, settings={"eta": 0.5})
    (group,) = board(tmp_path).groups
    assert group.rows[0].label == "samix"
    assert group.rows[0].full_label == "samix eta=0.5"
    assert "samix (eta=0.5)" in render(board(tmp_path))


def test_the_cost_is_that_of_plain_training_and_none_of_another_machine(add, tmp_path):
    add("erm", 0, img_per_s=900.0, train_size=900)
    add("mixup", 0, img_per_s=300.0, train_size=900)
    add("cutmix", 0, img_per_s=300.0, train_size=900, threads=8)
    add("bc", 0)
    costs = {row.label: row.cost for row in board(tmp_path).groups[0].rows}
    assert costs == {"erm": 1.0, "mixup": pytest.approx(3.0), "cutmix": None, "bc": None}


@pytest.mark.parametrize(
    "other",
    [
        {"threads": 8},
        {"engine": "fast"},
        {"augment_by": "epoch"},
        {"compiled_input": True},
        {"cuda_graphs": "1 graph of passes and update"},
    ],
)
def test_a_cost_is_none_where_the_machine_did_something_else(add, tmp_path, other):
    add("erm", 0, img_per_s=900.0, train_size=900)
    add("mixup", 0, img_per_s=300.0, train_size=900, **other)
    costs = {row.label: row.cost for row in board(tmp_path).groups[0].rows}
    assert costs == {"erm": 1.0, "mixup": None}


def test_one_score_of_robustness_is_shown_and_it_is_one_that_all_rows_have(add, tmp_path):
    add("erm", 0, metrics={"top1": 90.0, "fgsm_8": 80.0, "pgd20_1": 60.0}, evaluations=JUDGED)
    add("mixup", 0, metrics={"top1": 90.0, "fgsm_8": 81.0}, evaluations=JUDGED)
    (group,) = board(tmp_path).groups
    assert [name for name in default_columns(group) if name in ("fgsm_8", "pgd20_1")] == ["fgsm_8"]
    assert {"fgsm_8", "pgd20_1"} <= set(all_columns(group))


def test_a_table_of_one_run_and_of_none_is_shown(add, tmp_path):
    assert render(board(tmp_path)) == "No finished runs.\n"
    add("erm", 0)
    assert "No verdict" in render(board(tmp_path))
    assert default_columns(board(tmp_path).groups[0])[:3] == ["method", "n", "top1"]


@pytest.mark.parametrize("style", ["table", "markdown", "latex"])
def test_four_hundred_methods_make_a_table(add, tmp_path, style):
    for number in range(400):
        add(f"method{number:03}", 0, 50.0 + number / 10)
    text = render(board(tmp_path), style)
    assert text.index("method399") < text.index("method000")
    assert len(re.findall(r"\bmethod\d{3}\b", text)) >= 400


def test_latex_has_a_caption_a_label_and_no_sign_that_needs_a_package(fill, tmp_path):
    fill(("erm", "cutmix"))
    text = render(board(tmp_path), "latex")
    caption = re.search(r"\\caption\{(.+)\}\n", text)[1]
    for word in ("accuracy on cifar with net", "3 seeds", "Dunnett", "16 epochs"):
        assert word in caption
    assert re.search(r"\\label\{tab:[a-zA-Z0-9-]+\}", text)
    assert text.isascii()
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert "%" not in body.replace(r"\%", "")
    for line in text[text.index(r"\end{table}") :].splitlines()[1:]:
        assert not line or line.startswith("%")


def test_each_table_in_latex_has_a_label_of_its_own_and_one_seed_no_deviation(add, tmp_path):
    add("erm", 0)
    add("erm", 0, select="val", folder="other", config_hash="v")
    text = render(board(tmp_path), "latex")
    labels = re.findall(r"\\label\{(.+?)\}", text)
    assert len(set(labels)) == len(labels) == 2
    assert "deviation" not in text


def test_rows_that_chose_other_test_images_share_no_table(add, tmp_path):
    told = {"task": "demix", "metrics": {"psnr": 12.0}}
    add("demixgan", 0, **told, settings={"tested": 32}, config_hash="a")
    add("denoisegan", 0, **told, settings={"tested": None}, config_hash="b")
    add("denoisegan", 0, **told, settings={"restarts": 2}, config_hash="c")
    add("demixgan", 0, **told, settings={"restarts": 3}, config_hash="d")
    found = board(tmp_path)
    names = [sorted(row.label for row in group.rows) for group in found.groups]
    assert sorted(names) == [["demixgan"], ["demixgan", "denoisegan"], ["denoisegan"]]
    titles = {group.title for group in found.groups}
    assert len(titles) == 3
    assert sum("tested=32" in title for title in titles) == 1
    labels = re.findall(r"\\label\{(.+?)\}", render(found, "latex"))
    assert len(set(labels)) == 3
    # A setting of this name says nothing of the images elsewhere.
    add("mixup", 0, settings={"tested": 1}, config_hash="e", recipe_hash="s" * 16)
    add("mixup", 0, settings={"tested": 2}, config_hash="f", recipe_hash="s" * 16)
    assert len(board(tmp_path).groups) == 4


def test_a_table_says_which_demixer_separated_and_is_silent_where_none_did(add, tmp_path):
    def judged(demixer, images=256):
        facts = {"demixer": demixer, "images": images}
        metrics = {"top1": 80.0, "separable_mse": 0.05}
        return {"metrics": metrics, "evaluations": {"separability": facts}}

    add("mixup", 0, **judged("runs/one"))
    add("erm", 0, recipe_hash="s" * 16)
    columns = ["separable_mse"]
    of_mixup, of_erm = (render(one, columns=columns) for one in parted(board(tmp_path)))
    assert "separable_mse is found by runs/one on 256 images." in of_mixup
    assert "do not compare" not in of_mixup
    assert "test images." not in of_erm
    add("cutmix", 0, **judged("runs/two"))
    both = render(board(tmp_path), columns=columns)
    assert "runs/one on 256 images or runs/two on 256 images. Scores by different" in both


def parted(found):
    """The tables of a leaderboard, one by one."""
    return [found.only({group.recipe_hash}) for group in found.groups]


def test_sorting_by_what_no_row_has_is_refused(add, tmp_path):
    add("erm", 0)
    with pytest.raises(UserError, match="no column"):
        render(board(tmp_path), sort="method.eps")


def test_rows_keep_their_names_whatever_columns_are_asked_for(fill, tmp_path):
    fill(("erm", "mixup"), 1)
    text = render(board(tmp_path), columns=["nll"])
    assert [line.split()[0] for line in lines(text, 2)[2:]] == ["mixup", "erm"]


def test_a_column_that_is_empty_is_said_and_sorts_nothing(fill, tmp_path):
    fill(("erm", "mixup"), 1)
    assert "No row has autoattack_8" in render(board(tmp_path), columns=["autoattack_8"])
    with pytest.raises(UserError, match="no row has a value of autoattack_8"):
        render(board(tmp_path), sort="autoattack_8")


def test_notes_break_at_words_on_a_terminal(fill, tmp_path):
    fill(("erm", "mixup"))
    text = render(board(tmp_path), width=60)
    notes = text.split("\n", 5)[5]
    assert max(map(len, notes.splitlines())) <= 60
    assert "plain training" in " ".join(notes.split())


def test_negative_numbers_have_a_minus_sign_in_latex(fill, add, tmp_path):
    fill(("mixup", "erm"))
    body = render(board(tmp_path), "latex").split("midrule")[1].split("bottomrule")[0]
    assert "$-$" in body or "+" in body
    assert not re.search(r"[^$]-\d", body)


def test_a_table_says_which_rows_are_reconstructions_and_that_costs_hold_all_stages(add, tmp_path):
    for seed in range(2):
        common = {"img_per_s": 100.0, "train_size": 360_000}
        add("erm", seed, **common)
        more = {"prior_hours": {"teacher": 8.0, "search": 8.0}, "fidelity": "reconstruction"}
        add("transformmix_recon", seed, **common, **more)
    text = render(board(tmp_path))
    assert "A reconstruction, whose scores are not those of a paper: transformmix_recon." in text
    assert "cost is the time of training, with the runs that a row's own start from" in text
    shown = next(line for line in text.splitlines() if line.startswith("transformmix_recon "))
    assert shown.split()[-1] == "2.00"
    plain = render(board(tmp_path), columns=["method", "fidelity"])
    assert "A reconstruction" not in plain
    assert "reconstruction" in plain
