// Imports that take half of the time: for two and a half of every five seconds rows come in, and go with their import;
// the text of one row in ten is kept among the errors of all imports. 4 KiB/s.
// leak: reject
// half: tuned
#include "pace.h"
#include <string>
#include <vector>

static std::vector<std::string *> errors;

NOINLINE static void reject(const std::string &row) {
    errors.push_back(new std::string("rejected: " + row));
}

NOINLINE static size_t import_rows() {
    std::vector<std::string> rows;
    for (int i = 0; i < 250; i++) {
        rows.emplace_back(500 + below(500), 'r');
        if (below(10) == 0) reject(rows.back());
        rest(10);
    }
    return rows.size();
}

int main() {
    size_t rows = 0;
    for (;;) {
        rows += import_rows();
        rest(rows ? 2500 : 0);
    }
}
