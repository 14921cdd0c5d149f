"""A data set of several labels per image that needs no files; a test registers it."""

import mixbench.functional as mf
from mixbench.data.datasets.digits import Digits


class SeveralDigits(Digits):
    """The digits, each labelled as itself and as the next one."""

    task = "multilabel"

    def read(self):
        content = super().read()
        train, test = (
            part.with_labels(
                mf.one_hot(part.labels, 10).maximum(mf.one_hot((part.labels + 1) % 10, 10))
            )
            for part in (content.train, content.test)
        )
        return content._replace(train=train, test=test)
