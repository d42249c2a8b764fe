# SPDX-License-Identifier: Apache-2.0
"""Each check of the machine code for GPUs finds its own fault, and none in code that is right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import check_cuda_code
import pytest
from check_cuda_code import Usage, faults_of, faults_of_code, product_loops, usages
from sass import Code, loops, parse

TOOL = Path(check_cuda_code.__file__)

LOG = """\
[1/3] Compiling the CUDA kernel
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'walk' for 'sm_90a'
ptxas info    : Function properties for walk
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 219 registers, used 1 barriers
ptxas info    : Compiling entry function 'walk' for 'sm_80'
ptxas info    : Function properties for walk
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for helper
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 213 registers, used 1 barriers, 488 bytes cmem[0]
"""

# A product by tensor cores, whose block at .L_x_4 the compiler has moved behind the end, and one in
# float32 within a loop that divides and adds doubles behind both.
SASS = """\
	.section	.text.walk,"ax",@progbits
        .size           walk,(.L_x_9 - walk)
walk:
.text.walk:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   ISETP.GE.AND P0, PT, R2, R3, PT ;
.L_x_1:
        /*0020*/                   LDG.E.128.CONSTANT R4, desc[UR6][R8.64] ;
        /*0030*/               @P1 BRA `(.L_x_4) ;
.L_x_2:
        /*0040*/                   HMMA.1688.F32.TF32 R88, R92, R146, R88 ;
        /*0050*/              @!P0 BRA P2, `(.L_x_1) ;
.L_x_3:
        /*0060*/                   LDG.E.128.CONSTANT R4, desc[UR6][R8.64] ;
        /*0070*/                   FFMA.FTZ R9, R4, R5, R9 ;
        /*0080*/               @P0 BRA `(.L_x_3) ;
        /*0090*/                   CALL.REL.NOINC `($__internal_0_$__divide) ;
        /*00a0*/                   DADD R10, R10, R12 ;
        /*00b0*/               @P3 BRA `(.L_x_0) ;
        /*00c0*/                   EXIT ;
.L_x_4:
        /*00d0*/                   FADD R5, R5, R6 ;
        /*00e0*/                   BRA `(.L_x_2) ;
        .weak           $__internal_0_$__divide
$__internal_0_$__divide:
        /*00f0*/                   MUFU.RCP R5, R6 ;
        /*0100*/                   RET.REL.NODEC R92 `(walk) ;
.L_x_9:
"""
ONE = Usage(stack=0, spilled=0, registers=219)
USED = {("sm_80", "walk"): ONE}
INTO_TENSOR = "        /*0040*/                   HMMA"
INTO_FLOAT32 = "        /*0070*/                   FFMA"


def code_of(text: str) -> Code:
    (code,) = parse(text)
    return code


def put_in(before: str, instruction: str) -> str:
    assert SASS.count(before) == 1
    return SASS.replace(before, f"        /*0035*/                   {instruction} ;\n{before}")


def test_good_code_has_no_fault() -> None:
    assert faults_of("sm_80", parse(SASS), USED) == []
    assert usages(LOG) == {
        ("sm_90a", "walk"): ONE,
        ("sm_80", "walk"): Usage(stack=0, spilled=0, registers=213),
        ("sm_80", "helper"): Usage(stack=0, spilled=0),
    }


def test_instructions_are_read_with_their_predicates_and_labels() -> None:
    code = code_of(SASS)
    assert code.name == "walk"
    assert len(code.instructions) == 17
    assert code.labels[".L_x_4"] == 13
    assert code.instructions[5] == ("BRA", "P2, `(.L_x_1)", True)
    assert [one.called for one in code.instructions if one.called] == ["$__internal_0_$__divide"]


def test_loops_hold_blocks_that_were_moved_behind_them() -> None:
    code = code_of(SASS)
    inner, float32, outer = {2, 3, 4, 5, 13, 14}, {6, 7, 8}, {*range(1, 12), 13, 14}
    assert sorted(map(sorted, loops(code))) == sorted(map(sorted, (inner, float32, outer)))
    assert product_loops(code) == [inner, float32]


def test_a_jump_goes_to_all_places_of_its_table() -> None:
    table = """BRX R52 -0x13a0 (*"BRANCH_TARGETS .L_x_1,.L_x_3"*)"""
    code = code_of(put_in("        /*0060*/", table))
    assert set(code.after(6)) == {code.labels[".L_x_1"], code.labels[".L_x_3"]}
    with pytest.raises(ValueError, match="without targets: BRX"):
        loops(code_of(put_in("        /*0060*/", "BRX R52 -0x13a0")))


def test_a_call_of_a_label_is_a_jump() -> None:
    code = code_of(put_in(INTO_TENSOR, "@P1 CALL.REL.NOINC `(.L_x_1)"))
    assert faults_of_code(code) == []
    assert set(code.after(4)) == {code.labels[".L_x_1"], 5}


@pytest.mark.parametrize(
    ("instruction", "fault"),
    [
        ("CALL.REL.NOINC `($__internal_0_$__divide)", r"calls \$__internal_0_\$__divide"),
        ("CALL.ABS.NOINC R20", "calls R20"),
        ("DFMA R4, R4, R6, R8", r"double precision \(DFMA\)"),
        ("F2F.F64.F32 R4, R6", r"double precision \(F2F.F64.F32\)"),
        ("MUFU.RCP64H R4, R6", r"double precision \(MUFU.RCP64H\)"),
        ("LDL R4, [R1]", "1 instructions touch local memory"),
        ("STL.64 [R1+0x8], R4", "1 instructions touch local memory"),
    ],
)
@pytest.mark.parametrize("place", [INTO_TENSOR, INTO_FLOAT32], ids=["tensor", "float32"])
def test_what_a_product_should_not_hold(place: str, instruction: str, fault: str) -> None:
    (found,) = faults_of("sm_80", parse(put_in(place, instruction)), USED)
    assert found.startswith("sm_80 walk: ")
    assert re.search(fault, found)


def test_local_memory_is_found_anywhere() -> None:
    (found,) = faults_of_code(code_of(put_in("        /*00c0*/", "LDL R4, [R1]")))
    assert "local memory" in found


def test_code_without_tensor_cores() -> None:
    for other in ("FFMA.FTZ", "HMMA.16816.F32.BF16"):
        (found,) = faults_of("sm_80", parse(SASS.replace("HMMA.1688.F32.TF32", other)), USED)
        assert found == "sm_80: no product is computed by tensor cores (HMMA of TF32)"


def test_tensor_cores_outside_of_a_loop() -> None:
    text = put_in("        /*00c0*/", "HMMA.1688.F32.TF32 R88, R92, R146, R88")
    assert faults_of_code(code_of(text)) == ["1 instructions of tensor cores stand in no loop"]


def test_weights_that_are_read_one_by_one() -> None:
    narrow = SASS.replace("LDG.E.128.CONSTANT", "LDG.E.CONSTANT")
    loop, all_code = faults_of("sm_80", parse(narrow), USED)
    assert "does not read weights 16 bytes at once" in loop
    assert all_code == "sm_80: weights are not read 16 bytes at once (LDG.E.128)"
    one_loop = SASS.replace("LDG.E.128.CONSTANT", "LDG.E.CONSTANT", 1)
    assert faults_of("sm_80", parse(one_loop), USED) == [loop]


@pytest.mark.parametrize(
    ("usage", "fault"),
    [
        (Usage(stack=16, spilled=0, registers=219), "it has a stack frame of 16 bytes"),
        (Usage(stack=0, spilled=8, registers=219), "it stores and loads 8 bytes of spilled"),
        (Usage(stack=0, spilled=0, registers=256), "it takes 256 registers, more than 255"),
    ],
)
def test_what_a_kernel_should_not_take(usage: Usage, fault: str) -> None:
    (found,) = faults_of("sm_80", parse(SASS), {("sm_80", "walk"): usage})
    assert found.startswith(f"sm_80 walk: {fault}")
    (helper,) = faults_of("sm_80", parse(SASS), {**USED, ("sm_80", "helper"): usage})
    assert helper.startswith(f"sm_80 helper: {fault}")


def test_a_spill_is_read_from_the_log() -> None:
    log = LOG.replace("0 bytes spill stores, 0 bytes", "4 bytes spill stores, 12 bytes", 1)
    assert usages(log)["sm_90a", "walk"].spilled == 16
    assert usages(log)["sm_80", "walk"].spilled == 0


def test_what_is_missing_is_a_fault() -> None:
    assert faults_of("sm_90a", [], USED) == ["sm_90a: the library has no code for it"]
    (unknown,) = faults_of("sm_90a", parse(SASS), USED)
    assert unknown == "sm_90a walk: ptxas does not say what it takes"


def test_an_incomplete_log_is_refused() -> None:
    lines = LOG.splitlines(keepends=True)
    with pytest.raises(ValueError, match="does not end walk for sm_80"):
        usages("".join(lines[:-1]))
    with pytest.raises(ValueError, match="does not end walk for sm_90a"):
        usages("".join(line for line in lines if "219" not in line))
    with pytest.raises(ValueError, match="does not say what walk spills for sm_90a"):
        usages("".join(lines[:3] + lines[5:]))


def test_without_nvcc_it_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, TOOL], capture_output=True, text=True, env={"PATH": str(tmp_path)}
    )
    assert done.returncode == 2
    assert done.stderr.startswith("nvcc is not found: install the CUDA toolkit")
    assert done.stderr.count("\n") == 1


def test_the_library(tmp_path: Path) -> None:
    if os.environ.get("PYREL_CHECK_CUDA") != "1":
        pytest.skip("takes minutes: PYREL_CHECK_CUDA=1 runs it, as make cuda does")
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not found")
    command = [sys.executable, TOOL, "--build-dir", tmp_path / "build", "--sass-to", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in tmp_path.glob("*.sass")} == {"sm_80.sass", "sm_90a.sass"}
