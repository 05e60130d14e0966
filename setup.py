"""The one compiled part, which is optional; all else about the package is in pyproject.toml.

Where there is no C compiler or no libjpeg-turbo (Debian: libjpeg62-turbo-dev), the installation goes on without
it: the same pixels, read a little slower. WSI_ATS_PURE=1 leaves it away on purpose.
"""

import os
import sysconfig

from setuptools import Extension, setup

# The stable ABI: one build for all Pythons from 3.11 on, but for those without the interpreter's lock.
STABLE = not sysconfig.get_config_var("Py_GIL_DISABLED")
PURE = os.environ.get("WSI_ATS_PURE", "") not in ("", "0")

window = Extension(
    "wsi_ats.slides._window",
    ["wsi_ats/slides/_window.c"],
    libraries=["jpeg"],
    optional=True,
    py_limited_api=STABLE,
)

setup(
    ext_modules=[] if PURE else [window],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE and not PURE else {},
)
