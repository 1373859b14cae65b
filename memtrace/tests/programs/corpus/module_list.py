# A list of the module's takes each answer, as bytes of some hundred to two thousand, "for debugging". 40 a second.
# leak: _PyEval_EvalFrameDefault
# half: tuned
import random

from pace import rest

answers = []


def answer(number):
    body = bytes(random.randrange(700, 2000))
    answers.append(body)
    return len(body) + number


number = 0
while True:
    answer(number)
    number += 1
    rest(0.025)
