# A session of tests: for a third of a minute each test leaves its result, then they are counted and the session ends.
# Bound: 900 tests.
# innocent
# ends
# half: measured
from pace import rest

results = []


def run_test(number):
    scratch = [bytearray(500) for _ in range(20)]
    results.append((number % 50 != 7, bytearray(600 + number % 300), len(scratch)))


for number in range(900):
    run_test(number)
    rest(0.02)
print(sum(passed for passed, _, _ in results), "of", len(results))
