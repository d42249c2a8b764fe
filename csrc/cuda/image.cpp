// SPDX-License-Identifier: Apache-2.0
#include "image.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "../program/way_back.h"
#include "make_image.h"
#include "operations.h"
#include "schedule.h"

namespace pyrel::cuda {
namespace {

std::vector<Operation> operations_of(const std::vector<Plain>& all, Pools& pools) {
    std::vector<Operation> operations;
    for (const Plain& plain : all)
        operations.push_back(
            std::visit([&](const auto* i) { return operation_of(*i, pools); }, plain));
    return operations;
}

// A header, and arrays behind it.
class Image {
  public:
    Image() : bytes_(static_cast<size_t>(rounded_up(sizeof(Header), kAligned))) {}

    // The byte at which they begin.
    template <typename Value>
    int64_t append(const std::vector<Value>& values) {
        const int64_t at = std::ssize(bytes_);
        const size_t bytes = values.size() * sizeof(Value);
        bytes_.resize(static_cast<size_t>(rounded_up(at + static_cast<int64_t>(bytes), kAligned)));
        if (bytes > 0) std::memcpy(bytes_.data() + at, values.data(), bytes);
        return at;
    }
    std::vector<char> finished(Header header) {
        header.bytes = std::ssize(bytes_);
        std::memcpy(bytes_.data(), &header, sizeof header);
        return std::move(bytes_);
    }

  private:
    static constexpr int64_t kAligned = 16;
    std::vector<char> bytes_;
};

}  // namespace

std::vector<char> image_of(const Program& program) {
    require(program.finished(), "the program is not finished");
    const Code& code = *program.code();
    require(std::max(code.arena_size, code.input_size) <= kMostFloats,
            "the CUDA engine runs no program with so much memory a sample");
    Pools pools(program);
    const std::vector<Plain> all = plain_of(code);
    const std::vector<Operation> operations = operations_of(all, pools);
    Image image;
    Header header;
    const auto append = [&](const std::vector<Stretch>& stretches) {
        Schedule schedule(code, all);
        for (const Piece& piece : pieces_of(code, all, stretches)) schedule.add(piece);
        header.most_items = std::max(header.most_items, small(schedule.most_items()));
        return Order{image.append(schedule.steps()), small(std::ssize(schedule.steps())),
                     schedule.seed()};
    };
    header.whole = append(whole_of(code));
    if (const auto stretches = stretches_in(code); !stretches.empty())
        header.in_parts = append(stretches);
    header.input_size = small(code.input_size);
    header.arena_size = small(code.arena_size);
    header.classes = small(code.classes);
    header.explains = code.explains;
    header.conserves = code.conserves;
    header.multiplies_bf16 = code.multiplies_bf16;
    header.keeps_forward = way_back_of(code).keeps_forward;
    header.operations_at = image.append(operations);
    header.listed_at = image.append(pools.all_listed());
    header.offsets_at = image.append(pools.offsets());
    header.index_at = image.append(pools.indices());
    header.floats_at = image.append(pools.floats());
    return image.finished(header);
}

}  // namespace pyrel::cuda
