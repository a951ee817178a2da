"""Claims of the papers once more, on real photographs and real encoders.

Command:  python -m benchmarks.real_photos FLICKR8K CIFAR10_TRAIN CIFAR10_TEST [--rows SLUG ...] [--out FILE]

The data are three Parquet files of the Hugging Face convention: ``image`` (a struct of ``bytes`` and ``path``) with
``captions``, five for each photograph, in the first (measured: 800 photographs of Flickr8k), and with ``label``, the
name of a class, in the others (measured: 1,600 and 600 photographs of CIFAR-10). The encoders are ``starter``'s,
EfficientNet-Lite2 and all-MiniLM-L6-v2, frozen: each photograph and each text passes them once, and the parts of the
papers act on the rows, mostly by training maps or a head on them. A seed draws another split, weights and batches.

Each row has a claim of its own, with the metric, direction, margin and baseline of the paper's card where they make
sense, and says what differs. The claims were committed before their seeds were measured; nothing was chosen by the
results. Seeds 0 to 4 are measured, seed 100 was for trying whether a row runs. The verdicts are computed as for the
cards and stand in reproduction/results/real-photos.json, and from there on the papers' pages.

Cost: some 20 CPU minutes for all rows, one more for photographs and texts that are not in the feature cache.
"""
