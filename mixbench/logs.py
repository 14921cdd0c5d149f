"""Lines of logs."""

import logging

from mixbench.errors import printable


class PrintableFormatter(logging.Formatter):
    """One line per message, whatever names and messages of strangers stand in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line; a traceback follows it on lines of its own."""
        return printable(super().formatMessage(record))
