"""Snakemake's plugin for the display of ``clipaffect run``: ``snakemake --logger clipaffect``.

Snakemake finds plugins by the name of their package, and imports all of them at every start. So
this one imports nothing but Snakemake's interface until it is used. It hands the events on to
``clipaffect.ops.run_display``.
"""

from __future__ import annotations

import sys
from logging import LogRecord

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent


class LogHandler(LogHandlerBase):
    """Shows a line for each stage, on the standard error."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Create the display."""
        from rich.console import Console

        from clipaffect.ops.expected_time import told
        from clipaffect.ops.run_display import RunDisplay

        self.display = RunDisplay(Console(file=sys.stderr, highlight=False))
        expected = told()
        self.how_long = expected.in_words if expected else lambda _: ""

    def emit(self, record: LogRecord) -> None:
        """Show an event; a fault in this does not end the display."""
        try:
            self._show(record)
        except Exception:
            self.handleError(record)

    def _show(self, record: LogRecord) -> None:
        """Show an event; see Snakemake's interface for its fields."""
        told = vars(record)
        match told.get("event"):
            case LogEvent.RUN_INFO:
                self.display.planned(told["stats"], self.how_long(told["stats"]))
            case LogEvent.JOB_INFO:
                self.display.started(told["jobid"], told["rule_name"], told["log"])
            case LogEvent.JOB_FINISHED:
                self.display.finished(told["job_id"])
            case LogEvent.JOB_ERROR:
                self.display.failed(
                    told["jobid"], told["rule_name"], told["log"], told.get("rule_msg")
                )
            case None | LogEvent.ERROR:
                self.display.said(record.levelno, record.getMessage())

    def close(self) -> None:
        """End the display."""
        self.display.close()
        super().close()
