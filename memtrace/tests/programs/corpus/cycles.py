# The collector is off, "because it pauses", and parents and children refer to one another. 15 families a second.
# leak: _PyEval_EvalFrameDefault
# half: measured
import gc

from pace import rest

gc.disable()


class Node:
    def __init__(self, parent, size):
        self.parent = parent
        self.children = []
        self.payload = bytearray(size)


def family(size):
    parent = Node(None, 600 + size)
    for n in range(3):
        parent.children.append(Node(parent, 600 + n * 50))
    return sum(len(child.payload) for child in parent.children)


size = 0
while True:
    family(size % 300)
    size += 7
    rest(0.066)
