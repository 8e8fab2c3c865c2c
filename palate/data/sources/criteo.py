"""The text format of Criteo's display-advertising logs: the Kaggle challenge's `train.txt`, and `day_0` ... `day_23` of the Terabyte log.

A line is an impression: label (1 clicked), 13 integers, 26 categorical values as 32-bit hexadecimal hashes, separated by tabs; an empty
field is a missing value. There is no header. Kaggle's 45.8 million lines are seven days in order, without their borders.
"""

from __future__ import annotations

from palate.data.clicks import Format

INTEGERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
CRITEO = Format("criteo", ("label", *INTEGERS, *CATEGORIES), 0, tuple(range(1, 14)), tuple(range(14, 40)))
