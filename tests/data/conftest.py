"""`small_clicks` beside this file can be imported by the tests, and run as a process."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
