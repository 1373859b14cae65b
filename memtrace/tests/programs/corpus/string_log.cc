// A log in memory, "to be shown when something goes wrong", of which nothing is ever dropped: 70 lines a second.
// leak: Log::add
// half: tuned
#include "pace.h"
#include <deque>
#include <string>

class Log {
    std::deque<std::string> lines;

  public:
    NOINLINE void add(const char *what, unsigned number) {
        std::string line = "[" + std::to_string(now()) + "] " + what + " " + std::to_string(number);
        line.append(60 + number % 150, '.');
        lines.push_back(line);
    }
    size_t size() const { return lines.size(); }
};

int main() {
    Log log;
    for (unsigned number = 0;; number++) {
        log.add(number % 9 ? "served" : "refused", number);
        rest(log.size() ? 14 : 0);
    }
}
