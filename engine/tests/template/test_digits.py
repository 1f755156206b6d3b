"""The digits: shapes, split and augmentation."""

import pytest
import torch
from sklearn.datasets import load_digits
from tests.support.project import example

module = example("data.digits")
Digits, shift = module.Digits, module.shift


def digits(**options):
    data = Digits(**options)
    data.setup("fit")
    return data


def test_shapes_and_ranges():
    data = digits()
    assert [len(part) for part in (data.train_set, data.val_set, data.test_set)] == [1257, 270, 270]
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((64, 1, 8, 8), torch.float32)
    assert (labels.shape, labels.dtype) == ((64,), torch.int64)
    assert (images.min(), images.max()) == (0, 1)


def test_the_data_equal_those_that_scikit_learn_loads():
    images, labels = module._load()
    expected = load_digits()
    assert torch.equal(images, torch.from_numpy(expected.images).float().unsqueeze(1) / 16)
    assert torch.equal(labels, torch.from_numpy(expected.target).long())


def test_the_split_follows_from_the_seed():
    labels = [digits(seed=seed).train_set.labels for seed in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], labels[2])


@pytest.mark.parametrize(("augment", "is_same"), [(False, True), (True, False)])
def test_augmentation_differs_by_epoch(augment, is_same):
    data = digits(augment=augment)
    loader = data.train_dataloader()
    sums = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        sums.append(torch.cat([images for images, _ in loader]).sum().item())
    assert (sums[0] == pytest.approx(sums[1])) is is_same


def test_shift_moves_the_whole_image_and_fills_with_zeros():
    torch.manual_seed(0)
    image = torch.zeros(1, 5, 5)
    image[0, 2, 2] = 1
    places = {tuple(shift(image, 2).nonzero()[0].tolist()) for _ in range(300)}
    assert places == {(0, row, column) for row in range(5) for column in range(5)}


def test_fractions_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(ValueError, match=r"val_fraction=0\.5"):
        Digits(val_fraction=0.5, test_fraction=0.5)
