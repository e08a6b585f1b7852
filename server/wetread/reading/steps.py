"""The steps of the story: a study settles, models read it, their results are reported.

Each is one module; a step is done at least once and ends in one transaction with all that follows from it.
"""

from __future__ import annotations

from wetread.work.jobs import Step

SETTLE = Step("settle", "work")
INFER = Step("infer", "infer", unexpected_tries=3, most_tries=8)
REPORT = Step("report", "work")
