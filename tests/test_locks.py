"""The lists of pinned packages: pip's and uv's have the same versions, and uv's belongs to pyproject.toml as it is."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from attrbind_exp.config import CONF

ROOT = CONF.parent
TEXT = (ROOT / "uv.lock").read_text()
LOCK = tomllib.loads(TEXT)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
(OWN,) = [package for package in LOCK["package"] if package["name"] == "attrbind-exp"]


def pins(name):
    """{package: version} of a list of pip's."""
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_uv_and_pip_install_the_same_versions():
    found = {}
    for package in LOCK["package"]:
        if package is not OWN:  # 2.13.0+cpu is a build of 2.13.0
            found.setdefault(package["name"], set()).add(package["version"].partition("+")[0])
    pinned = pins("requirements.lock") | pins("requirements-docs.lock")
    differ = {name: found.get(name) for name, version in pinned.items() if found.get(name) != {version}}
    older = differ.pop("importlib-metadata")  # the other is the one that mlflow wants, alone
    assert differ == {} and len(older) == 2 and pinned["importlib-metadata"] in older


def test_uv_lock_belongs_to_the_dependencies_as_they_are():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [("", Requirement(line)) for line in PROJECT["project"]["dependencies"]]
    wanted += [(f"extra == '{extra}'", Requirement(line)) for extra, lines in extras.items() for line in lines]
    locked = {(r["name"], r.get("marker", ""), r.get("specifier", "")) for r in OWN["metadata"]["requires-dist"]}
    made = {(name, marker, frozenset(filter(None, given.split(",")))) for name, marker, given in locked}
    assert made == {(canonicalize_name(r.name), marker, frozenset(map(str, r.specifier))) for marker, r in wanted}


def test_uv_lock_names_public_addresses_alone_and_cuda_is_asked_for():
    hosts = set(re.findall(r"https?://([^/\"]+)", TEXT))
    assert hosts == {"pypi.org", "files.pythonhosted.org", "download.pytorch.org", "download-r2.pytorch.org"}
    assert PROJECT["tool"]["uv"]["default-groups"] == ["cpu"]
    (cpu,) = [p for p in LOCK["package"] if p["name"] == "torch" and p["version"].endswith("+cpu")]
    wheels = [re.search(r"-(cp\d+)-cp\d+-.*_(x86_64|aarch64)\.whl$", wheel["url"]).groups() for wheel in cpu["wheels"]]
    assert sorted(wheels) == [(f"cp3{n}", machine) for n in range(11, 15) for machine in ("aarch64", "x86_64")]
    assert not any(needed["name"].startswith("nvidia") for needed in cpu["dependencies"])
