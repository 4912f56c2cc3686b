"""The rules of the house, as tests: layers, the plug-in folder, the packages list, sizes, words."""

import ast
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "atlas_nnunet"

STAGES = {
    "compare", "convert", "datasets", "demo", "env", "evaluate", "fingerprint", "plan", "predict",
    "preprocess", "train", "transfer",
}  # fmt: skip
VOCABULARY = {
    "pool", "cluster",
    "errors", "artefacts", "structures", "labelmap", "labelstatus", "registry", "geometry",
    "images", "itkheader", "leakage", "nifti", "reoriented", "rawdata", "registry_laws",
    "execution", "progress", "page", "drawing", "published", "schedule",
    "settings",
}  # fmt: skip
# What each layer may import of the package, beside itself. DESIGN:
# vocabulary <- {host, reading, kernels, networks, scoring, statistics} <- volume
# <- {stages | training}
# <- {planners | trainers} <- cli.
BELOW = {
    "vocabulary": set(),
    "host": VOCABULARY | {"host"},
    "reading": VOCABULARY,
    "kernels": VOCABULARY,
    "networks": VOCABULARY,
    "scoring": VOCABULARY,
    "statistics": VOCABULARY,
    "volume": VOCABULARY | {"host", "reading", "kernels"},
    "training": VOCABULARY | {"host", "kernels", "scoring", "volume"},
    "stage": VOCABULARY
    | {"host", "hosttraining", "reading", "kernels", "networks", "scoring", "statistics", "volume"},
    "plug": VOCABULARY | {"host", "kernels", "networks", "volume", "training"} | STAGES,
    "cli": VOCABULARY,
    "shim": {"trainers"},
}
MAY_IMPORT_HOST = {
    "host", "hosttraining", "reading", "volume", "training", "fingerprint", "preprocess",
    "predict", "transfer",
}  # fmt: skip
NO_TORCH = VOCABULARY | {
    "reading", "scoring", "statistics", "convert", "datasets", "env", "evaluate", "compare",
    "cli", "demo",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file, lazily or not, `from a import b` as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def modules(*folders: str) -> list[Path]:
    found = sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))
    assert found, f"{folders} hold nothing: this test would pass by checking nothing"
    return found


def part_of(path: Path) -> str:
    """The module or sub-package of atlas_nnunet that a file belongs to."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] != "atlas_nnunet" else parts[1].removesuffix(".py")


def layer_of(part: str) -> str:
    table = {"planners": "plug", "trainers": "plug", "__init__": "vocabulary"}
    table["hosttraining"] = "host"
    for name in ("host", "reading", "kernels", "networks", "scoring", "statistics", "volume",
                 "training", "cli", "shim"):  # fmt: skip
        table[name] = name
    table |= dict.fromkeys(STAGES, "stage") | dict.fromkeys(VOCABULARY, "vocabulary")
    return table[part]  # a KeyError here: say above which layer the new part belongs to


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules("atlas_nnunet", "planners", "trainers"), ids=ids)
def test_layers_hold(path):
    part = part_of(path)
    allowed = BELOW[layer_of(part)] | {part}
    if layer_of(part) == "vocabulary":
        allowed = allowed | VOCABULARY
    for name in imports(path):
        assert not name.startswith("."), f"{path.name}: absolute imports only"
        if name.startswith("atlas_nnunet."):
            other = name.split(".")[1]
            is_attribute = other.startswith("__")
            assert other in allowed or is_attribute, f"{part} imports {name}"
        if name.split(".")[0] == "nnunetv2" and layer_of(part) != "plug":
            assert part in MAY_IMPORT_HOST, f"{part} imports {name}"
        if name.split(".")[0] == "torch":
            assert part not in NO_TORCH, f"{part} imports {name}"


@pytest.mark.parametrize("path", modules("trainers", "atlas_nnunet/shim"), ids=ids)
def test_a_trainer_survives_the_way_nnunet_imports_it(path):
    if path.stem == "__init__":
        assert not path.read_text(), "nnU-Net never runs this file"
        return
    assert path.stem.startswith("atlas_"), "imported as a top-level module: the name must be ours"
    assert path.stem not in sys.stdlib_module_names
    siblings = {p.stem for p in path.parent.glob("*.py")}
    for name in imports(path):
        assert name.split(".")[0] not in siblings, "a sibling is no package to the host"


def test_every_package_is_shipped():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    found = {"atlas_nnunet.planners", "atlas_nnunet.trainers"}
    for init in PACKAGE.rglob("__init__.py"):
        found.add(".".join(init.parent.relative_to(ROOT).parts))
    assert listed == found


def test_help_needs_neither_torch_nor_nnunet():
    code = (
        "import sys; from atlas_nnunet import cli; print({'torch', 'nnunetv2'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize("path", modules("atlas_nnunet", "planners", "trainers"), ids=ids)
def test_files_and_functions_keep_to_their_budget(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 300, "is there a second thing that wants its own room?"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name}: {length} lines"
            untyped = [a.arg for a in node.args.args if not a.annotation and a.arg != "self"]
            assert not set(untyped) - {"cls"}, f"{node.name}: {untyped} have no type"


def test_the_median_file_is_short():
    lengths = sorted(
        len(p.read_text().splitlines())
        for p in modules("atlas_nnunet", "planners", "trainers")
        if p.name != "__init__.py"
    )
    assert lengths[len(lengths) // 2] <= 150


@pytest.mark.parametrize("path", modules("atlas_nnunet", "planners", "trainers"), ids=ids)
def test_what_a_user_can_cause_is_raised_not_asserted(path):
    asserts = [n.lineno for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Assert)]
    assert not asserts, f"assert in lines {asserts}: python -O drops them"
