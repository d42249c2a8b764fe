// SPDX-License-Identifier: Apache-2.0
// The plain C interface of the CUDA library, which is loaded at run time. A function that can fail
// returns 0, or 1 with a message in `error`, which holds PYREL_CUDA_ERROR_BYTES.
#pragma once

#include <stdint.h>

#define PYREL_CUDA_INTERFACE 4
#define PYREL_CUDA_ERROR_BYTES 512

// Orders of a walk: each instruction with all of its rows, or stretches of them part by part.
#define PYREL_CUDA_WHOLE 1
#define PYREL_CUDA_IN_PARTS 2

#if defined(__cplusplus)
extern "C" {
#endif

// A batch; see shared/batch.h, and Launch in image.h.
struct PyrelCudaBatch {
    int64_t samples;
    const float* x;
    const int64_t* target;
    const float* low;
    const float* high;
    float* relevance;
    float* output;
    int64_t* explained;
    float* absorbed;
    float* conservation;
    float* amplification;
    int32_t check_finite;
    int32_t precision;  // of products but those of bfloat16: a Precision of image.h
    int32_t groups;     // of eight samples in a slab; 0 chooses
    int32_t team;       // of blocks that share a slab: 1, 2, 4 or 8; 0 chooses
    int32_t teams;      // at once; 0 chooses
    int32_t ways;       // back, of each sample after one forward pass; see shared/batch.h
    int32_t by_steps;   // a launch for all that lies between two barriers, instead of one in all
    int32_t in_parts;   // PYREL_CUDA_WHOLE or _IN_PARTS, which is not by steps; 0 chooses
    // The first sample that something is wrong with: an Outcome of shared/batch.h, 0 if none is.
    int32_t outcome;
    int32_t element;
    int64_t sample;
    void* stream;  // a cudaStream_t; of a batch in the device's memory
    // Of one in the host's memory: samples that go to the device at once, 0 chooses; and how many
    // samples are explained.
    int64_t chunk;
    int64_t done;
};

// PYREL_CUDA_INTERFACE of the library that is loaded.
int pyrel_cuda_interface();
// How many devices there are.
int pyrel_cuda_devices(int* count, char* error);
// Keeps a copy of an image (image.h) on a device; `made` is given to the others.
int pyrel_cuda_load(const void* image, int64_t bytes, int device, void** made, char* error);
// Explains a batch in the device's memory and waits for it.
int pyrel_cuda_run(void* made, struct PyrelCudaBatch* batch, char* error);
// Explains the first samples of a batch in the host's memory, as many as take some tenths of a
// second, and says in `done` how many these are; nothing is left running on the device. Their
// targets are classes.
int pyrel_cuda_run_from_host(void* made, struct PyrelCudaBatch* batch, char* error);
void pyrel_cuda_free(void* made);

#if defined(__cplusplus)
}
#endif
