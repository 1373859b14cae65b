// A table from before, of 200,000 numbers, to which 500 a second are added until it is rehashed, once, at 24 s; then as
// many are taken out as are put in. Bound: 225,000 numbers.
// aged
// innocent
// half: tuned
#include "pace.h"
#include <unordered_map>

int main() {
    std::unordered_map<unsigned, unsigned> table;
    table.reserve(200000);
    unsigned next = 0, oldest = 0;
    while (next < 200000) table.emplace(next++, 0);
    for (;;) {
        table.emplace(next++, below(1000));
        if (table.size() > 212000) table.erase(oldest++);
        if (next % 10 == 0) rest(20);
    }
}
