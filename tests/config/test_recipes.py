"""Every recipe and every data set with the values that they resolve to, in ``recipes.yaml``.

``python tests/config/test_recipes.py`` writes the file anew; the diff of it is what a change of
recipes, of methods' files or of defaults means for those who train by them.
"""

from pathlib import Path

import pytest
import yaml

from mixbench.config import yaml_files
from mixbench.config.compose import compose, method_settings, to_plain
from mixbench.config.schema import keys_not_in_identity
from mixbench.methods import METHODS

FILE = Path(__file__).with_name("recipes.yaml")
SNAPSHOT = yaml.safe_load(FILE.read_text())  # by the words on the command line


def resolved(words):
    """What takes part in a run's identity, and the recipe that the words lead to."""
    aside = keys_not_in_identity() - {"recipe"}
    found = {}
    for group, value in to_plain(compose(words)).items():
        if isinstance(value, dict):
            value = {key: each for key, each in value.items() if f"{group}.{key}" not in aside}
        if group not in aside and value != {}:
            found[group] = value
    return found


@pytest.mark.parametrize("words", SNAPSHOT)
def test_the_values_are_those_of_the_snapshot(words):
    """Values meant to change are written by ``python tests/config/test_recipes.py``."""
    assert resolved(words) == SNAPSHOT[words]


@pytest.mark.parametrize(("group", "key"), [("recipe", "recipe"), ("data", "data")])
def test_the_snapshot_has_every_recipe_and_every_data_set(group, key):
    seen = {word for words in SNAPSHOT for word in words.split()}
    assert {f"{key}={name}" for name in yaml_files.names(group)} <= seen


@pytest.mark.parametrize("words", [words for words in SNAPSHOT if "recipe=samix" in words])
def test_the_recipes_of_samix_train_as_its_authors_do(words):
    config = compose(words)
    settings = METHODS.get(config.method["name"]).Config(**method_settings(config))
    assert settings.fidelity == "official-verified"


def written(snapshot):
    """One line a group, so that a diff shows the recipe and the group."""
    flow = {"default_flow_style": True, "sort_keys": False, "width": 10**6}
    return "".join(
        f"{words}:\n"
        + "".join(
            f"  {yaml.safe_dump({key: each}, **flow)[1:-2]}\n" for key, each in groups.items()
        )
        for words, groups in snapshot.items()
    )


if __name__ == "__main__":
    FILE.write_text(written({words: resolved(words) for words in SNAPSHOT}))
