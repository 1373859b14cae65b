// A pool of sprites: what is given back is used again. It grows until 20 seconds after the start, then never more.
// Bound: 300 sprites.
// innocent
// half: measured
#include "pace.h"
#include <memory>
#include <vector>

struct Sprite {
    float matrix[16];
    char name[400];
};

class Pool {
    std::vector<std::unique_ptr<Sprite>> spare;

  public:
    NOINLINE std::unique_ptr<Sprite> get() {
        if (spare.empty()) return std::make_unique<Sprite>();
        auto sprite = std::move(spare.back());
        spare.pop_back();
        return sprite;
    }
    void give_back(std::unique_ptr<Sprite> sprite) { spare.push_back(std::move(sprite)); }
};

int main() {
    Pool pool;
    std::vector<std::unique_ptr<Sprite>> shown;
    for (;;) {
        double at = now();
        size_t most = at < 20 ? static_cast<size_t>(at * 15) : 300;
        while (shown.size() < most) shown.push_back(pool.get());
        rest(50);
        for (size_t gone = below(40); gone > 0 && !shown.empty(); gone--) {
            pool.give_back(std::move(shown.back()));
            shown.pop_back();
        }
    }
}
