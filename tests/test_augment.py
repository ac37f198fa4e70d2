from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainer.config import AugmentSettings
from trainer.kernels.images import Draws
from trainer.loop.augment import Augment, tta_views

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
N = 64


def make(
    dtype: torch.dtype = torch.float32, *, channels_last: bool = False, **s: object
) -> Augment:
    return Augment(
        AugmentSettings(**{"flip": "none", **s}),  # type: ignore[arg-type]
        mean=MEAN,
        std=STD,
        device=torch.device("cpu"),
        dtype=dtype,
    )


def pictures(count: int = N) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def apply(augment: Augment, images: Tensor, epoch: int = 1, seed: int = 0) -> Tensor:
    count = len(images)
    return augment(images, torch.arange(count), augment.draw(count, epoch=epoch, seed=seed))


def back(normalised: Tensor) -> Tensor:
    """Undo the normalisation: values 0 to 255."""
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    return (normalised.float() * std + mean) * 255


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.float(), other.float(), atol=1e-3)


def flipped(augment: Augment, epoch: int, seed: int = 0) -> Tensor:
    """Which images come out mirrored, bool [N]; every other must come out as it is."""
    images = pictures()
    seen = back(apply(augment, images, epoch, seed))
    plain = (seen - images).abs().amax((1, 2, 3)) < 0.01
    mirrored = (seen - images.flip(3)).abs().amax((1, 2, 3)) < 0.01
    assert (plain ^ mirrored).all()
    return mirrored


def test_nothing_is_only_normalised() -> None:
    images = pictures()
    expected = torch.empty(N, 3, 32, 32)
    for channel in range(3):
        expected[:, channel] = (images[:, channel] / 255 - MEAN[channel]) / STD[channel]
    assert torch.allclose(apply(make(), images), expected, atol=1e-5)
    assert torch.equal(apply(make(), images), make().normalise(images))


def test_the_images_themselves_stay() -> None:
    images = pictures()
    everything = make(flip="random", shift=2, shift_scale_rotate=1, grayscale=0.5, dropout=1)
    apply(everything, images)
    everything.normalise(images)
    assert torch.equal(images, pictures())
    floats = images.float()
    everything.normalise(floats)
    assert torch.equal(floats, images.float())


def test_evaluation_is_never_augmented() -> None:
    everything = make(flip="random", shift=4, shift_scale_rotate=1, grayscale=1, dropout=1)
    assert torch.equal(everything.normalise(pictures()), make().normalise(pictures()))


def test_random_flips_are_coins_per_image_and_epoch() -> None:
    augment = make(flip="random")
    epochs = torch.stack([flipped(augment, epoch) for epoch in range(1, 9)])
    assert 0.4 < epochs.float().mean() < 0.6
    assert len({tuple(row.tolist()) for row in epochs}) == 8
    # unlike alternating ones, some image is flipped twice in a row
    assert (epochs[1:] & epochs[:-1]).any()


def test_alternating_flips_alternate() -> None:
    augment = make(flip="alternating")
    first = flipped(augment, 1)
    assert 0.3 < first.float().mean() < 0.7
    for epoch in range(2, 6):
        assert torch.equal(flipped(augment, epoch), first ^ (epoch % 2 == 0))
    assert not torch.equal(flipped(augment, 1, seed=1), first)


def test_shift_reflects_at_the_border() -> None:
    image = torch.arange(32, dtype=torch.uint8).view(1, 1, 1, 32).expand(1, 3, 32, 32)
    augment = make(shift=3)
    line = torch.tensor([3, 2, 1, *range(29)])
    rows = torch.arange(32)
    draws = Draws(rows[None], line[None], None, None, None, None)
    out = back(augment(image.contiguous(), torch.tensor([0]), draws))
    # moved three pixels to the right: 3 2 1 | 0 1 2 …, the border itself not doubled
    assert out[0, 0, 0, :6].round().tolist() == [3, 2, 1, 0, 1, 2]
    columns = augment.draw(500, epoch=1, seed=0).columns
    assert columns is not None
    assert any(torch.equal(row, line) for row in columns)


def test_shift_moves_by_every_offset_and_no_further() -> None:
    images = pictures(400)
    augment = make(shift=2)
    seen = back(apply(augment, images))
    found = set()
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="reflect")
    explained = torch.zeros(400, dtype=torch.bool)
    for y in range(5):
        for x in range(5):
            crop = padded[:, :, y : y + 32, x : x + 32]
            hit = (seen - crop).abs().amax((1, 2, 3)) < 0.01
            explained |= hit
            if hit.any():
                found.add((y, x))
    assert explained.all()
    assert len(found) == 25


def test_flip_and_shift_together_use_real_pixels_of_both() -> None:
    images = pictures()
    seen = back(apply(make(flip="alternating", shift=2), images))
    padded = torch.nn.functional.pad(images.float(), (2, 2, 2, 2), mode="reflect")
    explained = torch.zeros(N, dtype=torch.bool)
    for source in (padded, padded.flip(3)):
        for y in range(5):
            for x in range(5):
                crop = source[:, :, y : y + 32, x : x + 32]
                explained |= (seen - crop).abs().amax((1, 2, 3)) < 0.01
    assert explained.all()


def smooth() -> Tensor:
    """Pictures without noise, so that bilinear sampling hardly blurs them."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    planes = torch.stack([x * 6, y * 6, 100 + 80 * torch.sin(x / 6) * torch.cos(y / 7)])
    return planes.to(torch.uint8).expand(N, -1, -1, -1).contiguous()


def warp(**settings: float) -> Tensor:
    values: dict[str, float] = {"shift_limit": 0, "scale_limit": 0, "rotate_limit": 0, **settings}
    augment = make(shift_scale_rotate=1.0, **values)
    return back(apply(augment, smooth()))


def test_a_warp_by_nothing_changes_nothing() -> None:
    assert (warp() - smooth()).abs().max() < 0.05


def test_warp_shifts_by_a_share_of_the_side() -> None:
    seen = warp(shift_limit=0.125)
    # the red plane is 6 x: a shift of d pixels changes it by -6 d everywhere inside
    moved = (seen - smooth())[:, 0, 8:24, 8:24] / -6
    assert (moved.amax((1, 2)) - moved.amin((1, 2))).max() < 0.01
    assert 3.5 < moved.max() <= 4.01
    assert -4.01 <= moved.min() < -3.5


def test_warp_scales_around_the_centre() -> None:
    seen = warp(scale_limit=0.5)
    slope = (seen[:, 0, 16, 20] - seen[:, 0, 16, 12]) / 8 / 6
    scale = 1 / slope
    assert 0.5 <= scale.min() < 0.6
    assert 1.4 < scale.max() <= 1.51
    centre = seen[:, 0, 15:17, 15:17].mean((1, 2))
    assert (centre - 15.5 * 6).abs().max() < 0.6


def test_warp_rotates_rigidly() -> None:
    seen = warp(rotate_limit=30)
    across = (seen[:, 0, 16, 20] - seen[:, 0, 16, 12]) / 48
    down = (seen[:, 0, 20, 16] - seen[:, 0, 12, 16]) / 48
    angle = torch.atan2(down, across)
    # the gradient keeps its length, only its direction turns
    assert ((across**2 + down**2).sqrt() - 1).abs().max() < 0.03
    assert math.radians(25) < angle.max() <= math.radians(30.5)
    assert -math.radians(30.5) <= angle.min() < -math.radians(25)
    green = (seen[:, 1, 16, 20] - seen[:, 1, 16, 12]) / 48
    assert torch.allclose(green, -down, atol=0.03)


def test_warp_applies_to_its_share_and_leaves_the_others_exactly() -> None:
    augment = make(shift_scale_rotate=0.3)
    images = pictures(400)
    seen = apply(augment, images)
    untouched = (seen == make().normalise(images)).flatten(1).all(1)
    assert 0.6 < untouched.float().mean() < 0.8


def test_gpu_and_cpu_choose_the_same_images(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.loop import augment as module

    images, augment = pictures(), make(shift_scale_rotate=0.5)
    once = apply(augment, images)

    def without_choosing(values: Tensor, warps: Tensor, chosen: Tensor) -> Tensor:
        values = values.float()
        return torch.where(chosen.view(-1, 1, 1, 1), module._sample(values, warps), values)

    monkeypatch.setattr(module, "_warp", without_choosing)
    assert torch.allclose(apply(augment, images), once, atol=1e-5)


def test_gray_is_luma_before_normalisation() -> None:
    image = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    seen = back(apply(make(grayscale=1.0), image.contiguous()))
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert torch.allclose(seen, torch.full_like(seen, luma), atol=0.01)


def test_gray_applies_to_its_share() -> None:
    images = pictures(400)
    seen = back(apply(make(grayscale=0.25), images))
    gray = (seen[:, 0] - seen[:, 1]).abs().amax((1, 2)) < 0.01
    assert 0.17 < gray.float().mean() < 0.33
    assert (seen[~gray] - images[~gray]).abs().max() < 0.01


@pytest.mark.parametrize("size", [1, 16, 32])
def test_a_hole_is_one_square_of_exactly_the_mean(size: int) -> None:
    images = pictures()
    seen = apply(make(dropout=1.0, dropout_size=size), images)
    plain = make().normalise(images)
    holes = (seen == 0).all(1)
    assert torch.equal(seen.masked_fill(holes[:, None], 0), plain.masked_fill(holes[:, None], 0))
    assert (holes.sum((1, 2)) == size * size).all()
    # a full square: as many rows as columns are hit
    assert (holes.any(1).sum(1) == size).all()
    assert (holes.any(2).sum(1) == size).all()
    mean = back(seen)[0][:, holes[0]].mean(1) / 255
    assert mean.tolist() == pytest.approx(MEAN, abs=1e-5)


def test_holes_reach_every_place_and_only_their_share() -> None:
    seen = apply(make(dropout=0.5, dropout_size=16), pictures(2000))
    holes = (seen == 0).all(1)
    some = holes.flatten(1).any(1)
    assert 0.45 < some.float().mean() < 0.55
    tops = holes[some].any(2).float().argmax(1)
    lefts = holes[some].any(1).float().argmax(1)
    assert set(tops.tolist()) == set(lefts.tolist()) == set(range(17))


EVERYTHING = {
    "flip": "random",
    "shift": 2,
    "shift_scale_rotate": 0.5,
    "grayscale": 0.3,
    "dropout": 0.5,
}


def test_seed_and_epoch_decide_everything() -> None:
    images = pictures()
    runs = [apply(make(**EVERYTHING), images, epoch, seed) for epoch, seed in 2 * [(1, 0)]]
    assert torch.equal(*runs)
    assert not torch.equal(apply(make(**EVERYTHING), images, 2, 0), runs[0])
    assert not torch.equal(apply(make(**EVERYTHING), images, 1, 1), runs[0])


def test_drawing_touches_no_global_random_state() -> None:
    before = torch.get_rng_state()
    apply(make(**EVERYTHING), pictures())
    assert torch.equal(torch.get_rng_state(), before)


def test_one_augmentation_does_not_change_another() -> None:
    one = make(flip="random").draw(N, epoch=3, seed=5)
    other = make(**{**EVERYTHING, "shift": 0}).draw(N, epoch=3, seed=5)
    assert torch.equal(one.columns, other.columns)  # type: ignore[arg-type]


def test_batches_are_slices_of_the_whole_epoch() -> None:
    images, augment = pictures(), make(**EVERYTHING)
    draws = augment.draw(N, epoch=1, seed=0)
    whole = augment(images, torch.arange(N), draws)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    for index in order.split(10):
        assert torch.allclose(augment(images[index], index, draws), whole[index], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_are_the_rounded_float_result(dtype: torch.dtype) -> None:
    images = pictures()
    seen = apply(make(dtype, **EVERYTHING), images)
    assert seen.dtype == dtype
    assert torch.equal(seen, apply(make(**EVERYTHING), images).to(dtype))
    assert make(dtype).normalise(images).dtype == dtype


def test_views_for_test_time_augmentation() -> None:
    x = torch.randn(4, 3, 32, 32)
    assert tta_views(x, "none") == [(x, 1.0)]
    (plain, a), (mirrored, b) = tta_views(x, "flip")
    assert torch.equal(plain, x)
    assert torch.equal(mirrored, x.flip(3))
    assert (a, b) == (0.5, 0.5)


def test_six_views_are_shifted_by_one_with_reflection() -> None:
    x = torch.randn(4, 3, 32, 32)
    views = tta_views(x, "flip+shift")
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    expected = [x, padded[:, :, 0:32, 0:32], padded[:, :, 2:34, 2:34]]
    for (view, weight), (mirrored, same_weight), wanted in zip(
        views[::2], views[1::2], expected, strict=True
    ):
        assert torch.equal(view, wanted)
        assert torch.equal(mirrored, wanted.flip(3))
        assert weight == same_weight
    assert [weight for _, weight in views] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]
    half = tta_views(x.bfloat16(), "flip+shift")
    assert torch.equal(half[2][0], expected[1].bfloat16())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_sees_the_same_pictures_without_waiting() -> None:
    images = pictures()
    device = torch.device("cuda")
    settings = AugmentSettings(**EVERYTHING)  # type: ignore[arg-type]
    augment = Augment(settings, mean=MEAN, std=STD, device=device, dtype=torch.float32)
    draws = augment.draw(N, epoch=1, seed=0)
    on_device, index = images.to(device), torch.arange(N, device=device)
    augment(on_device, index, draws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen = augment(on_device, index, draws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(seen.cpu(), apply(make(**EVERYTHING), images), atol=1e-3)
