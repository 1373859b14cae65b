"""What the Python programs of the corpus share: how they wait and how they end."""

import os
import select
import time

STARTED = time.monotonic()


def now():
    """Seconds since the program began."""
    return time.monotonic() - STARTED


def rest(seconds):
    """Waits, and ends the program once its standard input is closed, or after 200 seconds."""
    readable, _, _ = select.select([0], [], [], seconds)
    if readable or now() > 200:
        os._exit(0)
