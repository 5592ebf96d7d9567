import pytest
import torch

from data.errors import ConfigError
from models.configs.hog import HOG
from models.hog import descriptor, dim

hog = pytest.importorskip("skimage.feature").hog


def images(n, size, seed=0, smooth=False):
    g = torch.Generator().manual_seed(seed)
    if not smooth:
        return torch.randint(0, 256, (n, size, size, 3), generator=g).byte()
    x = torch.nn.functional.interpolate(torch.rand(n, 3, 6, 6, generator=g), size=size, mode="bicubic").clamp(
        0, 1
    )
    return (255 * x).round().byte().permute(0, 2, 3, 1).contiguous()


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(
    ("size", "orientations", "cell", "block"),
    [
        (32, 9, 8, 2),
        (32, 9, 8, 3),
        (37, 9, 8, 2),
        (24, 8, 4, 2),
        (64, 12, 8, 1),
        (30, 36, 5, 3),
        (16, 2, 8, 2),
    ],
)
def test_descriptors_are_scikit_images(size, orientations, cell, block, smooth):
    config = HOG(orientations=orientations, cell=cell, block=block)
    pictures = images(3, size, smooth=smooth)
    ours = descriptor(pictures, config)
    theirs = [
        hog(picture.numpy(), orientations, (cell, cell), (block, block), block_norm="L2-Hys", channel_axis=-1)
        for picture in pictures
    ]
    assert ours.dtype == torch.float32
    assert ours.shape == (3, dim(config, size)) == (3, len(theirs[0]))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), torch.from_numpy(b).double(), atol=1e-5, rtol=0)


def test_equal_channels_and_borders_between_bins_go_where_scikit_image_puts_them():
    """In grey images all channels tie. Ramps at multiples of 45 degrees lie on the borders of 8 bins."""
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    ramps = torch.stack([x, y, x + y, 31 + x - y, 62 - x - y, torch.full_like(x, 9)]) * 3
    pictures = ramps[..., None].expand(-1, -1, -1, 3).byte().contiguous()
    pictures = torch.cat(
        [pictures, torch.stack([9 + 0 * x, 3 * x, 3 * y], dim=-1)[None].byte()]
    )  # green before blue
    for orientations in (4, 8, 9):
        ours = descriptor(pictures, HOG(orientations=orientations))
        for a, picture in zip(ours, pictures, strict=True):
            b = hog(picture.numpy(), orientations, (8, 8), (2, 2), block_norm="L2-Hys", channel_axis=-1)
            torch.testing.assert_close(a.double(), torch.from_numpy(b).double(), atol=1e-5, rtol=0)


def test_a_vertical_edge_votes_for_one_bin_and_a_flat_image_for_none():
    pictures = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    pictures[0, :, 8:] = 200
    v = descriptor(pictures, HOG()).view(2, 4, 9)
    # The edge lies on the border of two columns of cells, so all four cells have equal histograms with one
    # entry. A block of norm 1 has 1/2 in each. It is clipped at 0.2 and normalised to 1/2 again.
    torch.testing.assert_close(v[0, :, 0], torch.full((4,), 0.5))
    assert (v[0, :, 1:] == 0).all()
    assert (v[1] == 0).all()


def test_blocks_have_length_1_and_batches_do_not_matter():
    pictures = images(5, 32)
    v = descriptor(pictures, HOG())
    torch.testing.assert_close(v.view(5, 9, 36).norm(dim=2), torch.ones(5, 9))
    assert torch.equal(v, torch.cat([descriptor(part, HOG()) for part in pictures.split(2)]))


def test_brightness_does_not_matter_and_contrast_hardly():
    pictures = images(3, 32, smooth=True) // 2
    torch.testing.assert_close(descriptor(pictures + 40, HOG()), descriptor(pictures, HOG()), rtol=0, atol=0)
    torch.testing.assert_close(
        descriptor(pictures * 2, HOG()), descriptor(pictures, HOG()), atol=1e-4, rtol=0
    )


def test_images_below_a_block_are_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"pretext.cell 8 and pretext.block 2: a block is 16 px wide, images are 15 px"
    ):
        dim(HOG(), 15)
    assert dim(HOG(), 16) == 36


def test_any_number_of_bands_gives_the_longest_gradient_of_all():
    four = torch.cat([images(3, 32, seed=seed)[..., :2] for seed in (0, 1)], dim=3)
    config = HOG(cell=8, block=2)
    assert torch.equal(descriptor(four, config), descriptor(four[..., [0, 1, 2, 3, 3]], config))
    assert torch.equal(descriptor(four[..., :1], config), descriptor(four[..., [0, 0, 0]], config))
