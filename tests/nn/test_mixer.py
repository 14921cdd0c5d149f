import pytest
import torch
import torch.nn.functional as F

import mixbench.functional as mf
from mixbench.nn.mixer import AutoMixer, Mixer

NEXT = torch.tensor([1, 2, 0])
SIZE = (16, 12)
KINDS = {
    "samix": lambda **settings: Mixer(8, **settings),
    "samix, rescaled": lambda **settings: Mixer(8, rescale=0.25, **settings),
    "automix": lambda **settings: AutoMixer(8, **settings),
    "automix, told the weight": lambda **settings: AutoMixer(8, lam_concat=True, **settings),
}


@pytest.fixture
def h():
    return torch.randn(3, 8, 4, 3, generator=torch.Generator().manual_seed(0))


def trained(kind, seed=0, **settings):
    """A mixer that is not near its initialisation, where all masks are near a half."""
    torch.manual_seed(seed)
    mixer = KINDS[kind](**settings)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def by_the_book(mixer, h, lam, perm):
    """Values (B, n) and masks before upsampling, with features that are joined and not shared."""
    told, other = torch.tensor(lam), h[perm]
    if isinstance(mixer, AutoMixer):
        first, second = h, other
        if mixer.lam_concat:
            shape = (len(h), 1, *h.shape[2:])
            first = torch.cat([first, torch.full(shape, lam)], dim=1)
            second = torch.cat([second, torch.full(shape, 1 - lam)], dim=1)
        rows = [part.flatten(2).transpose(1, 2) for part in (first, second)]
        query, key = (mixer.query(part) for part in rows)
        value = mixer.value(rows[1])
    else:
        told = mf.rescale_lam(told, mixer.rescale) if mixer.rescale >= 0 else told
        first, second = h * (1 + told), other * (2 - told)
        rows = torch.cat([first, second], dim=1).flatten(2).transpose(1, 2)
        query, key = mixer.query(rows), mixer.key(rows)
        hidden = mixer.value(second.flatten(2).transpose(1, 2)).transpose(1, 2)
        norm = mixer.norm
        hidden = F.batch_norm(
            hidden, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training
        )
        value = mixer.score(F.elu(hidden).transpose(1, 2))
    attention = (query @ key.mT / query.shape[2] ** 0.5).softmax(dim=2)
    return (attention @ value).mT.unflatten(2, h.shape[2:])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_shared_work_gives_the_masks_of_joined_features(kind, upsampling, training, h):
    mixer = trained(kind, upsampling=upsampling).train(training)
    low = by_the_book(mixer, h, 0.3, NEXT)
    options = {"align_corners": False} if upsampling == "bilinear" else {}
    expected = 1 - F.interpolate(low, SIZE, mode=upsampling, **options).sigmoid()
    mask = mixer(h, torch.tensor([0.3]), NEXT, SIZE)
    assert mask.shape == (3, 1, *SIZE)
    torch.testing.assert_close(mask, expected, rtol=1e-4, atol=1e-5)
    assert ((mask > 0) & (mask < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_their_own_give_each_image_the_mask_of_its_weight(kind, h):
    mixer = trained(kind).eval()
    lam = torch.tensor([0.2, 0.5, 0.9])
    whole = mixer(h, lam, NEXT, SIZE)
    for row in range(3):
        single = mixer(h, lam[row : row + 1], NEXT, SIZE)
        torch.testing.assert_close(whole[row], single[row])


def test_only_a_mixer_that_is_told_the_weight_follows_it(h):
    for kind in KINDS:
        mixer = trained(kind).eval()
        low, high = (mixer(h, torch.tensor([lam]), NEXT, SIZE) for lam in (0.1, 0.9))
        assert torch.equal(low, high) == (kind == "automix"), kind


def test_in_training_the_value_does_not_know_the_weight(h):
    """Normalisation takes the factor out again; with running statistics it stays."""
    mixer = trained("samix")

    def value(lam):
        shared = mixer.share(h)
        return mixer.attend(shared.own, shared.partner[NEXT], torch.full((1, 1, 1), lam))[2]

    assert (value(0.1) - value(0.9)).abs().max() < 1e-4
    mixer.eval()
    assert (value(0.1) - value(0.9)).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_one_share_of_the_work_serves_two_masks_and_one_of_them_alone_has_a_gradient(kind, h):
    mixer, alone = trained(kind), trained(kind)
    shared = mixer.share(h)
    mask = mixer.draw(shared, torch.tensor([0.3]), NEXT, SIZE)
    with torch.no_grad():
        other = mixer.draw(shared, torch.tensor([0.7]), NEXT.roll(1), SIZE)
    assert not other.requires_grad
    expected = alone(h, torch.tensor([0.3]), NEXT, SIZE)
    again = alone(h, torch.tensor([0.7]), NEXT.roll(1), SIZE)
    assert torch.equal(mask, expected)
    assert torch.equal(other, again)
    for drawn in (mask, expected):
        (drawn * torch.linspace(0, 1, SIZE[1])).sum().backward()
    for (name, one), two in zip(mixer.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad), name
    for one, two in zip(mixer.buffers(), alone.buffers(), strict=True):
        assert torch.equal(one, two)


def test_statistics_are_written_once_for_each_mask(h):
    mixer = trained("samix")
    mixer(h, torch.tensor([0.3]), NEXT, SIZE)
    shared = mixer.share(h)
    assert mixer.norm.num_batches_tracked == 1
    mixer.draw(shared, torch.tensor([0.3]), NEXT, SIZE)
    assert mixer.norm.num_batches_tracked == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_mixer_computes_in_float32_under_autocast(kind, h):
    mixer = trained(kind)
    with torch.autocast("cpu", torch.bfloat16):
        mask = mixer(h.bfloat16(), torch.tensor([0.3]), NEXT, SIZE)
    assert mask.dtype == torch.float32
    assert torch.equal(mask, mixer(h.bfloat16().float(), torch.tensor([0.3]), NEXT, SIZE))
    double = mixer.double()(h.double(), torch.tensor([0.3]), NEXT, SIZE)
    assert double.dtype == torch.float64


def test_partners_can_come_from_other_features(h):
    mixer, others = trained("samix").eval(), h.flip(0)
    lam, own = torch.tensor([0.3]), mixer.share(h)
    mask = mixer.draw(own, lam, NEXT, SIZE, partner=mixer.share(others))
    joined = torch.cat([h, others])
    perm = torch.cat([NEXT + 3, NEXT])
    torch.testing.assert_close(mask, mixer(joined, lam, perm, SIZE)[:3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_mixer_divides_images_in_halves(kind, h):
    torch.manual_seed(0)
    mask = KINDS[kind]()(h, torch.tensor([0.2]), NEXT, SIZE)
    assert (mask - 0.5).abs().max() < 0.05


def test_layers_start_small_and_without_bias():
    torch.manual_seed(0)
    for kind in KINDS:
        for name, parameter in KINDS[kind]().named_parameters():
            if name.startswith("norm"):
                assert (parameter == (name == "norm.weight")).all()
            elif name.endswith("bias"):
                assert not parameter.any()
            else:
                assert 0.002 < parameter.std() < 0.03, (kind, name)


def test_dropout_is_drawn_from_the_generator_and_keeps_the_mean(h):
    mixer = trained("samix", dropout=0.5)
    lam, state = torch.tensor([0.3]), torch.get_rng_state()
    masks = [
        mixer(h, lam, NEXT, SIZE, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert torch.equal(torch.get_rng_state(), state)
    mixer.eval()
    whole = mixer(h, lam, NEXT, SIZE)
    mixer.dropout = 0.0
    assert torch.equal(whole, mixer(h, lam, NEXT, SIZE))
    logits = []
    mixer.train()
    for seed in range(300):
        mixer.dropout = 0.5
        drawn = mixer(h, lam, NEXT, (4, 3), generator=torch.Generator().manual_seed(seed))
        logits.append(drawn.logit().detach())
    mixer.dropout = 0.0
    plain = mixer(h, lam, NEXT, (4, 3)).logit()
    gap = (torch.stack(logits).mean(dim=0) - plain).abs().mean()
    assert gap < 0.15 * plain.abs().mean()


@pytest.mark.parametrize("shape", [(3, 6, 4, 3), (3, 8, 12), (8, 4, 3)])
def test_other_features_are_refused_with_the_shape_wanted(shape):
    with pytest.raises(ValueError, match=r"needs features \(B, 8, h, w\), got"):
        Mixer(8)(torch.zeros(shape), torch.ones(1), NEXT, SIZE)


def test_images_smaller_than_the_features_are_refused(h):
    with pytest.raises(ValueError, match=r"features \(4, 3\) are larger than the image \(4, 2\)"):
        Mixer(8)(h, torch.ones(1), NEXT, (4, 2))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"channels": 1}, "2 channels or more"),
        ({"channels": 8, "rescale": 11.0}, r"k must lie in \[0, 10\]"),
        ({"channels": 8, "rescale": -0.5}, r"k must lie in \[0, 10\]"),
        ({"channels": 8, "upsampling": "bicubic"}, "bilinear, nearest"),
        ({"channels": 8, "dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Mixer(**settings)
