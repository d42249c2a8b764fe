// SPDX-License-Identifier: Apache-2.0
// Where the floats of an operand lie, for the samples of a slab. A part of walk.h.
#pragma once

#include "device.h"
#include "image.h"

namespace pyrel::cuda {

// What a team of blocks works on: an image, and a slab of the samples of a launch.
struct Walk {
    const Launch& launch;  // as the kernel is given it: a GPU has that in its constant memory
    Team team;
    float* arena;
    double* absorbed;  // of each sample of the slab, then `largest` and `put_in`
    double* largest;
    double* put_in;
    int64_t first;    // sample of the launch
    int32_t way;      // back
    int32_t samples;  // of the slab; the groups' others are missing
    // Of the slab, at work: all, but within a stretch.
    int32_t first_group, groups;

    template <typename Value>
    PYREL_DEVICE const Value* array(int64_t at) const {
        return reinterpret_cast<const Value*>(launch.image + at);
    }
    PYREL_DEVICE const Step* steps() const { return array<Step>(launch.order.steps_at); }
    PYREL_DEVICE const Operation* operations() const {
        return array<Operation>(launch.header.operations_at);
    }
    PYREL_DEVICE const Listed* listed() const { return array<Listed>(launch.header.listed_at); }
    PYREL_DEVICE const int32_t* offsets() const { return array<int32_t>(launch.header.offsets_at); }
    PYREL_DEVICE const int32_t* index() const { return array<int32_t>(launch.header.index_at); }
    PYREL_DEVICE const float* floats() const { return array<float>(launch.header.floats_at); }
};

// A row of an operand: element e of sample s of group g is base[g · group + s · sample + e ·
// element]. Of the input and of the relevance, missing samples have no memory: they read as 0.
struct Row {
    float* base;
    int64_t group;
    int64_t sample;
    int32_t element;
    int32_t samples;  // that there are
};

// Where what a sample of the slab gets from this way back belongs.
PYREL_DEVICE int64_t result_of(const Walk& walk, int sample) {
    return (walk.first + sample) * walk.launch.ways + walk.way;
}

PYREL_DEVICE Row row_of(const Walk& walk, const Operand& operand, int row) {
    const int64_t offset = constant_at(walk.offsets() + operand.first + row);
    if (operand.memory == Memory::arena)
        return {walk.arena + offset * kGroup, int64_t{walk.launch.header.arena_size} * kGroup, 1,
                kGroup, walk.launch.groups * kGroup};
    const int64_t size = walk.launch.header.input_size;
    if (operand.memory == Memory::input)
        return {const_cast<float*>(walk.launch.x) + walk.first * size + offset, size * kGroup, size,
                1, walk.samples};
    const int64_t apart = walk.launch.ways * size;
    return {walk.launch.relevance + result_of(walk, 0) * size + offset, apart * kGroup, apart, 1,
            walk.samples};
}

PYREL_DEVICE float* place_of(const Row& row, int group, int sample, int64_t element) {
    return row.base + group * row.group + sample * row.sample + element * row.element;
}

PYREL_DEVICE float at(const Row& row, int group, int sample, int64_t element) {
    if (group * kGroup + sample >= row.samples) return 0.0f;
    return read(place_of(row, group, sample, element));
}

PYREL_DEVICE void put(const Row& row, int group, int sample, int64_t element, float value) {
    if (group * kGroup + sample < row.samples) write(place_of(row, group, sample, element), value);
}

// One element of a vector of the image.
PYREL_DEVICE float constant_of(const Walk& walk, int32_t vector, int64_t element) {
    return constant_at(walk.floats() + vector + element);
}

// An element of a step, for one sample.
struct Item {
    int row, group, sample, column;
};

// Each element that a thread computes of `columns` in the step's rows, for all samples: take(item).
// Samples are innermost, so that neighbouring threads touch neighbouring floats of the arena. Where
// rows touch the same elements, one thread takes a column of all of them, in their order. The
// numbers have 32 bits, of which divisions are fast: schedule.cpp has looked (kMostItems).
template <typename Take>
PYREL_DEVICE void for_items(const Walk& walk, const Step& step, int32_t columns, Take&& take) {
    const auto groups = static_cast<uint32_t>(walk.groups), across = static_cast<uint32_t>(columns),
               rows = static_cast<uint32_t>(step.in_order ? 1 : step.rows),
               threads = static_cast<uint32_t>(walk.team.threads);
    for (uint32_t i = walk.team.thread; i < rows * groups * across * kGroup; i += threads) {
        const uint32_t rest = i / kGroup, beyond = rest / across;
        Item item{static_cast<int>(beyond / groups), static_cast<int>(beyond % groups),
                  static_cast<int>(i % kGroup), static_cast<int>(rest % across)};
        item.row += step.first_row;
        item.group += walk.first_group;
        take(item);
        for (int more = 1; step.in_order && more < step.rows; ++more) {
            ++item.row;
            take(item);
        }
    }
}

}  // namespace pyrel::cuda
