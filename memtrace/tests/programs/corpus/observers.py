# Each view observes the model with a closure that holds its buffer, and nobody takes the closure back. 12 a second.
# leak: _PyEval_EvalFrameDefault
# half: measured
from pace import rest


class Model:
    def __init__(self):
        self.observers = []

    def observe(self, call):
        self.observers.append(call)

    def change(self, value):
        for call in self.observers[-50:]:
            call(value)


def open_view(model, width):
    buffer = [0] * width

    def redraw(value):
        buffer[value % width] = value

    model.observe(redraw)
    return redraw


model = Model()
value = 0
while True:
    open_view(model, 100 + value % 150)
    model.change(value)
    value += 1
    rest(0.083)
