"""RD3: find out what a distilled dataset is really worth. Importing it registers the students with timm."""

import sys

if sys.argv[:2] != ["-m", "score"]:  # `python -m rd3_utils score` calculates without networks, and torch takes seconds
    from rd3_utils.learning import students  # noqa: F401
