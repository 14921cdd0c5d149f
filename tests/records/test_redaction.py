import copy

from mixbench.records.redaction import redact


def test_texts_under_the_names_of_secrets_are_hidden_at_any_depth():
    content = {
        "api_key": "a",
        "WANDB_API_KEY": "b",
        "data": {"accessToken": "c", "root": "images", "mirrors": [{"password": "d"}, "e"]},
        "Secrets": {"aws": ["f", {"plain": "g"}]},
        7: "h",
    }
    before = copy.deepcopy(content)
    assert redact(content) == {
        "api_key": "***",
        "WANDB_API_KEY": "***",
        "data": {"accessToken": "***", "root": "images", "mirrors": [{"password": "***"}, "e"]},
        "Secrets": {"aws": ["***", {"plain": "***"}]},
        7: "h",
    }
    assert content == before


def test_numbers_and_missing_values_are_no_secrets():
    content = {"token_weight": 0.5, "keys": 3, "use_tokens": True, "key": None, "secret": ""}
    assert redact(content) == content
