# lru_cache(maxsize=300), over more arguments than that, 30 a second: it is full after ten seconds. Bound: 300 pages.
# innocent
# half: tuned
import random
from functools import lru_cache

from pace import rest


@lru_cache(maxsize=300)
def page(number):
    return "<li>%d</li>" % number * 80


length = 0
while True:
    length += len(page(random.randrange(100000)))
    rest(0.033)
