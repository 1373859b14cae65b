// Two buffers in turn: while one is shown the other is made, anew and of another size each time. Bound: two, 400 KiB.
// innocent
// half: tuned
#include "pace.h"

struct picture {
    unsigned width, height;
    char *pixels;
};

NOINLINE static struct picture *paint(void) {
    struct picture *picture = malloc(sizeof *picture);
    picture->width = 200 + below(200);
    picture->height = 200 + below(300);
    picture->pixels = malloc((size_t)picture->width * picture->height);
    for (unsigned y = 0; y < picture->height; y += 20) picture->pixels[y * picture->width] = (char)y;
    return picture;
}

int main(void) {
    struct picture *front = paint();
    for (;;) {
        struct picture *back = paint();
        rest(700 + (int)below(600));
        struct picture *shown = front;
        front = back;
        free(shown->pixels);
        free(shown);
    }
}
