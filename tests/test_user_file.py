"""Nets of the user's own files; every mistake is one clear line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from model import registry, user_file
from model.checks import check_output
from model.errors import ModelError

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, {signature}):
        super().__init__()
        self.given = {given}
        self.fc = nn.Linear(3 * 32 * 32, {outputs})

    def forward(self, x):
        return self.fc(x.flatten(1))
"""


def write(folder: Path, text: str) -> str:
    file = folder / "mine.py"
    file.write_text(text)
    return f"{file}:Net"


def net_file(folder: Path, signature: str = "", given: str = "None", outputs: str = "10") -> str:
    return write(folder, NET.format(signature=signature, given=given, outputs=outputs))


@pytest.mark.parametrize("name", ["classes", "num_classes"])
def test_users_class_gets_what_its_signature_takes(tmp_path: Path, name: str) -> None:
    spec = net_file(tmp_path, f"{name}, norm, width=1", "(norm, width)", name)
    net = registry.build(spec, classes=4, norm="group", options={"width": 3})
    assert net.given == ("group", 3)
    check_output(net, 4)


def test_users_class_without_arguments(tmp_path: Path) -> None:
    spec = net_file(tmp_path)
    check_output(registry.build(spec), 10)
    with pytest.raises(ModelError, match="takes no norm"):
        registry.build(spec, norm="layer")
    with pytest.raises(ModelError, match=r"no option 'a'.*none"):
        registry.build(spec, options={"a": 1})


def test_a_norm_that_is_a_class_is_left_alone(tmp_path: Path) -> None:
    net = registry.build(net_file(tmp_path, "norm=nn.BatchNorm2d", "norm"))
    assert net.given is nn.BatchNorm2d


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    check_output(registry.build(net_file(tmp_path, outputs="10")), 10)
    check_output(registry.build(net_file(tmp_path, outputs="11")), 11)


def test_neighbouring_files_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "helper_of_mine.py").write_text("WIDTH = 10")
    text = "from helper_of_mine import WIDTH\n" + NET.format(signature="", given=0, outputs="WIDTH")
    path = list(sys.path)
    check_output(registry.build(write(tmp_path, text)), 10)
    assert sys.path == path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class Net(\n", r"mine\.py, line 1: syntax error"),
        ("\nimport no_such_package\n", r"mine\.py, line 2: ModuleNotFoundError"),
        ("raise SystemExit(3)", r"mine\.py, line 1: SystemExit: 3"),
        ("class Other: pass", r"mine\.py has no class 'Net': it has Other"),
        ("Net = 3", r"has no class 'Net': it has no classes"),
        ("class Net: pass", r"is not a torch\.nn\.Module but a Net"),
        ("class Net:\n def __init__(self): raise ValueError('no\\nway')", "ValueError: no$"),
        ("class Net:\n def __init__(self, depth): pass", "cannot build .*'depth'"),
    ],
)
def test_errors_in_the_users_file_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        registry.build(write(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_missing_file_and_missing_class_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such file: \?\.py"):
        registry.build("\udcff.py:Net")
    with pytest.raises(ModelError, match="no such file"):
        registry.build(f"{tmp_path}/none.py:Net")
    with pytest.raises(ModelError, match="name the class as well"):
        registry.build(f"{tmp_path}/none.py")
    with pytest.raises(ModelError) as raised:
        registry.build("\x1b[31m\nx.py:Net")
    assert str(raised.value).isprintable()


def test_each_net_has_the_helpers_of_its_own_folder_as_they_are_now(tmp_path: Path) -> None:
    for name, width in (("p", 3), ("q", 5)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "net_helper_blocks.py").write_text(f"WIDTH = {width}\n")
        (folder / "net.py").write_text(
            "from torch import nn\nfrom net_helper_blocks import WIDTH\n"
            "def make(classes):\n    import net_helper_blocks\n"
            "    assert net_helper_blocks.WIDTH == WIDTH\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, WIDTH), nn.Linear(WIDTH, 10))\n"
        )

    def width(name: str) -> int:
        net = registry.build(f"{tmp_path / name / 'net.py'}:make")
        return int(net[1].out_features)  # type: ignore[index,union-attr]

    assert [width(name) for name in ("p", "q", "p")] == [3, 5, 3]
    (tmp_path / "p" / "net_helper_blocks.py").write_text("WIDTH = 17\n")
    assert width("p") == 17


@pytest.mark.parametrize("name", ["model", "trainer", "tui"])
@pytest.mark.parametrize(
    "body",
    [
        "from {0} import Block",
        "import {0}\nBlock = {0}.Block",
        "from {0}.more import Block",
        "def Net():\n    from {0} import Block",
    ],
)
def test_a_helper_with_a_name_of_ours_is_told(tmp_path: Path, name: str, body: str) -> None:
    spec = write(tmp_path, body.format(name))
    with pytest.raises(ModelError) as raised:
        registry.build(spec)
    assert "a helper" not in str(raised.value), "there is none"
    (tmp_path / f"{name}.py").write_text("class Block: pass\n")
    told = rf"mine\.py, line \d: a helper cannot be called {name}\.py: .*, rename it$"
    with pytest.raises(ModelError, match=told):
        registry.build(spec)


LAZY = """
import os, sys
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        from lazy_helper import WIDTH
        from lazy_parts.more import MORE
        self.body = nn.Linear(3072, WIDTH + MORE)
    def forward(self, x):
        import late_helper
        return self.body(x.flatten(1))[:, :10] * late_helper.ONE
"""


@pytest.mark.parametrize("path", ["", "sys.path.insert(0, os.path.dirname(__file__))\n"])
def test_what_a_net_imports_late_is_its_own_and_read_anew(tmp_path: Path, path: str) -> None:
    before, finders = list(sys.path), list(sys.meta_path)
    for name, width in (("p", 11), ("q", 12), ("p", 13)):
        folder = tmp_path / name
        (folder / "lazy_parts").mkdir(parents=True, exist_ok=True)
        (folder / "net.py").write_text(LAZY.replace("class Net", f"{path}class Net"))
        texts = {
            "net.py": (folder / "net.py").read_text(),
            "lazy_helper.py": f"WIDTH = {width}\n",  # as long as before, in the same second
            "lazy_parts/more.py": "MORE = 1\n",
            "late_helper.py": f"ONE = 1 + 0 * {width}\n",
        }
        for file, text in texts.items():
            (folder / file).write_text(text)
        spec = f"{folder / 'net.py'}:Net"
        net = registry.build(spec)
        assert net.body.out_features == width + 1  # type: ignore[union-attr]
        assert "late_helper" not in sys.modules
        with user_file.importable(spec):
            check_output(net, 10)
        found = user_file.sources()
        assert {str(p.relative_to(folder)): s for p, s in found.items() if s is not None} == {
            file: text.encode() for file, text in texts.items()
        }
        if not path:
            assert sys.path == before
        assert sys.meta_path == finders
    registry.build(net_file(tmp_path))
    assert not {"lazy_helper", "late_helper", "lazy_parts", "lazy_parts.more"} & set(sys.modules)
    sys.path[:] = before


BOUND = """
import torch.nn as nn, os.path
from torch.nn import Linear as Layer
if True:
    class Net(nn.Module):
        class Inner: pass
        def forward(self, x): pass
try:
    made = nn.Identity
except ImportError:
    made = None
def build():
    global Late
    class Late: pass
{more}
"""


@pytest.mark.parametrize("name", ["Net", "made", "build", "Late", "Layer", "nn"])
def test_a_name_that_the_file_binds_is_found_without_running_it(tmp_path: Path, name: str) -> None:
    spec = write(tmp_path, BOUND.format(more="raise SystemExit('it was run')"))
    user_file.check_class(spec.replace(":Net", f":{name}"))


@pytest.mark.parametrize("name", ["Nope", "Inner", "forward", "ImportError2", "x"])
def test_a_class_that_the_file_lacks_is_told_without_running_it(tmp_path: Path, name: str) -> None:
    spec = write(tmp_path, BOUND.format(more="raise SystemExit('it was run')"))
    told = rf"mine\.py has no class '{name}': it has Net$"
    with pytest.raises(ModelError, match=told):
        user_file.check_class(spec.replace(":Net", f":{name}"))


@pytest.mark.parametrize(
    "more",
    [
        "from os.path import *",
        "from os.path import \\\n  *",
        "globals()['No' + 'pe'] = nn.Identity",
        "exec('No' + 'pe = 1')",
        "import sys; setattr(sys.modules[__name__], 'No' + 'pe', nn.Identity)",
        "def __getattr__(name): return nn.Identity",
        "# " + "long" * 80_000,
    ],
)
def test_a_file_that_may_have_more_than_it_names_is_left_to_the_run(
    tmp_path: Path, more: str
) -> None:
    user_file.check_class(write(tmp_path, BOUND.format(more=more)).replace(":Net", ":Nope"))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (b"class Other: pass", "has no class 'Net': it has Other$"),
        (b"Other = 3", "has no class 'Net': it has no classes$"),
        (b"\nclass Net(\n", r"mine\.py, line 2: syntax error: '\(' was never closed$"),
        (b"# coding: nope\nclass Net: pass", r"mine\.py.*: syntax error: unknown encoding"),
        (b"# coding: latin-1\nNet = '\xe9'", ""),
        (b"Net = '\xe9'", r"mine\.py: syntax error: invalid or missing encoding"),
        (b"Net = 1 +" + b"1 +" * 50_000 + b"1", ""),
        (rb"Net = '\d'", ""),
    ],
)
def test_what_is_no_python_is_told_and_what_cannot_be_looked_at_is_left(
    tmp_path: Path, source: bytes, told: str, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "mine.py").write_bytes(source)
    if told:
        with pytest.raises(ModelError, match=told):
            user_file.check_class(f"{tmp_path}/mine.py:Net")
    else:
        user_file.check_class(f"{tmp_path}/mine.py:Net")
    assert not recwarn


@pytest.mark.parametrize("raised", [SystemExit("no"), BaseException("no"), ValueError("no")])
def test_whatever_a_net_raises_is_told_but_ctrl_c(raised: BaseException) -> None:
    told = rf"^it fails: {type(raised).__name__}: no$"
    with pytest.raises(ModelError, match=told), user_file.told_as("it fails"):
        raise raised
    for through in (KeyboardInterrupt(), ModelError("told already")):
        with pytest.raises(type(through)) as same, user_file.told_as("it fails"):
            raise through
        assert same.value is through
