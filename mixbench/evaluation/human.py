"""The human suite: how far predictions are from the labels that people give test images."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from mixbench.config.schema import DataInfo
from mixbench.data.augment.batches import to_float
from mixbench.data.images import Batch, ImageSet, Splits
from mixbench.data.judged import AnsweredImages, answers_path
from mixbench.data.labels import read_human
from mixbench.errors import UserError
from mixbench.evaluation.attacks import evaluation_logits
from mixbench.evaluation.suite import Counts, Model, Suite
from mixbench.metrics.calibration import equal_mass_rmsce
from mixbench.metrics.classification import worst_class_accuracy
from mixbench.metrics.human import HumanLabels, answer_scores, answers_of

BIN = 100  # images of a bin of the calibration error


class PeopleSuite(Suite):
    """Base of suites that compare with people's answers, ``eval.human``."""

    keys = ("eval.human",)
    needs = "compares with one answer of each person"

    def check(self) -> None:
        """Refuse to be carried out without answers."""
        if self.config.human is None:
            what = f"the suite {self.name} needs people's answers for the test images"
            raise UserError(what, "eval.human", "give eval.human=FILE, such as cifar10h.npz")
        self._answers()

    def check_data(self, splits: Splits) -> None:
        """Refuse answers for other images."""
        self.images("", splits)

    def images(self, part: str, splits: Splits) -> ImageSet:
        """The test images that people answered for."""
        del part
        human = self._answers()
        if splits.test_rows is None:
            what = (
                "some test images are left out, or a fold is tested, so the numbers of the "
                "answers do not fit"
            )
            todo = "repair them, do without folds, or leave the suite out"
            raise UserError(what, "eval.human", todo)
        labels, classes = splits.test.labels, splits.info.num_classes
        rows, shares = answers_of(human, splits.test_rows, labels, classes)
        test = splits.test if len(rows) == len(labels) else splits.test.subset(rows)
        return AnsweredImages(test, shares)

    def facts(self, info: DataInfo, counts: Mapping[str, Any]) -> dict[str, Any]:
        """File of the answers, and a hash of them."""
        del info, counts
        return {"human": self.config.human, "answers": self._answers().fingerprint()[:8]}

    def as_recorded(self, facts: Mapping[str, Any]) -> Suite | None:
        """With the same answers, where they lie now or lay then; None where neither has them."""
        for where in filter(None, (self.config.human, facts.get("human"))):
            with contextlib.suppress(UserError):
                if _read(where).fingerprint()[:8] == facts.get("answers"):
                    return self._with(human=where, adv_n=facts.get("images", self.config.adv_n))
        return None

    def unverified(self, score: str, facts: Mapping[str, Any]) -> str:
        """The answers are gone, or others."""
        own = facts and score.startswith(self.columns)
        return f"people's answers are not at hand; eval.human={facts.get('human')}" if own else ""

    def _answers(self) -> HumanLabels:
        return _read(str(self.config.human))


def _read(given: str) -> HumanLabels:
    return read_human(answers_path(Path(given)))


class Human(PeopleSuite):
    """Cross-entropy to people's answers, and other distances and errors of the same images."""

    columns = ("ce_human", "entropy_human", "l1_human", "w1_human", "entropy_corr")
    columns += ("worst_class", "rmsce_100")

    def count(self, model: Model, batches: Iterable[Batch], info: DataInfo) -> Counts:
        """Outputs of all images, with people's answers."""
        k = info.num_classes
        logits, shares = [torch.zeros(0, k)], [torch.zeros(0, k)]
        labels = [torch.zeros(0, dtype=torch.int64)]
        for batch in batches:
            assert batch.soft is not None
            logits.append(evaluation_logits(model, to_float(batch.images)).cpu())
            labels.append(batch.labels.cpu())
            shares.append(batch.soft.cpu())
        found = {"logits": logits, "labels": labels, "shares": shares}
        return {"n": sum(map(len, labels))} | {k: torch.cat(v) for k, v in found.items()}

    def score(self, counts: Mapping[str, Any]) -> dict[str, float]:
        """See :func:`mixbench.metrics.human.answer_scores`; the others are of the same images."""
        logits, labels = counts["logits"], counts["labels"]
        return answer_scores(logits, counts["shares"]) | {
            "worst_class": float(worst_class_accuracy(logits, labels)),
            "rmsce_100": float(equal_mass_rmsce(logits, labels, BIN)),
            "rmsce_100_legacy": float(equal_mass_rmsce(logits, labels, BIN, legacy=True)),
        }
