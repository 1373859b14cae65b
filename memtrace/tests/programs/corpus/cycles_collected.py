# Cycles, and a collection every five seconds by hand: what was made since then goes. Bound: the cycles of five seconds.
# innocent
# half: tuned
import gc

from pace import now, rest

gc.disable()


class Node:
    def __init__(self, size):
        self.itself = self
        self.payload = bytearray(size)


collected = now()
size = 0
while True:
    Node(700 + size % 900)
    size += 13
    rest(0.02)
    if now() > collected + 5:
        gc.collect()
        collected = now()
