"""Compiles the CPU kernels in csrc/, once for each instruction set, into libraries that any Python can load.

They are optional: without a compiler, or with one that does not know the vector extensions of GCC and Clang, the package
installs without them and plain PyTorch does the work (`openxlstm doctor` says which). Nothing of PyTorch is needed to build.
"""

import os
import platform
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

X86 = platform.machine().lower() in ("x86_64", "amd64")
VARIANTS = {"baseline": []}
if X86:
    avx2 = ["-mavx2", "-mfma", "-mf16c"]
    VARIANTS["avx2"] = avx2
    VARIANTS["avx512"] = [
        *avx2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512",
    ]  # fmt: skip
# No -ffast-math: it lets NaN through unseen, and linked into a library it changes how the whole process rounds (FTZ, DAZ).
FLAGS = [
    "-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-ffp-contract=fast",
    "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wno-psabi", "-Wno-unknown-pragmas",
]  # fmt: skip
if os.environ.get("OPENXLSTM_SANITIZE"):  # for tests: memory errors and undefined behaviour end the process (see .ci/run)
    FLAGS += ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
if os.environ.get("OPENXLSTM_VARIANTS"):  # only these, separated by commas
    VARIANTS = {name: VARIANTS[name] for name in os.environ["OPENXLSTM_VARIANTS"].split(",")}
SOURCES = sorted(str(path) for path in Path("csrc").glob("*.cpp"))
HEADERS = sorted(str(path) for path in Path("csrc").glob("*.h"))


class BuildKernels(build_ext):
    """Plain `.so` names without a Python version, one object folder a variant, sources side by side on all cores."""

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext):
        openmp = ["-fopenmp"] if self.compiles(["-fopenmp"]) else []  # Apple's clang has none: one thread then
        link = [*openmp, *(flag for flag in FLAGS if flag.startswith("-fsanitize"))]
        flags = [*FLAGS, *ext.extra_compile_args, *openmp]
        folder = os.path.join(self.build_temp, ext.name)

        def compiled(source):
            return self.compiler.compile([source], output_dir=folder, extra_postargs=flags)[0]

        with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) as pool:
            objects = list(pool.map(compiled, ext.sources))
        target = self.get_ext_fullpath(ext.name)
        self.compiler.link_shared_object(objects, target, extra_postargs=link, target_lang="c++")

    def compiles(self, flags):
        """Whether the compiler takes `flags` for a C++ source."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "try.cpp")
            Path(source).write_text("int main() { return 0; }\n")
            command = [*self.compiler.compiler_so, *flags, "-c", source, "-o", os.path.join(folder, "try.o")]
            try:
                return subprocess.run(command, capture_output=True, check=False).returncode == 0
            except OSError:
                return False


class Wheel(bdist_wheel):
    """Tagged for a platform and for no Python: the libraries are loaded with ctypes."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            f"openxlstm.ops._cpu_{variant}",
            SOURCES,
            depends=HEADERS,
            extra_compile_args=flags,
            language="c++",
            optional=True,
        )
        for variant, flags in VARIANTS.items()
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": Wheel},
)
