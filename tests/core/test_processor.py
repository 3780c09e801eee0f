"""What decides the last digits of a result is written down."""

from __future__ import annotations

import platform

from workflow_lib.core.processor import processor, processor_name

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Processor
stepping\t: 8
flags\t\t: fpu model avx2

processor\t: 1
model name\t: another
"""


def test_the_name_of_a_virtual_processor_shows_its_generation(tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert processor_name(tmp_path / "cpuinfo") == "Intel(R) Xeon(R) Processor (family 6/143/8)"


def test_without_cpuinfo_it_is_what_python_knows(tmp_path):
    assert processor_name(tmp_path / "none") == (platform.processor() or platform.machine())


def test_instruction_set_threads_and_library():
    import torch

    found = processor()
    assert found["instruction_set"] == torch.backends.cpu.get_cpu_capability()
    assert found["threads"] == torch.get_num_threads()
    assert found["math_library"] != "unknown"
