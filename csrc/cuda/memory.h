// SPDX-License-Identifier: Apache-2.0
// Where the floats of an operand lie, for the samples of a slab. A part of walk.h.
#pragma once

#include "device.h"
#include "image.h"

namespace pyrel::cuda {

// What a block works on: an image, and a slab of the samples of a launch.
struct Walk {
    Launch launch;
    Header header;
    const Operation* operations;
    const Listed* listed;
    const int32_t* offsets;
    const int32_t* index;
    const float* floats;
    float* arena;
    double* absorbed;  // of each sample of the slab, then `largest` and `put_in`
    double* largest;
    double* put_in;
    int64_t first;    // sample of the launch
    int32_t samples;  // of the slab; the groups' others are missing
};

// A row of an operand: element e of sample s of group g is base[g · group + s · sample + e ·
// element]. Of the input and of the relevance, missing samples have no memory: they read as 0.
struct Row {
    float* base;
    int64_t group;
    int64_t sample;
    int32_t element;
    int32_t samples;  // that there are
    bool constant;    // no thread writes it
};

PYREL_DEVICE Row row_of(const Walk& walk, const Operand& operand, int row) {
    const int64_t offset = constant_at(walk.offsets + operand.first + row);
    if (operand.memory == Memory::arena)
        return {walk.arena + offset * kGroup,
                int64_t{walk.header.arena_size} * kGroup,
                1,
                kGroup,
                walk.launch.groups * kGroup,
                false};
    const int64_t size = walk.header.input_size;
    const bool input = operand.memory == Memory::input;
    float* const base = input ? const_cast<float*>(walk.launch.x) : walk.launch.relevance;
    return {base + walk.first * size + offset, size * kGroup, size, 1, walk.samples, input};
}

PYREL_DEVICE float* place_of(const Row& row, int group, int sample, int64_t element) {
    return row.base + group * row.group + sample * row.sample + element * row.element;
}

PYREL_DEVICE float at(const Row& row, int group, int sample, int64_t element) {
    if (group * kGroup + sample >= row.samples) return 0.0f;
    const float* const place = place_of(row, group, sample, element);
    return row.constant ? constant_at(place) : read(place);
}

PYREL_DEVICE void put(const Row& row, int group, int sample, int64_t element, float value) {
    if (group * kGroup + sample < row.samples) write(place_of(row, group, sample, element), value);
}

// One element of a vector of the image.
PYREL_DEVICE float constant_of(const Walk& walk, int32_t vector, int64_t element) {
    return constant_at(walk.floats + vector + element);
}

// An element of a step, for one sample.
struct Item {
    int row, group, sample, column;
};

// Each element that a thread computes of `columns` in the step's rows, for all samples: take(item).
// Samples are innermost, so that neighbouring threads touch neighbouring floats of the arena. Where
// rows touch the same elements, one thread takes a column of all of them, in their order.
template <typename Take>
PYREL_DEVICE void for_items(const Walk& walk, const Step& step, int64_t columns, Take&& take) {
    const int64_t groups = walk.launch.groups, rows = step.in_order ? 1 : step.rows;
    for (int64_t i = thread(); i < rows * groups * columns * kGroup; i += threads()) {
        const int64_t rest = i / kGroup, column = rest % columns, beyond = rest / columns;
        Item item{static_cast<int>(beyond / groups), static_cast<int>(beyond % groups),
                  static_cast<int>(i % kGroup), static_cast<int>(column)};
        item.row += step.first_row;
        take(item);
        for (int more = 1; step.in_order && more < step.rows; ++more) {
            ++item.row;
            take(item);
        }
    }
}

}  // namespace pyrel::cuda
