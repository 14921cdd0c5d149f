"""The beginning of a study, or its continuation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixbench.elicit.consent import check_edited, read_consent, usual_consent
from mixbench.elicit.settings import USUAL_TRIALS, StudySettings
from mixbench.elicit.study import Study, study_path
from mixbench.errors import UserError

# Parts of a configuration that decide what people see.
KEPT_PARTS = ("data", "method", "net", "seed")


def open_study(
    given: Path,
    config: Any,
    options: Mapping[str, Any],
    consent: Path | None = None,
    *,
    public: bool = False,
) -> tuple[Study, bool]:
    """Begin a study, or go on with the one that the file holds.

    Args:
        given: File or folder of the study.
        config: The composed configuration; None where no key was given, which is right only for a
            study that exists.
        options: Fields of :class:`StudySettings` that were given; the others are those of the
            study, or the usual ones.
        consent: File of the text that people agree to; that of the study, or the usual one, if
            None.
        public: Whether others will see the page, for which the text has to be the study's own.

    Returns:
        The study, and whether it begins now.

    Raises:
        UserError: If the file holds a study with other settings, or the settings are impossible,
            or the text is the usual one and the study public.
    """
    path = study_path(given)
    wanted = dict(options)
    if config is not None:
        wanted["config"] = kept_config(config)
    if consent is not None:
        wanted["consent"] = read_consent(consent)
    if path.exists():
        return _continued(path, wanted, public), False
    if config is None:
        todo = "name the data: mixbench elicit data=NAME --out FILE.db"
        raise UserError(
            "the study does not exist, and no data are named to begin one", str(path), todo
        )
    images = wanted.setdefault("images", StudySettings.images)
    wanted.setdefault("trials", min(images, USUAL_TRIALS))
    wanted.setdefault("consent", usual_consent())
    settings = StudySettings(**wanted)
    if public:
        check_edited(settings.consent)
    from mixbench.elicit.stimuli import render_stimuli

    stimuli, names = render_stimuli(config, settings)
    return Study.create(path, settings, names, stimuli), True


def _continued(path: Path, wanted: Mapping[str, Any], public: bool) -> Study:
    study = Study(path)
    own = dict(vars(study.settings))
    if "images" in wanted and "trials" not in wanted:
        own["trials"] = min(own["trials"], wanted["images"])
    try:
        different = study.settings.differences(StudySettings(**{**own, **wanted}))
        if different:
            todo = "leave these options out to go on with it, or name another file by --out"
            what = f"the study in this file has other settings: {'; '.join(different)}"
            raise UserError(what, str(path), todo)
        if public:
            check_edited(study.settings.consent)
    except BaseException:
        study.close()
        raise
    return study


def kept_config(config: Any) -> dict[str, Any]:
    """The part of a configuration that decides what people see.

    Args:
        config: A composed configuration.

    Returns:
        Plain values by key.
    """
    from mixbench.config.compose import to_plain

    plain = to_plain(config)
    return {part: plain[part] for part in KEPT_PARTS}
