"""GC-CLIP: find the object for each likely class, and let crops around it say which class it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from tether.methods.gc_clip.guided_crops import GuidedCrops
    from tether_lab.lab.lab import Lab
    from tether_lab.worlds.small_things import LoneThings

IMAGES, CANDIDATES, CROPS = 500, 5, 8

CARD = Card.of(
    "gc-clip",
    claim=Claim(
        says="On small things, crops around where the model's own heat map finds each of the five likely classes name "
        "more things right than as many crops without guidance do, or the whole image.",
        metric="things of 2 to 4 % of the area named right, percentage points",
        margin=2.0,
        baseline="the best on each seed of the whole image, 40 crops from its middle half outwards, and 8 crops "
        "around each of five random boxes",
        scale=f"a tiny CLIP of 32 px and 700 steps; {IMAGES} scenes of 128 px with one small thing on a ground "
        "with a flaw, 16 classes of a texture and a colour; the same number of large things",
        equal="model, images, texts, candidates and up to 41 forwards an image; true boxes, the same for all "
        "classes, take 9",
        conditions=(
            Condition(
                says="Small things: it is 2 points above the whole image.",
                than="small_plain",
                least=2.0,
            ),
            Condition(
                says="Small things: crops around the true box are 5 points above the whole image.",
                ours="small_oracle",
                than="small_plain",
                least=5.0,
            ),
            Condition(
                says="Small things: crops around random boxes are at most 1 point above the whole image.",
                ours="small_random",
                than="small_plain",
                better="lower",
                least=-1.0,
            ),
            Condition(
                says="Large things: the heat map is at most 2 points below the whole image.",
                ours="large_heat_map",
                than="large_plain",
                least=-2.0,
            ),
            Condition(
                says="Large things: nor is it more than 2 points above.",
                ours="large_heat_map",
                than="large_plain",
                better="lower",
                least=-2.0,
            ),
            Condition(
                says="Large things: crops around the true box are at most 2 points below the whole image.",
                ours="large_oracle",
                than="large_plain",
                least=-2.0,
            ),
            Condition(
                says="Large things: nor are they more than 2 points above.",
                ours="large_oracle",
                than="large_plain",
                better="lower",
                least=-2.0,
            ),
        ),
    ),
    differences=(
        "A tiny CLIP and drawn scenes stand in for OpenAI's models and ImageNet, and its own heat map (MaskCLIP) for "
        "the detector OWL-ViT.",
        "Classes are a texture and a colour, with things of any shape, since a CLIP of this size and budget learnt no "
        "shapes; the text of a class is the mean over five shapes.",
        "No code of the paper was found: five candidates and eight margins are from memory.",
        "Crops are resized directly, so that their aspect changes.",
        "Boxes of small things have 1 to 4 % of the area, 2.7 on the mean; those of large ones 22 to 64 %, 43 on the "
        "mean, and nearly four in ten of them less than 40.",
    ),
    tried={
        (
            "classes of a colour and a shape, five to seven shapes, six grounds or eight, up to three flaws; CLIPs "
            "with patches of 4 and 8 px, 700 to 1,500 steps, on one other seed. Changed since the CLIP learnt colours "
            "alone"
        ): (
            "Shapes were named at chance at every size in five of six runs, and of the large in 26 to 32 % at "
            "most in the sixth, where chance of a class with its colour known is 20 %. Of 200 small things the whole "
            "image had 21.0 % right, the heat map 21.5, the middle 27.5, random boxes 21.0, true boxes 26.0."
        ),
        (
            "textures and colours, patches of 8 px and 4, large things first or not, on one other seed: with large "
            "things first and patches of 4 px small textures were told best, 38 % against 25 by chance, and that was "
            "taken"
        ): "No way of cropping was tried on them.",
        (
            "this bed with 300 images of a size on one other seed, and three ways to take margins: evenly (taken, "
            "the paper's), drawn, one of 0.2"
        ): (
            "Small things: the whole image 29.0 % right, the heat map 56.0, 52.3 and 62.7, the middle 40.7, "
            "41.3 and 36.7, random boxes 43.3, 44.0 and 38.7, true boxes 69.7, 58.7 and 73.3. Large ones: 91.3, the "
            "heat map 94.0, true boxes 92.0. So random boxes were of use here already; the condition is the paper's."
        ),
        "this bed with 300 images of a size on a second seed": (
            "Small things: the whole image 27.7 % right, the heat map 48.0, the middle 38.3, random boxes "
            "38.7, true boxes 63.7. Large ones: 94.0, the heat map 87.3, true boxes 94.3."
        ),
        (
            "after the stored run: 500 small things of a further draw of seed 0, 41 forwards an image "
            "(`benchmarks/parts.py`)"
        ): (
            "The heat map had 53.6 % right, 62.0 with one crop a box and 6 forwards, and as many crops "
            "anywhere, of which each is matched softly to the sentences of all classes, 53.4. All crops of "
            "the claim's baselines give means."
        ),
        "after the stored run: 100 things of a size on each of seeds 0 to 2, one crop a box in place of eight": (
            "Small things: the heat map 46, 49 and 39 % right, with one crop of margin 0.2 57, 57 and 42, of "
            "margin 0.5 38, 52 and 41. Large ones: the whole image 90, 90 and 79, the heat map 93, 86 and 78, with one "
            "crop of margin 0.2 79, 75 and 57, of margin 0.5 92, 85 and 79."
        ),
    },
    minutes=6.0,
)


def reproduce(lab: Lab) -> Trial:
    """One seed: small and large things by the whole image and by crops of four kinds."""
    from tether.methods.gc_clip.guided_crops import candidate_classes
    from tether_lab.worlds import small_things as bed

    model, notes = bed.small_things_clip(lab), dict[str, float]()

    def named(things: LoneThings, head: GuidedCrops, *, boxes: list[Tensor] | None = None) -> float:
        return things.right(head.prepare(model, bed.CLASSES).predict(things.images, boxes=boxes).cosine)

    for size, units in (("small", bed.SMALL), ("large", bed.LARGE)):
        things = bed.lone_things(lab, size, count=lab.steps(IMAGES, 4), units=units)
        whole = bed.plain(model, things)
        among = candidate_classes(whole, k=CANDIDATES) == things.labels[:, None]
        notes |= {
            f"{size}_area": things.area,
            f"{size}_plain": things.right(whole),
            f"{size}_ceiling": 100 * float(among.any(1).double().mean()),
            f"{size}_heat_map": named(things, _head("heat_map")),
            f"{size}_oracle": named(things, _head("whole"), boxes=list(things.boxes)),
        }
        if size == "small":
            notes["small_center"] = named(things, _head("center", n=CANDIDATES * CROPS))
            notes["small_random"] = named(things, _head("random", seed=lab.seed))
    best = max(notes[f"small_{arm}"] for arm in ("plain", "center", "random"))
    return Trial(best, notes["small_heat_map"], notes)


def _head(propose: str, *, n: int = CROPS, seed: int = 0) -> GuidedCrops:
    from tether.methods.gc_clip.guided_crops import GuidedCrops
    from tether_lab.worlds.small_things import TEMPLATES_OF_CLASS

    return GuidedCrops(propose=propose, k=CANDIDATES, n=n, templates=TEMPLATES_OF_CLASS, seed=seed, batch_size=250)
