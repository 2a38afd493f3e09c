"""The one exception of the trial stack that a person is meant to read.

Its text is one complete line: what is wrong and, where it is known, what mends it. Whoever starts a
part prints it and exits with 1; a traceback means a defect of ours.
"""

from __future__ import annotations


class Trouble(Exception):
    """Something outside the program keeps it from working: a taken port, a missing Java, ..."""
