"""Write tests/lint/public.json anew: `python -m tests.lint`, after a change of a package's surface on purpose."""

from __future__ import annotations

import json

from tests.lint.test_lint_packages import PINNED, surface

if __name__ == "__main__":
    PINNED.write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n")
