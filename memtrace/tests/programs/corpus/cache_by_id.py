# A cache by id(): each object is new, so that its id says nothing, and what is kept for it is kept for ever. 25 a
# second.
# leak: _PyEval_EvalFrameDefault
# half: tuned
import itertools

from pace import rest

renderings = {}
serial = itertools.count()


class Widget:
    def __init__(self, width):
        self.width = width


def render(widget):
    key = (id(widget), next(serial))
    if key not in renderings:
        renderings[key] = bytearray(widget.width * 10)
    return renderings[key]


while True:
    for width in (70, 90, 120, 150, 200):
        render(Widget(width))
    rest(0.2)
