import base64
import builtins
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from report_runs import HOSTILE, write_samples

from mixbench.leaderboard.plots.kinds import KINDS
from mixbench.leaderboard.report import data, page

EMPTY = {"meta", "input", "img", "br"}


class Parsed(HTMLParser):
    """Elements of a page, and the text of each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.stack = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.stack.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        for tag in self.stack:
            self.text[tag][-1] += data

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.elements if name in attrs]


def records_of(parsed):
    """The embedded records."""
    (text,) = [text for text in parsed.text["script"] if text.startswith("[")]
    return json.loads(text)


def test_the_verdict_of_a_table_stands_in_front_of_it(table):
    shown = table.write()
    assert 0 < shown.index("cutmix is best: +2.93 points over plain training") < shown.index("<td")


def test_a_page_asks_nobody_for_anything(table):
    write_samples(table.add("mixup", 3))
    parsed = Parsed(table.write())
    assert all(place.startswith("data:image/") for place in parsed.attributes("src"))
    places = [*parsed.attributes("href"), *parsed.attributes("xlink:href")]
    assert all(place.startswith("#") for place in places)
    assert not {"link", "iframe", "object", "base", "form"} & {
        tag for tag, attrs in parsed.elements if tag != "form" or "action" in attrs
    }
    styles = "".join([*parsed.text["style"], *parsed.attributes("style")])
    assert "@import" not in styles
    assert all(place.startswith("#") for place in re.findall(r"url\(([^)]*)", styles))


def test_the_policy_of_the_page_lets_its_own_script_run_and_no_other(table):
    parsed = Parsed(table.write())
    policy = parsed.attributes("content")[0]
    script = parsed.text["script"][-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


# FAULTS row 65.
def test_hostile_names_stay_text_everywhere(runs):
    changes = {
        "data": HOSTILE,
        "net": HOSTILE,
        "recipe": HOSTILE,
        "device": HOSTILE,
        "commit": HOSTILE,
        "fidelity": HOSTILE,
        "settings": {HOSTILE: HOSTILE},
        "notices": [HOSTILE],
        "marks": [HOSTILE],
        "versions": {HOSTILE: HOSTILE},
        "inputs": {HOSTILE: {"name": HOSTILE, "content": "c", "pooled": "p"}},
        "metrics": {HOSTILE: 1.0},
    }
    runs.seeds(HOSTILE, 90.0, 91.0, 92.0, **changes)
    runs.seeds("erm", 90.0, 91.0, 92.5, **changes)
    runs.add(HOSTILE, 3, status="failed", message=f"{HOSTILE}\n{HOSTILE}", **changes)
    shown = runs.write()
    assert "\u202e" not in shown
    assert "\x1b" not in shown
    parsed = Parsed(shown)
    assert not parsed.attributes("onerror")
    assert "img" not in {tag for tag, _ in parsed.elements}
    assert len(parsed.text["script"]) == 2
    assert all("<img src=x" in text for text in (*parsed.text["title"], *parsed.text["h2"][:1]))
    assert "{{7*7}}" in parsed.text["title"][0]
    ids = parsed.attributes("id")
    assert len(set(ids)) == len(ids)
    assert records_of(parsed)[0]["method"] in (HOSTILE, "erm")


def test_records_are_embedded_whole_and_numbers_that_are_none_become_null(runs):
    runs.add("erm", 0, 90.0, metrics={"nll": float("nan")}, message="a & b < c \u2028")
    runs.add("mixup", 0, status="diverged", message="the loss is not finite")
    parsed = Parsed(runs.write())
    done, diverged = records_of(parsed)
    assert done["metrics"] == {"top1": 90.0, "nll": None, "ece_cf": 0.01}
    assert done["message"] == "a & b < c \u2028"
    assert diverged["status"] == "diverged"
    (raw,) = [text for text in parsed.text["script"] if text.startswith("[")]
    assert not set("<>&\u2028") & set(raw)


def test_every_run_is_counted_and_embedded_wherever_it_stands(runs):
    runs.add("erm", 0)
    runs.add("erm", 1, status="failed")
    runs.add("mixup", 0, top1=90.0, metrics={"top1": float("nan")})
    lone = runs.add("mixup", 1)
    record = json.loads((lone / "record.json").read_text())
    del record["metrics"]["top1"]
    (lone / "record.json").write_text(json.dumps(record))
    shown = runs.write()
    assert "2 runs in 1 table, 2 runs in none" in shown
    embedded = json.loads(re.search(r'id="records">(.*?)</script>', shown, re.DOTALL)[1])
    assert len(embedded) == 4


def test_the_message_of_a_run_that_failed_is_shown_once_and_cut_where_it_is_endless(table):
    table.add("mixup", 3, status="failed", message="no space left\n" + "x" * 9000)
    shown = table.write()
    (message,) = re.findall('<td class="message">(.*?)</td>', shown, flags=re.DOTALL)
    assert re.match("no space left\nx{100,}", message)
    assert len(message) < 2100
    assert "has the status failed" not in shown


@pytest.mark.parametrize("values", [(float("nan"),), (float("inf"), 90.0), (float("-inf"),) * 2])
def test_scores_that_are_no_numbers_make_a_page_all_the_same(runs, values):
    runs.seeds("erm", 90.0, 91.0)
    runs.seeds("mixup", *values)
    shown = Parsed(runs.write())
    assert "mixup" in shown.text["table"][0]
    assert not re.search(r"\bnan\b|\binf\b", shown.text["table"][0])


def test_one_run_makes_a_page(runs):
    runs.add("mixup")
    shown = runs.write()
    assert "1 run in 1 table" in shown
    assert "nothing to compare" in shown


def test_a_folder_of_runs_of_which_none_is_done_makes_a_page_that_says_so(runs):
    runs.add("mixup", status="failed", message="no such file")
    shown = runs.write()
    assert "there is no finished run" in shown
    assert "no such file" in shown


def test_tables_that_do_not_compare_stand_apart_with_a_verdict_each(table):
    table.seeds("erm", 50.0, 51.0, net="wrn16x8")
    table.seeds("mixup", 60.0, 61.0, net="wrn16x8")
    parsed = Parsed(table.write())
    assert len(parsed.text["nav"]) == 1
    assert sum(attrs.get("class") == "verdict" for _, attrs in parsed.elements) == 2
    assert sum("wrn16x8" in text for text in parsed.text["h2"]) == 1


@pytest.mark.slow
def test_hundreds_of_rows_make_a_page_with_all_of_them(runs):
    for number in range(400):
        runs.add("mixup", 0, 80 + number / 40, settings={"alpha": number / 100})
    parsed = Parsed(runs.write())
    rows = [attrs for tag, attrs in parsed.elements if attrs.get("scope") == "row"]
    assert len(rows) >= 400


def test_a_page_shows_every_kind_of_plot_there_is():
    assert set(page.TITLES) == set(KINDS.table)


def test_a_plot_that_does_not_apply_is_left_out_with_its_reason(runs):
    runs.add("mixup")
    shown = runs.write()
    assert re.search(r"Differences from the reference: left out, as [^<]+\.</li>", shown)
    assert Parsed(shown).text["svg"]


def test_without_matplotlib_the_page_has_all_but_plots_and_says_so(table, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    shown = table.write()
    assert "cutmix is best" in shown
    assert "<svg" not in shown
    assert "The page has no plots, as plots need Matplotlib" in shown


def test_rows_at_equal_cost_stand_apart_and_a_missing_long_baseline_is_named(runs):
    for seed in range(2):
        runs.add("erm", seed, 90.0 + seed, gpu_hours=1.0, family_hash="f")
        runs.add("samix", seed, 91.0 + seed, gpu_hours=2.0, family_hash="f")
    assert re.search(r"samix \(epochs=32\)", runs.write())
    longer = {"epochs": 32, "recipe_hash": "long", "config_hash": "erm32", "family_hash": "f"}
    for seed in range(2):
        runs.add("erm", seed, 92.0 + seed, gpu_hours=2.1, **longer)
    shown = runs.write()
    apart = shown[shown.index('id="costs"') : shown.index('id="unfinished"')]
    assert re.search(r"92\.50 ± 0\.71</td>", apart)
    assert "epochs=32)" not in shown


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        ((0.01, 0.02), "36 to 72 GPU seconds"),
        ((0.5, 0.5), "30 GPU minutes"),
        ((1.0, 2.0), "1 to 2 GPU hours"),
    ],
)
def test_the_measured_cost_of_a_method_has_a_unit_that_reads_well(runs, hours, text):
    for seed, hour in enumerate(hours):
        runs.add("mixup", seed, gpu_hours=hour)
    assert f"Measured here: {text} for a run." in runs.write()


def test_published_figures_stand_apart_with_the_rule_of_their_epoch(table):
    parsed = Parsed(table.write())
    known = [text for text in parsed.text["table"][1:] if "best epoch" in text or "last" in text]
    assert known
    assert "Literature" in parsed.text["h2"]


def test_pictures_of_many_methods_stay_within_their_room(runs, monkeypatch):
    monkeypatch.setattr(page, "_plots", lambda group: [])
    monkeypatch.setattr(data, "PICTURE_BYTES", 90_000)
    for number in range(6):
        write_samples(runs.add(f"method{number}"), 250, 200, seed=number)
    sizes = [len(place) for place in Parsed(runs.write()).attributes("src")]
    assert len(sizes) == 6
    assert sum(sizes) * 3 / 4 < 92_000


def test_pictures_beyond_the_number_of_a_page_are_counted_aloud(runs, monkeypatch):
    monkeypatch.setattr(data, "MOST_PICTURES", 2)
    for number in range(3):
        write_samples(runs.add(f"method{number}"), 20, 20)
    shown = runs.write()
    assert len(Parsed(shown).attributes("src")) == 2
    assert "a page holds 2 of them" in shown
