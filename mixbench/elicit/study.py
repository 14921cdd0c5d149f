"""A study on disk: one SQLite file with its settings, stimuli, sessions and judgements.

Every answer is one transaction, and the file is in WAL mode with full synchronisation: whatever
ends the process, an answer that was confirmed is there, once.
"""

import hashlib
import json
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mixbench.elicit.answers import RefusedError, checked_time, checked_uuid, judged
from mixbench.elicit.settings import MIDPOINT_TASKS, STARTS, WEIGHT_STEPS, StudySettings
from mixbench.errors import UserError

if TYPE_CHECKING:
    from mixbench.elicit.stimuli import Stimulus

UI_VERSION = "1"  # of the page and its course, as judgements record it
NAME = "study.db"  # in a folder
ABANDONED_S = 1800.0  # after which a stimulus that waits for an answer counts as not shown
MOST_COMMENT = 2000  # characters
_APPLICATION, _SCHEMA = 0x6D697865, 1

# Columns of a judgement in the order of the exports.
JUDGEMENT_COLUMNS = (
    "id", "session_id", "rater_id", "task", "stimulus_id", "lam_true", "lam_human", "confidence",
    "lam_low", "lam_high", "start_value", "n_moves", "order_json", "is_repeat", "is_check",
    "repeat_index", "label_json", "rt_ms", "perspective", "ui_version", "created_utc",
)  # fmt: skip
FACTS = (
    "stimulus_id", "dataset", "split", "id1", "id2", "y1", "y2", "method", "lam", "bin",
    "mask_rle", "seed", "png_sha1", "is_check",
)  # fmt: skip
_TABLES = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE stimuli (
  stimulus_id TEXT PRIMARY KEY, dataset TEXT NOT NULL, split TEXT NOT NULL,
  id1 INTEGER NOT NULL, id2 INTEGER NOT NULL, y1 INTEGER NOT NULL, y2 INTEGER NOT NULL,
  method TEXT NOT NULL, lam REAL NOT NULL, bin REAL NOT NULL, mask_rle TEXT NOT NULL,
  seed INTEGER NOT NULL, png_sha1 TEXT NOT NULL, is_check INTEGER NOT NULL,
  ratings INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE pictures (
  picture_id TEXT PRIMARY KEY, stimulus_id TEXT NOT NULL REFERENCES stimuli,
  step INTEGER NOT NULL, png BLOB NOT NULL, UNIQUE (stimulus_id, step)) STRICT;
CREATE TABLE sessions (
  session_id TEXT PRIMARY KEY, rater_id TEXT NOT NULL UNIQUE, created_utc TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0, passed_utc TEXT, finished_utc TEXT,
  comment TEXT) STRICT;
CREATE TABLE trials (
  trial_id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions,
  number INTEGER NOT NULL, kind TEXT NOT NULL, repeat_of INTEGER, repeat_index INTEGER NOT NULL,
  stimulus_id TEXT REFERENCES stimuli, start_value REAL, order_json TEXT, shown REAL,
  answered INTEGER NOT NULL DEFAULT 0, UNIQUE (session_id, number)) STRICT;
CREATE INDEX open_trials ON trials (stimulus_id, shown) WHERE answered = 0;
CREATE TABLE judgements (
  id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions, rater_id TEXT NOT NULL,
  task TEXT NOT NULL, stimulus_id TEXT NOT NULL REFERENCES stimuli, lam_true REAL NOT NULL,
  lam_human REAL, confidence REAL, lam_low REAL, lam_high REAL, start_value REAL,
  n_moves INTEGER, order_json TEXT, is_repeat INTEGER NOT NULL, is_check INTEGER NOT NULL,
  repeat_index INTEGER NOT NULL, label_json TEXT, rt_ms INTEGER NOT NULL,
  perspective TEXT NOT NULL, ui_version TEXT NOT NULL, created_utc TEXT NOT NULL,
  UNIQUE (rater_id, stimulus_id, repeat_index)) STRICT;
"""


class Slot(NamedTuple):
    """A place in the course of a session.

    ``kind`` is ``new``, ``repeat`` or ``check``; ``repeat_of`` is the place of the trial that is
    repeated, and ``goal`` the weight of a check.
    """

    kind: str
    repeat_of: int | None = None
    goal: int | None = None


def course(trials: int, repeats: int, rng: random.Random) -> list[Slot]:
    """Trials of one person with repeats and two checks at random places.

    Args:
        trials: Stimuli to judge.
        repeats: How many of them come again.
        rng: Source of the places.

    Returns:
        The places in order. A repeat follows its first trial at a distance of a quarter of all
        trials at least.
    """
    slots: list[Slot] = [Slot("new")] * trials
    for goal in (0, 1):
        slots.insert(rng.randint(min(1, trials), len(slots)), Slot("check", goal=goal))
    gap = max(1, trials // 4)
    for _ in range(repeats):
        taken = {slot.repeat_of for slot in slots}
        able = [
            place
            for place, slot in enumerate(slots[: len(slots) - gap])
            if slot.kind == "new" and place not in taken
        ]
        first = rng.choice(able)
        place = rng.randint(first + gap, len(slots))
        slots.insert(place, Slot("repeat", repeat_of=first))
        slots = [
            slot._replace(repeat_of=slot.repeat_of + 1)
            if slot.repeat_of is not None and slot.repeat_of >= place
            else slot
            for slot in slots
        ]
    return slots


def study_path(given: Path) -> Path:
    """The file of a study.

    Args:
        given: The file, or a folder that holds it.

    Returns:
        The file; it may not exist.
    """
    return given / NAME if given.is_dir() or given.suffix.lower() != ".db" else given


class Study:
    """An open study; all methods can be called from several threads.

    Args:
        path: Its file.
        clock: Seconds since 1970.
        rng: Source of places, starts and orders, which need not be secret.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        if not path.is_file():
            todo = "begin one with: mixbench elicit data=NAME --out FILE.db"
            raise UserError("the file of the study does not exist", str(path), todo)
        self.path, self.clock = path, clock
        self.rng = random.SystemRandom() if rng is None else rng
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        try:
            self._check_kind()
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            kept = dict(self._db.execute("SELECT key, value FROM study").fetchall())
            self.settings = StudySettings.from_json(kept["settings"])
            self.class_names: list[str] = json.loads(kept["class_names"])
            self.secret, self.name = bytes.fromhex(kept["secret"]), kept["name"]
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise UserError(
                f"the file is not a study: {error}", str(path), "name another file"
            ) from error
        except BaseException:
            self._db.close()
            raise

    def _check_kind(self) -> None:
        found = [self._db.execute(f"PRAGMA {k}").fetchone()[0] for k in _MARKS]
        if found[0] != _APPLICATION:
            raise UserError("the file is not a study", str(self.path), "name another file")
        if found[1] != _SCHEMA:
            what = f"the study has layout {found[1]}, and this version reads layout {_SCHEMA}"
            raise UserError(what, str(self.path), "use the version that began the study")

    @classmethod
    def create(
        cls,
        path: Path,
        settings: StudySettings,
        class_names: Sequence[str],
        stimuli: Iterable["Stimulus"],
        **options: Any,
    ) -> "Study":
        """Begin a study.

        Args:
            path: Its file, which must not exist.
            settings: Its settings.
            class_names: Names of the classes.
            stimuli: What is judged.
            **options: As for the class.

        Returns:
            The open study.

        Raises:
            UserError: If the file exists.
        """
        if path.exists():
            raise UserError("the file exists already", str(path), "name another file")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is whole, so that no study lacks stimuli.
        making = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        db = sqlite3.connect(making, isolation_level=None)
        try:
            db.executescript(_TABLES)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_SCHEMA}")
            db.execute("BEGIN")
            facts = {
                "settings": settings.to_json(),
                "class_names": json.dumps(list(class_names)),
                "secret": secrets.token_hex(32),
                "name": secrets.token_hex(4),
                "created_utc": _utc(time.time()),
            }
            db.executemany("INSERT INTO study VALUES (?, ?)", facts.items())
            for each in stimuli:
                values = [getattr(each, name) for name in FACTS]
                marks = ", ".join("?" * len(FACTS))
                db.execute(f"INSERT INTO stimuli ({', '.join(FACTS)}) VALUES ({marks})", values)
                for step, png in enumerate(each.pictures):
                    row = (secrets.token_hex(16), each.stimulus_id, step, png)
                    db.execute("INSERT INTO pictures VALUES (?, ?, ?, ?)", row)
            db.execute("COMMIT")
            db.close()
            making.rename(path)
        finally:
            db.close()
            making.unlink(missing_ok=True)
        return cls(path, **options)

    def close(self) -> None:
        """Close the file; what the log beside it holds is moved into it."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _one(self, query: str, *values: Any) -> sqlite3.Row | None:
        with self._lock:
            return self._db.execute(query, values).fetchone()

    def _all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # The course of a session.

    def begin(self, session_id: str) -> None:
        """Note that a person has agreed to take part, and plan the trials.

        Args:
            session_id: Of the person's session; nothing happens if it has begun already.
        """
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM sessions WHERE session_id = ?", (session_id,)).fetchone():
                return
            db.execute(
                "INSERT INTO sessions (session_id, rater_id, created_utc) VALUES (?, ?, ?)",
                (session_id, secrets.token_hex(8), _utc(self.clock())),
            )
            checks = {
                round(row["lam"]): row["stimulus_id"]
                for row in db.execute("SELECT lam, stimulus_id FROM stimuli WHERE is_check = 1")
            }
            slots = course(self.settings.trials, self.settings.repeats, self.rng)
            for number, slot in enumerate(slots):
                db.execute(
                    "INSERT INTO trials (trial_id, session_id, number, kind, repeat_of, "
                    "repeat_index, stimulus_id) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        secrets.token_hex(16), session_id, number, slot.kind, slot.repeat_of,
                        int(slot.kind == "repeat"),
                        None if slot.goal is None else checks[slot.goal],
                    ),
                )  # fmt: skip

    def understood(self, session_id: str, right: bool) -> None:
        """Note an attempt at the questions about the instructions.

        Args:
            session_id: Of the person's session.
            right: Whether all answers were right; the trials begin then.

        Raises:
            RefusedError: If the session has not begun.
        """
        with self._transaction() as db:
            session = self._session(session_id)
            if session["passed_utc"] is not None:
                return
            db.execute(
                "UPDATE sessions SET attempts = attempts + 1, passed_utc = ? WHERE session_id = ?",
                (_utc(self.clock()) if right else None, session_id),
            )
            if right:
                self._open_next(db, session_id)

    def _session(self, session_id: str) -> sqlite3.Row:
        found = self._one("SELECT * FROM sessions WHERE session_id = ?", session_id)
        if found is None:
            raise RefusedError(403, "This session has not begun.")
        return found

    def _open_next(self, db: sqlite3.Connection, session_id: str) -> None:
        """Give the next trial its stimulus, and note that it is shown now."""
        trial = self._next(session_id)
        if trial is None or trial["shown"] is not None:
            return
        stimulus = trial["stimulus_id"]
        if trial["kind"] == "repeat":
            stimulus = db.execute(
                "SELECT stimulus_id FROM trials WHERE session_id = ? AND number = ?",
                (session_id, trial["repeat_of"]),
            ).fetchone()[0]
        elif trial["kind"] == "new":
            stimulus = self._least_rated(db, session_id)
        task, start, order = self.settings.task, None, None
        if task == "construct":
            start = self.rng.choice(STARTS)
        if task == "select":
            steps = list(range(WEIGHT_STEPS))
            self.rng.shuffle(steps)
            order = json.dumps(steps)
        db.execute(
            "UPDATE trials SET stimulus_id = ?, start_value = ?, order_json = ?, shown = ? "
            "WHERE trial_id = ?",
            (stimulus, start, order, self.clock(), trial["trial_id"]),
        )

    def _least_rated(self, db: sqlite3.Connection, session_id: str) -> str:
        """A stimulus that the person has not seen, of those that the fewest have judged.

        Whoever looks at a stimulus now counts as if the answer had come.
        """
        waiting = dict(
            db.execute(
                "SELECT stimulus_id, COUNT(*) FROM trials WHERE answered = 0 AND kind = 'new' "
                "AND shown > ? GROUP BY stimulus_id",
                (self.clock() - ABANDONED_S,),
            ).fetchall()
        )
        able = db.execute(
            "SELECT stimulus_id, ratings FROM stimuli WHERE is_check = 0 AND stimulus_id NOT IN "
            "(SELECT stimulus_id FROM trials WHERE session_id = ? AND stimulus_id IS NOT NULL)",
            (session_id,),
        ).fetchall()
        counts = [(count + waiting.get(name, 0), name) for name, count in able]
        least = min(count for count, _ in counts)
        return self.rng.choice([name for count, name in counts if count == least])

    def _next(self, session_id: str) -> sqlite3.Row | None:
        return self._one(
            "SELECT * FROM trials WHERE session_id = ? AND answered = 0 ORDER BY number LIMIT 1",
            session_id,
        )

    def state(self, session_id: str) -> dict[str, Any]:
        """What a person sees now.

        Args:
            session_id: Of the person's session; it may not have begun.

        Returns:
            ``stage``, one of consent, instructions, trial, comments and thanks; in a trial also
            ``done``, ``total`` and the ``trial``.
        """
        session = self._one("SELECT * FROM sessions WHERE session_id = ?", session_id)
        if session is None:
            return {"stage": "consent"}
        if session["passed_utc"] is None:
            return {"stage": "instructions"}
        trial = self._next(session_id)
        if trial is None:
            return {"stage": "comments" if session["finished_utc"] is None else "thanks"}
        row = self._one(
            "SELECT COUNT(*) AS total, SUM(answered) AS done FROM trials WHERE session_id = ?",
            session_id,
        )
        assert row is not None
        return {
            "stage": "trial",
            "done": row["done"],
            "total": row["total"],
            "trial": self._shown(trial),
        }

    def _shown(self, trial: sqlite3.Row) -> dict[str, Any]:
        """A trial as the page needs it, which does not say what would be right."""
        task = self.settings.task
        facts = self._one("SELECT * FROM stimuli WHERE stimulus_id = ?", trial["stimulus_id"])
        assert facts is not None
        pictures = [
            row["picture_id"]
            for row in self._all(
                "SELECT picture_id FROM pictures WHERE stimulus_id = ? ORDER BY step",
                trial["stimulus_id"],
            )
        ]
        if trial["order_json"] is not None:
            pictures = [pictures[step] for step in json.loads(trial["order_json"])]
        shown: dict[str, Any] = {"id": trial["trial_id"], "pictures": pictures}
        if task != "categorical":
            shown |= {
                "first": self.class_names[facts["y1"]],
                "second": self.class_names[facts["y2"]],
            }
        if task in MIDPOINT_TASKS:
            # A check of these tasks asks for one of the images alone.
            shown["goal"] = round(facts["lam"]) if facts["is_check"] else None
        if trial["start_value"] is not None:
            shown["start"] = round(trial["start_value"] * (WEIGHT_STEPS - 1))
        return shown

    def answer(self, session_id: str, given: Mapping[str, Any]) -> None:
        """Take an answer, and open the next trial.

        Args:
            session_id: Of the person's session.
            given: ``uuid``, which names the answer, ``trial``, ``ms`` and ``answer``. The same
                UUID a second time changes nothing.

        Raises:
            RefusedError: If it is no answer to the trial that is open.
        """
        if given.keys() != {"uuid", "trial", "ms", "answer"} or not isinstance(
            given["answer"], dict
        ):
            raise RefusedError(400, "This is not an answer.")
        uuid, took = checked_uuid(given["uuid"]), checked_time(given["ms"])
        with self._transaction() as db:
            session = self._session(session_id)
            known = db.execute("SELECT session_id FROM judgements WHERE id = ?", (uuid,)).fetchone()
            if known is not None:
                if known["session_id"] == session_id:
                    return
                raise RefusedError(409, "The id of the answer is taken.")
            trial = self._next(session_id)
            if trial is None or session["passed_utc"] is None:
                raise RefusedError(409, "No trial is open.")
            if given["trial"] != trial["trial_id"]:
                raise RefusedError(409, "Another trial is open.")
            order = json.loads(trial["order_json"] or "[]")
            found = judged(
                self.settings, len(self.class_names), given["answer"], trial["start_value"], order
            )
            now = self.clock()
            facts = self._one("SELECT * FROM stimuli WHERE stimulus_id = ?", trial["stimulus_id"])
            assert facts is not None
            label = None if found.label is None else json.dumps(found.label, sort_keys=True)
            values = {
                "id": uuid,
                "session_id": session_id,
                "rater_id": session["rater_id"],
                "task": self.settings.task,
                "stimulus_id": trial["stimulus_id"],
                "lam_true": facts["lam"],
                "lam_human": found.lam_human,
                "confidence": found.confidence,
                "lam_low": found.lam_low,
                "lam_high": found.lam_high,
                "start_value": trial["start_value"],
                "n_moves": found.n_moves,
                "order_json": trial["order_json"],
                "is_repeat": int(trial["kind"] == "repeat"),
                "is_check": facts["is_check"],
                "repeat_index": trial["repeat_index"],
                "label_json": label,
                # Nobody took longer than the trial was open, whatever the browser says.
                "rt_ms": min(took, round(1000 * max(0.0, now - trial["shown"]))),
                "perspective": self.settings.perspective,
                "ui_version": UI_VERSION,
                "created_utc": _utc(now),
            }
            marks = ", ".join("?" * len(JUDGEMENT_COLUMNS))
            db.execute(
                f"INSERT INTO judgements ({', '.join(JUDGEMENT_COLUMNS)}) VALUES ({marks})",
                [values[name] for name in JUDGEMENT_COLUMNS],
            )
            db.execute("UPDATE trials SET answered = 1 WHERE trial_id = ?", (trial["trial_id"],))
            if trial["kind"] == "new":
                db.execute(
                    "UPDATE stimuli SET ratings = ratings + 1 WHERE stimulus_id = ?",
                    (trial["stimulus_id"],),
                )
            self._open_next(db, session_id)

    def finish(self, session_id: str, comment: Any) -> None:
        """Take the comment at the end, once.

        Args:
            session_id: Of the person's session.
            comment: Text; it may be empty.

        Raises:
            RefusedError: If it is no text or too long, or trials are left.
        """
        if not isinstance(comment, str) or len(comment) > MOST_COMMENT:
            raise RefusedError(400, f"A comment has at most {MOST_COMMENT:,} characters.")
        with self._transaction() as db:
            session = self._session(session_id)
            if session["passed_utc"] is None or self._next(session_id) is not None:
                raise RefusedError(409, "Some trials are not answered yet.")
            if session["finished_utc"] is None:
                # Halves of characters would make the file unreadable.
                text = comment.encode(errors="replace").decode()
                db.execute(
                    "UPDATE sessions SET comment = ?, finished_utc = ? WHERE session_id = ?",
                    (text, _utc(self.clock()), session_id),
                )

    def picture(self, session_id: str, picture_id: str) -> bytes | None:
        """A picture of the stimuli that a person has been shown.

        Args:
            session_id: Of the person's session.
            picture_id: Its random name.

        Returns:
            A PNG file in its own size; None if there is none of that name for this person.
        """
        row = self._one(
            "SELECT png FROM pictures WHERE picture_id = ? AND stimulus_id IN (SELECT stimulus_id "
            "FROM trials WHERE session_id = ? AND shown IS NOT NULL)",
            picture_id,
            session_id,
        )
        return None if row is None else row["png"]

    # What came of it.

    def judgements(self) -> list[dict[str, Any]]:
        """All judgements, with :data:`JUDGEMENT_COLUMNS`, in the order in which they came."""
        columns = ", ".join(JUDGEMENT_COLUMNS)
        return [dict(row) for row in self._all(f"SELECT {columns} FROM judgements ORDER BY rowid")]

    def stimuli(self) -> dict[str, dict[str, Any]]:
        """Facts of all stimuli by their names, with the columns :data:`FACTS`."""
        rows = self._all(f"SELECT {', '.join(FACTS)} FROM stimuli ORDER BY rowid")
        return {row["stimulus_id"]: dict(row) for row in rows}

    def sessions(self) -> list[dict[str, Any]]:
        """All sessions in the order in which they began."""
        return [dict(row) for row in self._all("SELECT * FROM sessions ORDER BY rowid")]


_MARKS = ("application_id", "user_version")


def session_name(token: str) -> str:
    """Name of a session in the study, from which its token cannot be found.

    Args:
        token: What the browser of the session keeps.

    Returns:
        32 hexadecimal digits.
    """
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:23] + "Z"
