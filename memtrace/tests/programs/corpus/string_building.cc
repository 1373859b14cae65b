// Strings are built and thrown away at 20,000 a second; some hundred of the answers are held for a moment. Bound: 100.
// innocent
// half: tuned
#include "pace.h"
#include <string>
#include <vector>

NOINLINE static std::string render(unsigned number) {
    std::string text = "{\"number\": " + std::to_string(number) + ", \"squares\": [";
    for (unsigned i = 0; i < 4; i++) text += std::to_string(i * i * number) + ", ";
    return text + "null]}";
}

int main() {
    std::vector<std::string> answers;
    for (unsigned number = 0;; number++) {
        for (unsigned i = 0; i < 25; i++) answers.push_back(render(number * 25 + i));
        if (answers.size() >= 100) answers.clear();
        rest(8);
    }
}
