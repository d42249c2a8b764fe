# SPDX-License-Identifier: Apache-2.0
# Compiles for 64-bit ARM Linux on another machine, and runs what it compiled in QEMU where that is found:
#   cmake -S . -B build/aarch64 --toolchain tools/aarch64-linux-gnu.cmake -DPYREL_PYTHON=OFF -DPYREL_CHECK=ON
#   cmake --build build/aarch64 && qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64/check_kernels
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
find_program(QEMU_AARCH64 NAMES qemu-aarch64 qemu-aarch64-static)
if(QEMU_AARCH64)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${QEMU_AARCH64} -L /usr/aarch64-linux-gnu)
endif()
