/*
 * Memory that two processes share: an anonymous file (memfd) whose size is sealed, so that no peer can shrink it under a reader, which would end the reader by
 * SIGBUS. Nothing appears in a file system, and nothing is left behind by a process that is killed.
 */
#ifndef SWITCHYARD_SHARED_MEMORY_H
#define SWITCHYARD_SHARED_MEMORY_H

#include <cstddef>

namespace sy {

/* A descriptor of `bytes` zeroed bytes, all of them reserved. Throws SY_UNSUPPORTED, SY_OUT_OF_MEMORY. */
int shared_create(size_t bytes);
/* Maps what `shared_create` made, here or elsewhere. Throws SY_INVALID_ARGUMENT for any other descriptor or size. */
void *shared_map(int descriptor, size_t bytes);
void shared_unmap(void *memory, size_t bytes);
/* Whether an address lies in what `shared_map` has mapped: another process may change what is there at any time. For any thread. */
bool shared_holds(const void *address);

} // namespace sy
#endif
