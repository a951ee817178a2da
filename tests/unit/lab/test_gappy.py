import torch

from tether_lab.lab.lab import Lab
from tether_lab.worlds import modality_gap_clip


def test_the_gappy_start_has_a_fixed_scale_and_a_further_stage_keeps_it_and_leaves_the_start_alone():
    with Lab(0, smoke=True) as lab:
        start = modality_gap_clip.gappy_clip(lab)
        before = {name: value.clone() for name, value in start.state_dict().items()}
        after = modality_gap_clip.tuned(lab, start, steps=2, settings={"optimizer": {"name": "adamw", "lr": 1e-3}})
        seen = modality_gap_clip.look(after, modality_gap_clip.held_out(lab))
    assert float(start.logit_scale.detach()) == torch.tensor(modality_gap_clip.SCALE).log().exp()
    assert torch.equal(after.log_logit_scale, start.log_logit_scale)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    assert not torch.equal(
        after.visual.state_dict()[next(iter(after.visual.state_dict()))], next(iter(start.visual.state_dict().values()))
    )
    assert seen.centroid_distance > 0.3  # cones of random towers, already at the start
    assert -1 <= seen.paired_cosine <= 1


def test_taking_the_means_of_other_pairs_off_closes_most_of_the_gap():
    with Lab(0, smoke=True) as lab:
        start, pairs = modality_gap_clip.untrained(lab), modality_gap_clip.held_out(lab)
        found = modality_gap_clip.centred(lab, start, pairs)
    assert found["gap_centred"] < modality_gap_clip.look(start, pairs).centroid_distance / 2
    assert 0 <= found["recall_centred"] <= 1
