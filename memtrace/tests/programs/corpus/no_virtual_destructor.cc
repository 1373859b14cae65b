// Shapes are deleted by their base, which has no virtual destructor: what a polygon's points take is never freed.
// leak: Polygon
// half: tuned
#include "pace.h"
#include <vector>

struct Shape {
    int kind;
    explicit Shape(int kind) : kind(kind) {}
};

struct Polygon : Shape {
    std::vector<double> points;
    NOINLINE explicit Polygon(size_t corners) : Shape(3), points(corners * 2, 1.5) {}
};

NOINLINE static Shape *draw() {
    if (below(3) == 0) return new Polygon(20 + below(60));
    return new Shape(1);
}

int main() {
    unsigned long kinds = 0;
    for (;;) {
        Shape *shape = draw();
        kinds += static_cast<unsigned>(shape->kind);
        rest(12);
        delete shape;
    }
}
