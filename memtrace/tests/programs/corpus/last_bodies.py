# A deque of the last 400 bodies, 40 a second: full after ten seconds. Bound: 400 of up to two kilobytes.
# innocent
# half: measured
import random
from collections import deque

from pace import rest

bodies = deque(maxlen=400)

while True:
    bodies.append(bytes(random.randrange(700, 2000)))
    rest(0.025)
