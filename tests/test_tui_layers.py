"""The layers screen through its keys, and the numbers behind it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from tests.tui_helpers import append, held, make_app, make_run, until
from trainer import events
from trainer.config import LimitSettings
from trainer.events import LayerRow, ModelDescribed
from tui import formatting
from tui.app import CifarApp
from tui.runs.alive import Alive, Call, Figures
from tui.screens.layers import LayersScreen
from tui.widgets import layer_table
from tui.widgets.layer_table import LayerTable, block_of, formula, rows_of
from tui.widgets.limits_panel import LimitsPanel, checks

SIZES = [(160, 50), (120, 40), (80, 24)]

pytestmark = pytest.mark.usefixtures("data_is_there")


def layer(path: str, **changes: object) -> LayerRow:
    fields: dict[str, object] = {
        "type": "Conv2d",
        "input_shape": (3, 32, 32),
        "output_shape": (16, 32, 32),
        "parameters": 432,
        "share": 0.25,
        "macs": 442_368,
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
        "jump": (1, 1),
        "receptive_field": (3, 3),
        **changes,
    }
    return LayerRow(path=path, **fields)  # type: ignore[arg-type]


def plain(path: str, **changes: object) -> LayerRow:
    """A layer without a window."""
    nothing = dict.fromkeys(("kernel", "stride", "padding", "dilation", "groups"))
    return layer(path, **{"type": "ReLU", "parameters": 0, "share": 0.0, **nothing, **changes})


NET = (
    layer("c1.0.conv"),
    plain("c1.0.act", macs=0),
    layer(
        "c2.0.conv",
        stride=(2, 2),
        jump=(2, 2),
        receptive_field=(5, 5),
        parameters=864,
        share=0.5,
    ),
    layer("c2.1.conv", dilation=(2, 2), jump=(2, 2), receptive_field=(13, 13)),
    plain("[red]x[/]\x1b[31m", type="Mystery", receptive_field=None, jump=None, reason="an if"),
)


async def open_layers(pilot: Pilot[None], app: CifarApp) -> LayersScreen:
    await until(pilot, lambda: not app.store.loading and isinstance(app.screen, object))
    await pilot.press("3")
    await until(pilot, lambda: isinstance(app.screen, LayersScreen))
    screen = app.screen
    assert isinstance(screen, LayersScreen)
    table = screen.query_one(LayerTable)
    await until(pilot, lambda: table.row_count if table.display else text(screen, "#nothing"))
    await pilot.pause()
    return screen


def text(screen: LayersScreen, where: str) -> str:
    return str(screen.query_one(where, Static).render())


def column(screen: LayersScreen, key: str) -> list[str]:
    return [cell.plain for cell in screen.query_one(LayerTable).get_column(key)]


# ---- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (NET[0], "r = 1 + (3 − 1)×1 = 3, jump = 1×1 = 1"),  # noqa: RUF001
        (NET[2], "r = 3 + (3 − 1)×1 = 5, jump = 1×2 = 2"),  # noqa: RUF001
        (
            NET[3],
            "k_eff = 2×(3 − 1) + 1 = 5, r = 5 + (5 − 1)×2 = 13, "  # noqa: RUF001
            "jump = 2×1 = 2",  # noqa: RUF001
        ),
        (NET[1], "receptive field 3: it looks at one position at a time of its inputs"),
        (
            plain("a.mul", type="mul", joins=False),
            "receptive field 3: as its input, it looks at one position at a time",
        ),
        (NET[4], "receptive field unknown: an if"),
        (plain("a.sub", type="sub", joins=True), "receptive field 3: the union of its inputs"),
        (
            layer("tall", kernel=(3, 1), receptive_field=(3, 1)),
            "height: r = 1 + (3 − 1)×1 = 3, jump = 1×1 = 1; "  # noqa: RUF001
            "width: r = 1 + (1 − 1)×1 = 1, jump = 1×1 = 1",  # noqa: RUF001
        ),
        (
            layer("gated", receptive_field=(34, 34), pooled=True),
            "receptive field 34, jump 1: the greater of what its windows see and what comes from "
            "pooled features (a gate)",
        ),
        # what the row does not tell is not made up
        (layer("up", stride=(2, 2), jump=(1, 1)), "receptive field 3, jump 1"),
        (layer("odd", receptive_field=(2, 2)), "receptive field 2, jump 1"),
    ],
)
def test_formulas(row: LayerRow, words: str) -> None:
    assert formula(row) == words


@pytest.mark.parametrize(
    ("path", "block"),
    [
        ("c1.0.conv", "c1.0"),
        ("stages.0.1.conv1.norm", "stages.0.1"),
        ("c4.depthwise", "c4"),
        ("features.3", "features"),
        ("fc", "fc"),
        ("0", "0"),
        ("", ""),
    ],
)
def test_blocks(path: str, block: str) -> None:
    assert block_of(path) == block


def test_folded_rows_add_up() -> None:
    rows = rows_of(NET, open_blocks=frozenset())
    assert [(row.name, len(row.layers)) for row in rows[:3]] == [
        ("c1.0", 2),
        ("c2.0.conv", 1),
        ("c2.1.conv", 1),
    ]
    assert rows[0].parameters == 432
    assert rows[0].macs == 442_368
    assert sum(row.parameters for row in rows) == sum(one.parameters for one in NET)
    assert len(rows_of(NET, open_blocks=frozenset({"c1.0"}))) == len(NET)


@pytest.mark.parametrize(
    ("sort", "first"), [("parameters", "c2.0.conv"), ("receptive", "c2.1.conv")]
)
def test_sorted_rows(sort: layer_table.Sort, first: str) -> None:
    rows = rows_of(NET, open_blocks=None, sort=sort)
    assert rows[0].name == first
    assert len(rows) == len(NET)


def test_unknown_macs_make_the_sum_unknown() -> None:
    rows = rows_of([layer("a.0.x"), layer("a.0.y", macs=None)], open_blocks=frozenset())
    assert rows[0].macs is None


@pytest.mark.parametrize("width", [40, 80, 100, 120, 160, 250])
def test_columns_fit_their_table(width: int) -> None:
    shown = layer_table.columns_for(width, 14)
    used = 14 + sum(one.width + layer_table.PADDING for one in shown) + layer_table.SCROLLBAR
    assert used <= max(width, 80)
    keys = [one.key for one in shown]
    assert {"path", "parameters", "receptive"} <= set(keys)
    assert width < 80 or "output" in keys
    assert width < 160 or keys == [c.key for c in layer_table.COLUMNS if not c.measured]


@pytest.mark.parametrize("width", [80, 120, 160, 250])
@pytest.mark.parametrize("measured", [False, True])
def test_measured_columns_fit_and_come_first_where_asked(width: int, measured: bool) -> None:
    shown = layer_table.columns_for(width, 14, measured=measured)
    used = 14 + sum(one.width + layer_table.PADDING for one in shown) + layer_table.SCROLLBAR
    assert used <= width
    keys = {one.key for one in shown}
    all_measured = {c.key for c in layer_table.COLUMNS if c.measured}
    assert {"path", "parameters"} <= keys
    assert (measured or width >= 160) == (all_measured <= keys)


def test_a_block_with_all_parameters_has_all_of_them() -> None:
    parts = [layer(f"a.{n}", parameters=1, share=0.1) for n in range(10)]
    assert sum(part.share for part in parts) < 1, "rounded"
    rest = plain("b")
    block, single = layer_table.rows_of((*parts, rest), open_blocks=frozenset())
    assert layer_table.WORDS["share"](block) == "100.0 %"
    assert single.share == 0


@pytest.mark.parametrize(
    ("macs", "words"),
    [(0, ""), (320, "<0.001"), (500, "0.001"), (1500, "0.002"), (442_368, "0.442")],
)
def test_macs_that_are_not_none_do_not_read_so(macs: int, words: str) -> None:
    assert layer_table._scaled(macs, 1e6) == words
    assert layer_table._scaled(320, 1.0) == "320"


def test_bars() -> None:
    assert formatting.bar(1, 4) == "████"
    assert formatting.bar(0.5, 4) == "██  "
    assert formatting.bar(1e-9, 4) == "▏   "
    assert formatting.bar(0, 4) == "    "


def described(**changes: object) -> ModelDescribed:
    fields: dict[str, object] = {
        "layers": NET,
        "parameters": 99_999,
        "trainable_parameters": 99_999,
        "macs": 1,
        "receptive_field": (53, 53),
        "depthwise_separable": 2,
        "dilated": 1,
        "global_average_pooling": True,
        "fc_after_pooling": False,
        **changes,
    }
    return ModelDescribed(**fields)  # type: ignore[arg-type]


LATE = LimitSettings(
    max_parameters=100_000,
    min_receptive_field=52,
    depthwise_separable=2,
    dilated=1,
    global_average_pooling=True,
    no_fc_after_pooling=True,
    target_accuracy=0.87,
)


# a log of an earlier version has False for the head of a net that could not be followed
UNFOLLOWED = dict.fromkeys(("receptive field", "global average pooling", "FC after pooling"))


@pytest.mark.parametrize(
    ("changes", "best", "broken"),
    [
        ({}, 0.87, {}),
        ({}, 0.8699, {"best test accuracy": False}),
        ({}, None, {"best test accuracy": None}),
        ({"parameters": 100_000}, 0.9, {"parameters": False}),
        ({"receptive_field": (52, 99)}, 0.9, {"receptive field": False}),
        ({"receptive_field": None}, 0.9, UNFOLLOWED),
        ({"depthwise_separable": 1}, 0.9, {"depthwise separable": False}),
        ({"depthwise_separable": None}, 0.9, {"depthwise separable": None}),
        ({"dilated": 0}, 0.9, {"dilated": False}),
        ({"global_average_pooling": False}, 0.9, {"global average pooling": False}),
        ({"fc_after_pooling": True}, 0.9, {"FC after pooling": False}),
        ({"global_average_pooling": None}, 0.9, {"global average pooling": None}),
        ({"fc_after_pooling": None}, 0.9, {"FC after pooling": None}),
    ],
)
def test_each_limit_can_be_broken(
    changes: dict[str, object], best: float | None, broken: dict[str, bool | None]
) -> None:
    found = checks(LATE, described(**changes), best)
    assert len(found) == 7
    assert {check.name: check.met for check in found if check.met is not True} == broken


def test_what_is_unknown_is_called_so() -> None:
    changes = {"receptive_field": None, "fc_after_pooling": None, "depthwise_separable": None}
    found = {check.name: check.actual for check in checks(LATE, described(**changes), 0.9)}
    assert found["FC after pooling"] == found["global average pooling"] == "unknown"
    assert found["depthwise separable"] == "unknown"


def test_what_is_allowed_anyway_is_met_by_what_is_unknown() -> None:
    loose = LimitSettings(global_average_pooling=False, no_fc_after_pooling=False)
    assert all(check.met for check in checks(loose, described(receptive_field=None), 0.9))


def test_what_is_not_limited_is_not_checked() -> None:
    assert checks(LimitSettings(), described(), 0.5) == []


# ---- the screen -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
async def test_the_table(tmp_path: Path, size: tuple[int, int]) -> None:
    make_run(tmp_path / "runs", preset="dws-late", layers=NET, parameters=98_442)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await open_layers(pilot, app)
        assert column(screen, "path")[:3] == ["c1.0.conv", "c1.0.act", "c2.0.conv"]
        assert column(screen, "receptive") == ["3", "3", "5", "13", "unknown"]
        assert column(screen, "parameters")[2] == "864"
        hostile = column(screen, "path")[4]
        assert hostile == "[red]x[/][31m", "names are shown as they are, without control characters"
        table = screen.query_one(LayerTable)
        assert table.virtual_size.width <= size[0], "no sideways scrolling"
        if size[0] >= 120:
            titles = [str(one.label) for one in table.columns.values()]
            assert any(title.startswith("MACs (k)") for title in titles)
            assert column(screen, "macs")[0] == "442.368"
        assert "98,442 parameters" in text(screen, "#totals")
        assert "receptive field 55" in text(screen, "#totals")
        limits = text(screen, "#limits")
        assert "✓" in limits
        assert "98,442" in limits
        assert "(< 100,000)" in limits
        assert "✗" in limits, "86 % is less than 87 %"
        await pilot.press("down", "down", "down")
        assert "c2.1.conv" in text(screen, "#formula")
        assert "r = 5 + (5 − 1)×2 = 13" in text(screen, "#formula")  # noqa: RUF001
        await pilot.press("end")
        assert "unknown: an if" in text(screen, "#formula")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "receptive field 53 before pooling"),
        ({"global_average_pooling": False}, "receptive field 53 before positions mix"),
        ({"receptive_field": None, "macs": None}, "receptive field unknown before pooling"),
    ],
)
async def test_where_the_receptive_field_is_taken(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    append(make_run(tmp_path / "runs", done=0, end=None), described(**changes))
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(160, 50)) as pilot:
        screen = await open_layers(pilot, app)
        await until(pilot, lambda: told in text(screen, "#totals"))


@pytest.mark.parametrize("size", [(160, 50), (80, 24), (60, 24)])
async def test_no_figure_of_the_net_is_cut(tmp_path: Path, size: tuple[int, int]) -> None:
    run = make_run(tmp_path / "runs", done=0, end=None)
    short = layer("c1.0.conv", receptive_field=(27, 27))
    append(
        run,
        described(
            layers=(short, *NET[1:]), receptive_field=(27, 27), strided3x3=2, fc_after_pooling=True
        ),
    )
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=size) as pilot:
        screen = await open_layers(pilot, app)
        await until(pilot, lambda: screen.query_one(LayerTable).row_count == len(NET))
        totals = screen.query_one("#totals", Static)
        lines = text(screen, "#totals").splitlines()
        assert totals.size.height == len(lines) > 1
        assert max(map(len, lines)) <= totals.content_size.width
        said = " · ".join(lines)
        assert "receptive field 27×27 stops short" in said  # noqa: RUF001
        assert "2 strided 3×3 · 0 max pools" in said  # noqa: RUF001
        pooling, fc = ("global average pooling", "FC after pooling")
        if size[0] < 118:
            pooling, fc = "GAP", "FC after GAP"
        assert said.endswith(f"{pooling} yes · {fc} yes")
        assert screen.query_one(LayerTable).size.height > 4


async def test_sort_and_fold(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", layers=NET)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(160, 50)) as pilot:
        screen = await open_layers(pilot, app)
        await pilot.press("down")
        await pilot.press("o")
        assert column(screen, "path")[0] == "c2.0.conv"
        assert "sorted by parameters" in text(screen, "#title")
        chosen = screen.query_one(LayerTable).chosen
        assert chosen is not None
        assert chosen.name == "c1.0.act", "the cursor stays on its layer"
        await pilot.press("o", "o", "o")
        assert column(screen, "path")[0] == "c1.0.conv"
        await pilot.press("f")
        assert column(screen, "path")[0] == "▸ c1.0"
        assert column(screen, "type")[0] == "2 layers"
        chosen = screen.query_one(LayerTable).chosen
        assert chosen is not None
        assert chosen.name == "c1.0", "the cursor is on the layer's block"
        await pilot.press("enter")
        assert column(screen, "path")[:2] == ["c1.0.conv", "c1.0.act"]
        await pilot.press("enter")
        assert column(screen, "path")[0] == "▸ c1.0"
        await pilot.press("f")
        assert len(column(screen, "path")) == len(NET)


async def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_layers(pilot, app)
        assert "No run is chosen" in text(screen, "#nothing")
        assert not screen.query_one(LayerTable).display


async def test_a_queued_run_gets_its_layers_when_it_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", done=0, end=None)
    with held(run):
        app = make_app(tmp_path / "runs")
        async with app.run_test(size=(120, 40)) as pilot:
            screen = await open_layers(pilot, app)
            assert "when the run starts" in text(screen, "#nothing")
            append(run, described())
            await until(pilot, lambda: screen.query_one(LayerTable).row_count == len(NET))
            assert screen.query_one(LayerTable).display
            assert not screen.query_one("#nothing").display


async def test_a_run_that_failed_early_and_one_without_layers(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", done=0, end="failed", error="no data")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_layers(pilot, app)
        assert "ended before its net was looked at" in text(screen, "#nothing")
        append(app.store.current.run, described(layers=()))  # type: ignore[union-attr]
        await until(pilot, lambda: "no layers" in text(screen, "#nothing"))


async def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", preset="dws-late", done=0, end=None)
    lines = run.log.read_bytes().replace(b"[limits]", b"[limits")
    run.log.write_bytes(lines)
    append(run, described())
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_layers(pilot, app)
        await until(pilot, lambda: screen.query_one(LayerTable).row_count)
        assert "cannot be read" in text(screen, "#limits")


async def test_a_better_accuracy_turns_the_cross_into_a_tick(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", preset="dws-late", end=None, best=0.8)
    app = make_app(tmp_path / "runs")
    with held(run):
        async with app.run_test(size=(160, 50)) as pilot:
            screen = await open_layers(pilot, app)
            assert "✗ best test accuracy 80.00 %" in text(screen, "#limits")
            append(
                run,
                events.EvalEnded(
                    epoch=6,
                    step=48,
                    split="test",
                    variant="plain",
                    loss=0.4,
                    accuracy=0.875,
                    correct=175,
                    images=200,
                    per_class=(),
                    confusion=(),
                    seconds=1,
                ),
            )
            await until(pilot, lambda: "✓ best test accuracy 87.50 %" in text(screen, "#limits"))


async def test_idle_it_paints_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs", layers=NET)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await open_layers(pilot, app)
        painted: list[str] = []
        monkeypatch.setattr(LayerTable, "fill", lambda *_, **__: painted.append("table"))
        monkeypatch.setattr(LimitsPanel, "update", lambda *_, **__: painted.append("limits"))
        app.repaint()
        await pilot.pause(0.1)
        assert painted == []
        assert screen.query_one(LayerTable).display


# ---- what the layers do -----------------------------------------------------------------------


def stats(step: int, **changes: object) -> events.LayerStats:
    fields: dict[str, object] = {
        "epoch": 1,
        "step": step,
        "layers": ("c1.0.conv", "c2.0.conv", "c2.1.conv"),
        "weight_norm": (3.0, 4.0, None),
        "gradient_norm": (0.5, 2.0, None),
        "update_ratio": (-3.0 + step / 10, -2.0, None),
        "activations": ("c1.0.act",),
        "dead": (0.75,),
        **changes,
    }
    return events.LayerStats(**fields)  # type: ignore[arg-type]


def calls(*paths: str) -> list[Call]:
    return [Call(path) for path in paths]


def test_a_folded_block_has_the_norm_over_all_its_weights() -> None:
    alive = Alive([stats(1, update_ratio=(-3.0, -2.0, None))])
    both = alive.figures(calls("c1.0.conv", "c2.0.conv", "c1.0.act"))
    assert both.weight == pytest.approx(5.0)
    assert both.gradient == pytest.approx((0.25 + 4) ** 0.5)
    update = ((3e-3) ** 2 + (4e-2) ** 2) ** 0.5
    assert both.update == pytest.approx(math.log10(update / 5))
    assert both.dead == 0.75
    assert alive.figures(calls("c1.0.conv", "c1.0.act", "c1.0.conv", "c2.0.conv")) == both, (
        "called twice"
    )
    assert alive.figures(calls("nowhere")) == Figures()
    assert not Alive(())


SHARED = tuple(plain("act") if i % 2 else layer(f"conv{i // 2}") for i in range(8))
"""One activation module, called four times."""


def test_each_row_of_a_module_has_the_dead_channels_of_its_call() -> None:
    told = stats(1, activations=("act",) * 4, dead=(0.0, 0.25, None, 1.0))
    rows = [row for row in rows_of(SHARED, open_blocks=None) if row.name == "act"]
    alive = Alive([told])
    assert [alive.figures(row.calls).dead for row in rows] == [0.0, 0.25, None, 1.0]
    assert {alive.mean_dead(row.calls[0]) for row in rows} == {None}
    by_dead = rows_of(SHARED, open_blocks=None, sort="dead", alive=alive)
    assert [row.calls[0].number for row in by_dead[:3]] == [3, 1, 0]
    (block,) = rows_of([plain("c.0.act")] * 2, open_blocks=frozenset())
    twice = Alive([stats(1, activations=("c.0.act",) * 2, dead=(0.25, 0.75))])
    assert twice.figures(block.calls).dead == 0.5


def test_a_mean_over_calls_is_no_rows_own_figure() -> None:
    rows = [row for row in rows_of(SHARED, open_blocks=None) if row.name == "act"]
    older = Alive([stats(1, activations=("act",), dead=(0.125,))])
    assert [older.figures(row.calls).dead for row in rows] == [None] * 4
    assert [older.mean_dead(row.calls[0]) for row in rows] == [0.125] * 4
    assert older.mean_dead(Call("conv0")) is None
    again = Alive([stats(1, activations=("act", "act"), dead=(0.25, 0.25))])
    assert again.figures(calls("act")).dead == 0.25, "computed again for the backward pass"


def test_the_trend_runs_from_the_oldest_to_the_newest() -> None:
    alive = Alive([stats(step) for step in range(1, 41)])
    assert alive.trend("c1.0.conv") == "▁▂▃▄▅▆▇█"
    assert alive.trend("c2.0.conv") == "▄" * 8
    assert alive.trend("c2.1.conv") == alive.trend("nowhere") == ""


def test_rows_are_sorted_by_what_is_measured() -> None:
    alive = Alive([stats(1)])
    for sort, first in (("gradient", "c2.0.conv"), ("dead", "c1.0.act"), ("update", "c2.0.conv")):
        rows = rows_of(NET, open_blocks=None, sort=sort, alive=alive)  # type: ignore[arg-type]
        assert rows[0].name == first, sort


async def test_a_newer_measurement_changes_cells_in_place(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = make_run(runs, done=1, end=None)
    with held(run):
        app = make_app(runs)
        async with app.run_test(size=(160, 50)) as pilot:
            append(run, described())
            screen = await open_layers(pilot, app)
            table = screen.query_one(LayerTable)
            await until(pilot, lambda: table.row_count == len(NET))
            assert "update" not in [c.value for c in table.columns]
            append(run, stats(1))
            await until(pilot, lambda: "update" in [c.value for c in table.columns])
            assert column(screen, "update") == ["-2.9", "", "-2.0", "", ""]
            assert column(screen, "dead") == ["", "75%", "", "", ""]
            await pilot.press("down")
            assert "75.0% of channels dead" in text(screen, "#formula")
            filled = table._require_update_dimensions
            append(run, stats(2))
            await until(pilot, lambda: column(screen, "update")[0] == "-2.8")
            assert table.cursor_row == 1
            assert filled == table._require_update_dimensions
            for _ in range(4):
                await pilot.press("o")
            assert column(screen, "path")[0] == "c2.0.conv"
            await pilot.press("v")
            await pilot.pause(0.1)
            assert screen.measured_first


async def test_the_cursor_stays_on_its_call_of_a_module(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", layers=SHARED)
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(160, 50)) as pilot:
        screen = await open_layers(pilot, app)
        table = screen.query_one(LayerTable)
        await pilot.press(*["down"] * 5)
        for keys in (["v"], ["f"], ["f"], ["o"], ["o"]):
            await pilot.press(*keys)
            assert table.chosen is not None
            assert table.chosen.calls == (Call("act", 2, 4),), keys
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        assert table.chosen.calls == (Call("act", 2, 4),)


@pytest.mark.parametrize("exponent", range(-8, 12))
def test_norms_read_as_what_they_are_in_their_columns(exponent: int) -> None:
    widths = {c.key: c.width for c in layer_table.COLUMNS}
    for factor in (1.0, 1.2345, 9.994, 9.996):
        value = factor * 10.0**exponent
        words = layer_table.short_number(value)
        assert len(words) <= min(widths["weight"], widths["gradient"])
        assert float(words) == pytest.approx(value, rel=0.05)


def test_columns_fit_down_to_the_least_terminal() -> None:
    for width in range(60, 200):
        for path in (14, 25, 40):
            for measured in (None, False, True):
                found = layer_table.columns_for(width, path, measured=measured)
                used = sum(c.width + layer_table.PADDING for c in found) + layer_table.SCROLLBAR
                assert used + layer_table.PATH_MIN <= width, (width, path)
                assert {"path", "parameters"} <= {c.key for c in found}
