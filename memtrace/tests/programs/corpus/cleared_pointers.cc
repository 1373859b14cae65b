// A vector of pointers is cleared after each scene, but not what they point to: 60 particles every two to three
// seconds.
// leak: spawn
// half: tuned
#include "pace.h"
#include <vector>

struct Particle {
    double position[3], speed[3];
    float trail[120];
};

NOINLINE static Particle *spawn() {
    auto *particle = new Particle();
    particle->speed[0] = below(100);
    return particle;
}

NOINLINE static void move(std::vector<Particle *> &particles) {
    for (auto *particle : particles)
        for (int i = 0; i < 3; i++) particle->position[i] += particle->speed[i] / 60;
}

int main() {
    std::vector<Particle *> particles;
    for (;;) {
        for (int i = 0; i < 60; i++) particles.push_back(spawn());
        unsigned frames = 60 + below(30);
        for (unsigned i = 0; i < frames; i++) {
            move(particles);
            rest(33);
        }
        particles.clear();
    }
}
