// Each request registers its name in a table of the program's, which no request ever looks into; its destructor frees them when
// the program ends, after 56 seconds.
// leak: register_name
// ends
// half: measured
#include "pace.h"
#include <deque>
#include <string>

static std::deque<std::string> names;

NOINLINE static void register_name(unsigned number) {
    names.emplace_back("request " + std::to_string(number) + std::string(150 + number % 100, '-'));
}

int main() {
    for (unsigned number = 0; now() < 56; number++) {
        register_name(number);
        rest(15);
    }
}
