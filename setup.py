"""Builds the C++ extension and maps the top-level kernels/ folder to fastlt.kernels; pyproject.toml has the rest."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import find_packages, setup

CSRC = Path("csrc")

ParallelCompile("FASTLT_BUILD_JOBS", default=0).install()

setup(
    packages=[*find_packages(include=["fastlt", "fastlt.*"]), "fastlt.kernels"],
    package_dir={"fastlt.kernels": "kernels"},
    package_data={"fastlt": ["py.typed", "_C.pyi"], "fastlt.report": ["*.html"]},
    ext_modules=[
        Pybind11Extension(
            "fastlt._C",
            sources=sorted(path.as_posix() for path in CSRC.glob("*.cpp")),
            depends=sorted(path.as_posix() for path in CSRC.glob("*.h")),
            cxx_std=17,
            # No fused multiply-adds: arithmetic rounds alike on every processor.
            extra_compile_args=["-O3", "-ffp-contract=off"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
