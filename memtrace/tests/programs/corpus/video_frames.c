// Frames of 128 KiB, eight a second: a reference is kept to each, "for the preview". 1 MiB/s.
// leak: grab_frame
// half: tuned
#include "pace.h"

struct frame {
    struct frame *previous;
    char pixels[131000];
};

static struct frame *preview;

NOINLINE static void grab_frame(void) {
    struct frame *frame = malloc(sizeof *frame);
    // Most of it is written by nobody here, so that few pages become resident.
    memset(frame->pixels, 7, 5000);
    frame->previous = preview;
    preview = frame;
}

NOINLINE static int encode(void) {
    char *packet = malloc(9000);
    memcpy(packet, preview->pixels, 5000);
    int first = packet[0];
    free(packet);
    return first;
}

int main(void) {
    for (;;) {
        grab_frame();
        for (int i = 0; i < 4; i++) encode();
        rest(125);
    }
}
