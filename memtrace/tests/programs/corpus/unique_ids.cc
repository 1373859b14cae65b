// A map of requests by their ids, which are unique; an answer finds its request there, and does not erase it. 80 a
// second.
// leak: begin_request
// half: measured
#include "pace.h"
#include <string>
#include <unordered_map>

struct Request {
    double begun;
    std::string trace;
};

static std::unordered_map<uint64_t, Request> requests;

NOINLINE static uint64_t begin_request() {
    static uint64_t next = 1;
    uint64_t id = next++ << 8 | below(256);
    requests.emplace(id, Request{now(), std::string(90, 'a')});
    return id;
}

NOINLINE static double end_request(uint64_t id) {
    auto found = requests.find(id);
    return found == requests.end() ? 0 : now() - found->second.begun;
}

int main() {
    double total = 0;
    for (;;) {
        uint64_t id = begin_request();
        rest(12);
        total += end_request(id);
    }
}
