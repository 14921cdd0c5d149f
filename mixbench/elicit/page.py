"""The page of a study: one HTML document with its own script and style."""

import base64
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mixbench.elicit.consent import parse_consent
from mixbench.elicit.instructions import instructions_of
from mixbench.elicit.settings import StudySettings
from mixbench.elicit.study import MOST_COMMENT
from mixbench.leaderboard.report.page import HERE as REPORT_PAGE

HERE = Path(__file__).parent


class StudyPage(NamedTuple):
    """The document around a place for the token of its session, and the policy it is sent with."""

    before: str
    after: str
    policy: str

    def html(self, csrf: str) -> str:
        """The document for one session.

        Args:
            csrf: Token that every request of the page bears.

        Returns:
            HTML.
        """
        return self.before + csrf + self.after


def study_page(settings: StudySettings, class_names: list[str]) -> StudyPage:
    """The page of a study.

    Args:
        settings: Its settings.
        class_names: Names of its classes.

    Returns:
        The page.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined
    )
    script = (HERE / "page.js").read_text(encoding="utf-8").strip()
    sheets = (REPORT_PAGE / "style.css", HERE / "page.css")
    style = "\n".join(sheet.read_text(encoding="utf-8").strip() for sheet in sheets)
    words, consent = instructions_of(settings), parse_consent(settings.consent)
    facts = {
        "task": settings.task,
        "interval": settings.interval,
        "smooth": settings.upscaling != "nearest",
        "classes": class_names if settings.task == "categorical" else [],
        "consent": consent._asdict(),
        "instructions": words.paragraphs,
        "prompt": words.prompt,
        "questions": [{"text": q.text, "answers": q.answers} for q in words.questions],
        "mostComment": MOST_COMMENT,
    }
    # Inside of a script element no sign ends the text but these.
    told = json.dumps(facts).replace("<", "\\u003c").replace(">", "\\u003e")
    mark = "CSRF-TOKEN"
    whole = environment.get_template("page.html").render(
        style=Markup(style), script=Markup(script), facts=Markup(told), csrf=mark
    )
    before, _, after = whole.partition(mark)
    policy = (
        "default-src 'none'; img-src 'self'; connect-src 'self'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    )
    return StudyPage(before, after, policy)


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
