// SPDX-License-Identifier: Apache-2.0
// What each instruction touches, in the order in which it is checked: a visitor's
// rows(rows, columns, access), elements(index, rows, writes) where only some elements of a row are
// touched, and apart(rows, count, stride, columns) where runs of a row are read.
#pragma once

#include "program.h"

namespace pyrel {

// What an instruction does with an operand; `update` reads and writes it.
enum class Access { read, write, update };

inline Access added_if(bool accumulate) { return accumulate ? Access::update : Access::write; }

inline bool reads_operand(Scale scale) { return scale >= Scale::operand; }

inline bool reads_operand(Post post) {
    return post == Post::divide || post == Post::mask || post == Post::guided ||
           post == Post::multiply || post == Post::divide_stabilised ||
           post == Post::divide_operand;
}

// Whatever is given is visited, whether it is used or not: kernels form addresses of all of it.
template <typename Visitor>
void operands(const EpilogueSpec& e, int64_t columns, Visitor& visitor) {
    if (reads_operand(e.scale) || !e.scale_rows.offsets.empty())
        visitor.rows(e.scale_rows, columns, Access::read);
    if (reads_operand(e.post) || !e.post_rows.offsets.empty())
        visitor.rows(e.post_rows, columns, Access::read);
}

template <typename Visitor>
void operands(const Code& code, const Gemm& gemm, Visitor& visitor) {
    const int64_t columns = code.matrix(gemm.matrix).columns;
    for (const Segment& segment : gemm.segments)
        visitor.rows(segment.rows, segment.depth, Access::read);
    operands(gemm.epilogue, columns, visitor);
    visitor.rows(gemm.out, columns, added_if(gemm.epilogue.accumulate));
}

template <typename Visitor>
void operands(const Code&, const Map& map, Visitor& visitor) {
    if (!map.source.offsets.empty()) visitor.rows(map.source, map.columns, Access::read);
    operands(map.epilogue, map.columns, visitor);
    visitor.rows(map.out, map.columns, added_if(map.epilogue.accumulate));
}

template <typename Visitor>
void operands(const Code&, const Gather& gather, Visitor& visitor) {
    visitor.elements(gather.index, gather.source, false);
    visitor.rows(gather.out, static_cast<int64_t>(gather.index.size()), Access::write);
}

template <typename Visitor>
void operands(const Code&, const Scatter& scatter, Visitor& visitor) {
    visitor.elements(scatter.index, scatter.out, true);
    visitor.rows(scatter.source, static_cast<int64_t>(scatter.index.size()), Access::read);
}

template <typename Visitor>
void operands(const Code& code, const Seed& seed, Visitor& visitor) {
    visitor.rows(seed.source, code.classes, Access::read);
    visitor.rows(seed.out, code.classes, Access::write);
}

template <typename Visitor>
void operands(const Code&, const Absorb& absorb, Visitor& visitor) {
    if (!absorb.operand.offsets.empty()) visitor.rows(absorb.operand, absorb.columns, Access::read);
    visitor.rows(absorb.source, absorb.columns, Access::read);
}

template <typename Visitor>
void operands(const Code&, const Activate& activate, Visitor& visitor) {
    visitor.rows(activate.source, activate.columns, Access::read);
    visitor.rows(activate.out, activate.columns, Access::write);
}

template <typename Visitor>
void operands(const Code&, const Slope& slope, Visitor& visitor) {
    visitor.rows(slope.source, slope.columns, Access::read);
    visitor.rows(slope.value, slope.columns, Access::read);
    visitor.rows(slope.out, slope.columns, added_if(slope.accumulate));
}

template <typename Visitor>
void operands(const Code&, const Reduce& reduce, Visitor& visitor) {
    visitor.apart(reduce.source, reduce.count, reduce.stride, reduce.columns);
    visitor.rows(reduce.out, reduce.columns, added_if(reduce.accumulate));
}

template <typename Visitor>
void operands(const Code&, const Matmul& matmul, Visitor& visitor) {
    visitor.rows(matmul.left, matmul.rows * matmul.depth, Access::read);
    visitor.rows(matmul.right, matmul.depth * matmul.columns, Access::read);
    visitor.rows(matmul.out, matmul.rows * matmul.columns, added_if(matmul.accumulate));
}

template <typename Visitor>
void operands(const Code&, const MaxPool& pool, Visitor& visitor) {
    for (const Rows& source : pool.sources) visitor.rows(source, pool.columns, Access::read);
    visitor.rows(pool.out, pool.columns, Access::write);
}

template <typename Visitor>
void operands(const Code&, const PoolRoute& route, Visitor& visitor) {
    for (const Rows& value : route.values) visitor.rows(value, route.columns, Access::read);
    visitor.rows(route.relevance, route.columns, Access::read);
    for (const Rows& out : route.outs) visitor.rows(out, route.columns, added_if(route.accumulate));
}

template <typename Visitor>
void operands(const Code&, const Normalise& normalise, Visitor& visitor) {
    visitor.rows(normalise.source, normalise.columns, Access::read);
    visitor.rows(normalise.out, normalise.columns, Access::write);
}

template <typename Visitor>
void operands(const Code&, const NormaliseBack& back, Visitor& visitor) {
    visitor.rows(back.source, back.columns, Access::read);
    visitor.rows(back.value, back.columns, Access::read);
    visitor.rows(back.out, back.columns, added_if(back.accumulate));
}

template <typename Visitor>
void operands(const Code& code, const Embed& embed, Visitor& visitor) {
    visitor.rows(embed.source, 1, Access::read);
    visitor.rows(embed.out, code.table(embed.table).columns, Access::write);
}

}  // namespace pyrel
