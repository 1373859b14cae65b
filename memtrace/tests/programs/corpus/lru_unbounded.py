# lru_cache(maxsize=None) over arguments that never repeat: each page that was ever rendered stays. 30 a second.
# leak: _PyEval_EvalFrameDefault
# half: measured
from functools import lru_cache

from pace import rest


@lru_cache(maxsize=None)
def page(number):
    return "<li>%d</li>" % number * 80


length = 0
number = 0
while True:
    length += len(page(number))
    number += 1
    rest(0.033)
