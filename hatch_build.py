"""Builds the compiled kernels into the wheel where a C compiler is at hand, and leaves them out where none is.

One is the model's, the other the hot path of the guard. POOLCTL_BUILD_KERNEL=0 leaves them out on purpose (the wheel
then fits every platform), =1 fails without them. ``python hatch_build.py`` builds them in place, for work on the source
tree.
"""

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCES = ("poolctl/engines/model/_kernel.c", "poolctl/guard/_hot_path.c")
SWITCH = "POOLCTL_BUILD_KERNEL"
ABI = "cp311"
"""The stable ABI that both keep to: one file for this Python and all later ones."""

OPTIONS = ["-O2", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
"""No fused multiply-add: it would round once where Python rounds twice. The last two change no number."""


class KernelBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """``version``: "editable" for a link to the source tree, where the kernels are then built in place."""
        asked = os.environ.get(SWITCH, "")
        if asked == "0":
            return
        try:
            built = build(ROOT if version == "editable" else Path(self._folder()))
        except Exception as error:
            # No compiler, no headers, a free-threaded Python: all of them leave the plain Python, which does the same.
            if asked == "1":
                raise
            self.app.display_warning(f"without the compiled kernels: {error}")
            return
        if version != "editable":
            for file in built:
                build_data["force_include"][str(file)] = str(file.relative_to(self._folder()))
        build_data["pure_python"] = False
        build_data["tag"] = f"{ABI}-abi3-{_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        shutil.rmtree(self._folder(), ignore_errors=True)

    def _folder(self) -> str:
        if not hasattr(self, "_temporary"):
            self._temporary = tempfile.mkdtemp(prefix="poolctl-kernel-")
        return self._temporary


def build(folder: Path) -> list[Path]:
    """Compile the kernels to their places below ``folder``. Raises whatever a compiler that is not there raises."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise RuntimeError("a free-threaded Python has no stable ABI")
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    options = [] if sys.platform == "win32" else OPTIONS
    names = [source.removesuffix(".c").replace("/", ".") for source in SOURCES]
    extensions = [
        Extension(name, [source], extra_compile_args=options, py_limited_api=True, depends=[])
        for name, source in zip(names, SOURCES, strict=True)
    ]
    command = build_ext(Distribution({"ext_modules": extensions}))
    # A file of an older source may have a newer date: a copied checkout has one.
    command.force = True
    with tempfile.TemporaryDirectory() as objects:
        command.build_lib, command.build_temp = str(folder), objects
        command.force = True  # a kernel of another version may be newer than the source
        command.ensure_finalized()
        before = Path.cwd()
        os.chdir(ROOT)
        try:
            command.run()
        finally:
            os.chdir(before)
    return [folder / command.get_ext_filename(name) for name in names]


def _platform() -> str:
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    print(*build(ROOT), sep="\n")
