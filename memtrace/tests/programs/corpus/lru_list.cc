// An LRU of a list and a map: it fills within ten seconds and then drops as many as come. Bound: 400 entries.
// innocent
// half: tuned
#include "pace.h"
#include <list>
#include <string>
#include <unordered_map>

class Lru {
    using Entry = std::pair<unsigned, std::string>;
    std::list<Entry> entries;
    std::unordered_map<unsigned, std::list<Entry>::iterator> by_key;

    NOINLINE static std::string load(unsigned key) { return std::string(300 + key % 300, 'v'); }

  public:
    NOINLINE const std::string &get(unsigned key) {
        auto found = by_key.find(key);
        if (found != by_key.end()) {
            entries.splice(entries.begin(), entries, found->second);
        } else {
            entries.emplace_front(key, load(key));
            by_key[key] = entries.begin();
        }
        if (entries.size() > 400) {
            by_key.erase(entries.back().first);
            entries.pop_back();
        }
        return entries.front().second;
    }
};

int main() {
    Lru lru;
    size_t sum = 0;
    for (;;) {
        // Some keys are asked for again and again.
        sum += lru.get(below(2) ? below(100) : below(100000)).size();
        rest(sum ? 14 : 0);
    }
}
