// Calls `then` from a stack of so many more frames.
void descend_bare(unsigned frames, void (*then)(void *), void *with);
void descend_fp(unsigned frames, void (*then)(void *), void *with);
