import pytest
import torch

from mixbench import compose, list_methods, run
from mixbench.errors import UserError
from mixbench.notebook.scene import Scene
from mixbench.pictures.raster import under_titles
from mixbench.records.record import runs_folder

WORDS = [
    "data=digits",
    "data.limit=64",
    "data.size=16",
    "net.width=4",
    "batch_size=8",
    "net.final_norm=false",
]


@pytest.fixture(scope="module")
def scene():
    return Scene(WORDS)


def change(table):
    return table.column("change of logits")


def test_the_table_says_that_pooling_cancels_the_alignment(scene):
    grid = {"layer": [2, 4, "embed"], "side": [0, 1], "solver": ["compat", "scaled"]}
    table = scene.plans(grid)
    found = {tuple(row[key] for key in grid): row["change of logits"] for row in table.rows}
    assert len(found) == 12
    assert found[4, 0, "compat"] < 1e-5
    assert found[4, 1, "compat"] > 10 * found[4, 0, "compat"]  # what convergence lacks
    assert found[4, 0, "scaled"] < 0.01
    assert max(found["embed", side, solver] for _, side, solver in found) < 1e-5
    assert min(found[2, side, solver] for _, side, solver in found) > 0.03


def test_each_setting_has_its_figures(scene):
    table = scene.plans({"layer": [3], "cost_scale": ["none", "mean"], "eps": [0.1, 10.0]})
    entropy, error, cost = map(table.column, ("entropy", "row error", "mean cost"))
    assert entropy[0] < entropy[1] <= 1
    assert entropy[2] < entropy[3]
    assert error[0] > error[1]
    assert cost[0] == cost[1] != 1
    assert cost[2] == pytest.approx(1, abs=1e-5)
    assert max(table.column("column error")) < 1e-4


def test_controls_are_told_from_transport(scene):
    plans = ["transport", "shuffled", "identity", "weights"]
    table = scene.plans({"layer": [-2], "side": [1], "plan": plans})
    moved, shuffled, still, weighed = change(table)
    assert moved > 0.01
    assert shuffled > 0.01
    assert still == 0
    assert weighed != moved
    assert table.column("row error")[2] is None


def test_tables_repeat_and_leave_the_network_alone(scene):
    first, second = (scene.plans({"plan": ["shuffled", "transport"]}) for _ in range(2))
    assert first == second


def test_wrong_settings_are_refused(scene):
    with pytest.raises(UserError, match="layer"):
        scene.plans({"layer": [9]})
    with pytest.raises(TypeError, match="epsilon"):
        scene.plans({"epsilon": [1.0]})
    with pytest.raises(ValueError, match="eps"):
        scene.plans({"eps": [-1.0]})


def test_a_scene_takes_the_weights_of_a_run_of_any_method(runs):
    words = [*WORDS, "epochs=1", "wandb.mode=disabled"]
    folder = runs_folder() / run(compose(["method=erm", *words])).id
    fresh, trained = Scene(words), Scene(words, trained=folder)
    grid = {"layer": [3], "eps": [0.1]}
    assert fresh.plans(grid) != trained.plans(grid)
    pictures = [
        place.picture("method=manifoldmixup", "method.layers=[2]") for place in (fresh, trained)
    ]
    assert pictures[0].tobytes() != pictures[1].tobytes()


def test_the_gallery_shows_every_method_that_can_train_the_network(scene):
    picture = scene.gallery()
    # These want attention, several labels, a run before them, or make images.
    others = {"mixpro", "smmix", "tlalign", "transmix", "splicemix", "splicemix_cl"}
    others |= {"transformmix_search", "transformmix_recon", "demixgan", "denoisegan"}
    names = set(list_methods()) - others
    each = [scene.picture(f"method={name}") for name in names]
    assert picture.height > sum(part.height for part in each)
    assert picture.width == max(part.width for part in each)


def test_pictures_stand_below_each_other_under_their_titles():
    from PIL import Image

    parts = {"a": Image.new("RGB", (40, 30), "red"), "b": Image.new("RGB", (60, 20), "blue")}
    whole = under_titles(parts)
    assert whole.width == 60
    colours = [whole.getpixel((30, y)) for y in range(whole.height)]
    assert colours.count((255, 0, 0)) == 30
    assert colours.count((0, 0, 255)) == 20
    assert torch.equal(torch.tensor(colours[-1]), torch.tensor((0, 0, 255)))
