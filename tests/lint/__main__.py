"""Write what is made from the source anew: `python -m tests.lint`, in the same commit as the change on purpose.

tests/lint/public.json: the packages' surfaces. docs/errors.md: the error classes.
"""

from __future__ import annotations

import json

from tests.lint.error_page import PAGE, error_page
from tests.lint.test_lint_packages import PINNED, surface

if __name__ == "__main__":
    PINNED.write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n")
    PAGE.write_text(error_page())
