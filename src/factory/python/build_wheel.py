"""Builds a wheel of this server (PEP 517), with nothing but Python itself."""

import base64
import hashlib
import os
import re
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))


def read(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as opened:
        return opened.read()


def facts():
    text = read("pyproject.toml")
    return [re.search(rf'^{key} = "([^"]*)"', text, re.M)[1] for key in ("name", "version")]


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name, version = facts()
    module = re.sub(r"[-_.]+", "_", name)
    folder = f"{module}-{version}.dist-info"
    files = {
        f"{module}.py": read("server.py"),
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Python: >=3.10\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: mcp-fabric\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{folder}/entry_points.txt": f"[console_scripts]\n{name} = {module}:run\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    files[f"{folder}/RECORD"] = record + f"{folder}/RECORD,,\n"
    wheel = f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, wheel), "w", zipfile.ZIP_DEFLATED) as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), text)
    return wheel
