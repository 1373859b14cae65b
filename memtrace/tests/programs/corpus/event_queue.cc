// A simulation: events at random times within the next 12 seconds in a priority queue, each handled when it is due.
// 40 a second, so that after 12 seconds as many go as come. Bound: some 300 events.
// innocent
// half: tuned
#include "pace.h"
#include <memory>
#include <queue>
#include <vector>

struct Event {
    double due;
    std::vector<char> payload;
};

using Pointer = std::shared_ptr<Event>;
struct Later {
    bool operator()(const Pointer &a, const Pointer &b) const { return a->due > b->due; }
};
static std::priority_queue<Pointer, std::vector<Pointer>, Later> events;

NOINLINE static void schedule() {
    double in = below(1200) / 100.0;
    events.push(std::make_shared<Event>(Event{now() + in, std::vector<char>(200 + below(600))}));
}

int main() {
    size_t handled = 0;
    for (;;) {
        schedule();
        while (!events.empty() && events.top()->due < now()) {
            handled += events.top()->payload.size();
            events.pop();
        }
        rest(handled ? 25 : 24);
    }
}
