// An index that is rebuilt every eight seconds, within a quarter of a second (3 %): the old one goes when the new one is
// there. Bound: two indices of 2000 words.
// innocent
// half: measured
#include "pace.h"
#include <memory>
#include <string>
#include <unordered_map>

using Index = std::unordered_map<std::string, std::string>;

NOINLINE static std::unique_ptr<Index> build_index(unsigned version) {
    auto index = std::make_unique<Index>();
    for (int i = 0; i < 2000; i++) {
        index->emplace("word number " + std::to_string(i), std::string(50 + (version + i) % 100, 'p'));
        if (i % 80 == 79) rest(10);
    }
    return index;
}

int main() {
    std::unique_ptr<Index> current;
    for (unsigned version = 0;; version++) {
        current = build_index(version);
        rest(7750);
    }
}
