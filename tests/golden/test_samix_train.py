import pytest
import torch
import torch.nn.functional as F
from official_mixers import FLOAT, LAYER, load, official_mixer, one_step, tiny_net

import mixbench.functional as mf

GOLDEN = "samix_train"
NOT_COMPARED: dict[str, str] = {}
AUTO = 0.1  # masks nearer to their weight than this are not adjusted without labels


@pytest.mark.cases("full1*")
def test_a_weight_near_the_ends_mixes_without_the_mixer_and_still_trains_it(case):
    assert min(float(case["lam_bb"]), 1 - float(case["lam_bb"])) <= float(case["lam_margin"])
    one_step(case)


@pytest.mark.cases("full2*")
def test_masks_adjusted_to_the_wrong_weight_are_those_of_the_authors(case):
    one_step(case, official_bugs=True)


def encoder(case, side: str):
    """Network and linear projector of one side, as a map from images to unit vectors."""
    net = tiny_net(case, f"encoder_{side}", len(case[f"w_neck_{side}.fc.bias"]))
    load(net.head, {part: case[f"w_neck_{side}.{part}"] for part in ("fc.weight", "fc.bias")})
    return net, lambda x: F.normalize(net(x), dim=1)


@torch.no_grad()
@pytest.mark.cases("ssl*")
def test_views_without_labels_are_mixed_and_matched_as_the_authors_do(case):
    views = {"q": case["x_q"], "k": case["x_k"]}
    _, trained = encoder(case, "q")
    teacher, averaged = encoder(case, "k")
    # The constants of the file name a rescaled weight, but its masks are of one left as it is.
    mixer, _ = official_mixer(case, "w_mix_block.")
    queue, temperature = case["queue"], float(case["temperature"])
    keys, shared = {}, {}
    for side, x in views.items():
        h = teacher.forward_stages(x, stop=LAYER)
        keys[side], shared[side] = averaged(x), mixer.share(h)
        case.compare(f"expect_feat_{side}", h, FLOAT)
        case.compare(f"expect_key_{side}", keys[side], FLOAT)
    loss = mf.info_nce(trained(views["q"]), keys["k"], queue, temperature).mean()
    case.compare("expect_loss_moco", loss, FLOAT)

    def mixed(mask, perm):
        found = mf.maskmix(
            torch.cat([views["q"], views["k"]]),
            torch.eye(2 * len(mask)),
            mask=torch.cat([mask, mask]),
            lam=torch.ones(1),
            perm=torch.cat([perm + len(mask), perm]),
        )
        return found.x[: len(mask)]

    lam, perm, size = case["lam_bb"].float()[None], case["perm_bb"], views["q"].shape[2:]
    mask = mixer.draw(shared["q"], lam, perm, size, partner=shared["k"])
    images = mixed(mf.adjust_mask(mask, lam, within=AUTO), perm)
    case.compare("expect_mixed_bb", images, FLOAT)
    pair = {"first": keys["k"], "second": keys["q"][perm], "lam": lam, "temperature": temperature}
    loss = mf.mixed_info_nce(trained(images), queue=queue, **pair)
    case.compare("expect_loss_bb", loss, FLOAT)

    lam, twice = case["lam_mb"].float()[None], perm[case["perm_mb"]]  # an official bug
    mask = mixer.draw(shared["q"], lam, twice, size, partner=shared["k"])
    images, perm = mixed(mask, case["perm_mb"]), case["perm_mb"]
    case.compare("expect_mixed_mb", images, FLOAT)
    pair |= {"second": keys["q"][perm], "lam": lam}
    losses = {
        "infoNCE": mf.mixed_info_nce(averaged(images), queue=queue, **pair),
        "BCE": mf.two_way_nce(averaged(images), **pair),
        "None": torch.zeros(()),
    }
    main, other = (str(case.arrays[f"{part}_mb_loss"]) for part in ("main", "auxi"))
    loss = losses[main] + float(case["auxi_weight"]) * losses[other]
    case.compare("expect_loss_mb", loss, FLOAT)
    case.compare("expect_mask_loss", mf.mask_loss(mask, lam), FLOAT)


def test_every_recorded_case_is_compared(untested_cases):
    assert untested_cases == []
