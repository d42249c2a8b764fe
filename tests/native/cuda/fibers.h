// SPDX-License-Identifier: Apache-2.0
// Fibers: stacks of their own, and the switch from one to another. On x86-64 the switch is a
// function of fifteen instructions, since ucontext's asks the kernel for the signal mask each time.
// For emulator.cpp alone: the function is defined here.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if !defined(__x86_64__) && !defined(PYREL_FIBERS_OF_UCONTEXT)
#define PYREL_FIBERS_OF_UCONTEXT
#endif
#if defined(PYREL_FIBERS_OF_UCONTEXT)
#include <ucontext.h>
#endif

namespace pyrel::cuda::emulated {

constexpr size_t kStackBytes = 64 * 1024;

// Stacks with a page below each that nobody may touch: a stack that is too small is a crash.
class Stacks {
  public:
    Stacks() = default;
    Stacks(const Stacks&) = delete;
    Stacks& operator=(const Stacks&) = delete;
    ~Stacks() { release(); }

    void reserve(int count) {
        if (count <= count_) return;
        release();
        page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t bytes = static_cast<size_t>(count) * stride();
        void* made = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (made == MAP_FAILED) throw std::bad_alloc();
        base_ = static_cast<char*>(made);
        count_ = count;
        for (int i = 0; i < count; ++i) {
            if (mprotect(base_ + static_cast<size_t>(i) * stride(), page_, PROT_NONE) != 0) {
                throw std::bad_alloc();
            }
        }
    }
    char* bottom(int i) const { return base_ + static_cast<size_t>(i) * stride() + page_; }
    // Stacks are a number of pages apart, so their used ends would share one set of the cache.
    static size_t bytes(int i) { return kStackBytes - static_cast<size_t>(i % 32) * 128; }

  private:
    size_t stride() const { return kStackBytes + page_; }
    void release() {
        if (base_ != nullptr) munmap(base_, static_cast<size_t>(count_) * stride());
        base_ = nullptr;
        count_ = 0;
    }

    char* base_ = nullptr;
    size_t page_ = 0;
    int count_ = 0;
};

#if defined(PYREL_FIBERS_OF_UCONTEXT)

using Place = ucontext_t;

inline void begin_at(Place& place, char* bottom, size_t bytes, void (*entry)()) {
    getcontext(&place);
    place.uc_stack.ss_sp = bottom;
    place.uc_stack.ss_size = bytes;
    place.uc_link = nullptr;
    makecontext(&place, entry, 0);
}

inline void switch_fiber(Place& from, Place& to) { swapcontext(&from, &to); }

#else

// Saves what a callee has to keep on the stack that is left, and takes it from the other. The
// state of the floating-point unit is the same in all fibers. It ends with `ret`: fibers mostly
// wait at the same place, so the processor's prediction of return addresses stays right.
asm(R"(
.text
.p2align 4
pyrel_switch_fiber:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
extern "C" void pyrel_switch_fiber(void** from, void* to) asm("pyrel_switch_fiber");

// Where a fiber stands: the end of its stack, on which lie six registers and a return address.
struct Place {
    void* stack = nullptr;
};

inline void begin_at(Place& place, char* bottom, size_t bytes, void (*entry)()) {
    const uintptr_t top = (reinterpret_cast<uintptr_t>(bottom) + bytes) & ~uintptr_t{15};
    // An entered function expects its own return address, here null, at 8 bytes below a multiple
    // of 16.
    auto* slots = reinterpret_cast<uintptr_t*>(top - 64);
    for (int i = 0; i < 8; ++i) slots[i] = 0;
    slots[6] = reinterpret_cast<uintptr_t>(entry);
    place.stack = slots;
}

inline void switch_fiber(Place& from, Place& to) { pyrel_switch_fiber(&from.stack, to.stack); }

#endif

}  // namespace pyrel::cuda::emulated
