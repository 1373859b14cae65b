// A monotonic buffer for each round of three seconds: many small strings grow it, and all goes at once at its end.
// Bound: some 100 KiB.
// innocent
// half: measured
#include "pace.h"
#include <memory_resource>
#include <string>
#include <vector>

NOINLINE static size_t round_of_work() {
    std::pmr::monotonic_buffer_resource arena(1024);
    std::pmr::vector<std::pmr::string> words(&arena);
    for (int i = 0; i < 150; i++) {
        for (int n = 0; n < 3; n++) words.emplace_back(40 + below(100), static_cast<char>('a' + n));
        rest(20);
    }
    return words.size();
}

int main() {
    size_t words = 0;
    for (;;) words += round_of_work();
}
