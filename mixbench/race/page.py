"""A race as a part of the report page."""

import math

from markupsafe import Markup

from mixbench.errors import UserError, counted, time_text
from mixbench.leaderboard.plots.export import svg
from mixbench.leaderboard.plots.kinds import SHOWN
from mixbench.leaderboard.report.page import PLOT_WIDTH, PagePlot, PageSection, PageTable
from mixbench.race.halving import PLAIN, find_ties
from mixbench.race.plot import draw_states
from mixbench.race.scores import SCORES
from mixbench.race.state import RaceState
from mixbench.race.words import answer_texts, cost_text, plan_text, shown_by

OUTCOMES = {
    "better": "shown to be better",
    "worse": "shown to be worse",
    "open": "not shown",
    "unstable": "runs of it diverged",
    "plain diverged": "plain training diverged",
    "": "not over",
}


def race_section(state: RaceState) -> PageSection:
    """What the report shows of a race.

    Args:
        state: A race at any stage.

    Returns:
        Its answer first, then what it rests on.
    """
    answer, *others = answer_texts(state)
    return PageSection(
        heading=f"Race on {state.data} ({state.id.rpartition('-')[2]})",
        facts=_facts(state),
        verdict=answer,
        notes=[*others, *state.notes],
        plots=[_plot(state)],
        tables=[table for table in (_ties(state), _looks(state), _rounds(state)) if table.lines]
        + [_blocks(state), _left_out(state)],
        details=_origin(state),
    )


def _facts(state: RaceState) -> str:
    times = ", ".join(budget.text for budget in state.budgets)
    return (
        f"{state.id} \N{MIDDLE DOT} {counted(len(state.costs), 'method')} \N{MIDDLE DOT} budget "
        f"{times} \N{MIDDLE DOT} {state.train_images:,} training images in {state.folds} folds "
        f"\N{MIDDLE DOT} {state.test_images:,} test images \N{MIDDLE DOT} {SCORES[state.score]}"
    )


def _plot(state: RaceState) -> PagePlot:
    title, caption = "The race", f"{SHOWN['race'][:1].upper()}{SHOWN['race'][1:]}."
    try:
        drawing = svg(draw_states([state], PLOT_WIDTH, title=False))
    except UserError as error:
        return PagePlot(title, caption, Markup(""), error.what)
    return PagePlot(title, caption, Markup(drawing))


def _blocks(state: RaceState) -> PageTable:
    scores = state.block_scores
    count = max(map(len, scores.values()), default=0)
    blocks = [f"block {block} (fold {block % state.folds})" for block in range(count)]
    lines = []
    for name in state.standing:
        own = ["diverged" if value is None else f"{value:.2f}" for value in scores[name]]
        lines.append([name, cost_text(state.costs[name]), *own, *[""] * (count - len(own))])
    note = (
        f"The {SCORES[state.score]} of each run in percent, on the fold that it did not train on. "
        "These runs chose the method, and the best of many is always a lucky one, too: differences "
        "in this table are no gains."
    )
    return PageTable("Blocks and methods", ["method", "cost", *blocks], lines, note)


def _rounds(state: RaceState) -> PageTable:
    lines = []
    for number, each in enumerate(state.rounds, start=1):
        out = [name for name in each.ranked if name not in each.kept]
        lost = [f"{name} (diverged)" for name in each.diverged]
        last = number == state.planned_rounds
        stayed = "not over" if not each.decided else ", ".join(each.ranked if last else each.kept)
        left = "" if last else ", ".join([*out, *lost])
        runs = [str(number), str(len(each.survivors)), str(each.blocks), stayed, left]
        lines.append(runs)
    note = (
        "After each round the better half stays, by the mean over all its blocks. The best of the "
        "last round that is not plain training is confirmed."
    )
    return PageTable(
        "Halving",
        ["round", "methods", "runs of each", "stayed, the best first", "left"],
        lines,
        note,
    )


def _ties(state: RaceState) -> PageTable:
    header = ["method", "cost", "common blocks", "behind, in points", "told apart from", "result"]
    lines: list[list[str]] = []
    note = ""
    if winner := state.winner:
        ties, scores = find_ties(state.scores, winner), state.scores
        for name in sorted([winner, *ties.lead], key=lambda name: (state.costs[name], name)):
            cost, blocks = cost_text(state.costs[name]), min(len(scores[name]), len(scores[winner]))
            if name == PLAIN:
                continue
            if name == winner:
                lines.append([name, cost, str(blocks), "", "", "was confirmed"])
                continue
            reach = ties.reach[name]
            word = "not distinguishable" if name in ties.tied else "behind"
            told = f"{reach:.2f}" if math.isfinite(reach) else "too little ran"
            lines.append([name, cost, str(blocks), f"{ties.lead[name]:.2f}", told, word])
        if not state.looks:
            lines = [[*line[:-1], line[-1].replace("was confirmed", "leads")] for line in lines]
        note = (
            f"Which methods the hold-outs do not tell from {winner}, the cheapest first: with it "
            "they hold the best method that was raced in at least 95 % of races. Costs are in runs "
            "of plain training."
        )
    return PageTable("Ties by cost", header, lines, note)


def _looks(state: RaceState) -> PageTable:
    header = ["look", "level", "method", "pairs", "gain", "interval", "would have shown", "result"]
    lines = []
    for look in state.looks:
        level = f"{100 * (1 - 2 * look.alpha):g} %"
        line = [str(look.k), level, look.winner, str(look.n), "", "", "", OUTCOMES[look.outcome]]
        if (found := look.result) is not None:
            ends = f"{found.low:+.2f} to {found.high:+.2f}"
            line[4:7] = [f"{found.gain:+.2f}", ends, f"{shown_by(look):.2f}"]
        lines.append(line)
    note = (
        "Gains over plain training in points, on fresh seeds and on test images that did not "
        "choose. Their intervals count seeds and images; those of the tables of runs count seeds "
        "alone, and the race's is the one to quote."
    )
    return PageTable("Looks at the test set", header, lines, note)


def _left_out(state: RaceState) -> PageTable:
    costs = state.left_costs
    lines = [
        [name, cost_text(costs[name]) if name in costs else "", why]
        for name, why in state.left_out.items()
    ]
    lines += [
        [name, cost_text(state.costs[name]), f"diverged in {lost} of {total} runs"]
        for name, (lost, total) in state.diverged.items()
    ]
    return PageTable("Left out", ["method", "cost", "why"], lines, "")


def _origin(state: RaceState) -> list[tuple[str, str]]:
    words = " ".join([*state.words, f"budget={state.budgets[0].text}"])
    times = "; ".join(
        f"{each.text} at {each.time} for {each.stage}, {counted(each.jobs, 'run')} at a time"
        for each in state.budgets
    )
    return [
        ("command", f"mixbench race {words}"),
        ("plan", plan_text(state)),
        ("times given", times),
        ("a run of plain training", time_text(state.plain_s)),
        ("hashes", ", ".join(f"{name} {value}" for name, value in state.hashes.items())),
        ("versions", ", ".join(f"{name} {value}" for name, value in state.versions.items())),
    ]
