"""Small results of every protocol, from random features."""

import numpy as np

from mmhyperface.evaluation.functional import (
    identify,
    kfold_accuracy,
    megaface_identification,
    score_pairs,
    stratified_folds,
)
from mmhyperface.evaluation.protocols import VerificationResult


def faces(strength, people=20, each=6, seed=0, dim=16):
    """Features [N, D] of people whose centres are the same for all seeds, and who."""
    centres = np.random.default_rng(99).standard_normal((people, dim))
    who = np.repeat(np.arange(people), each)
    noise = np.random.default_rng(seed).standard_normal((len(who), dim))
    return (strength * centres[who] + noise).astype(np.float32), who


def verification(strength=1.0, seed=0, known=True, accuracy=True, people=20):
    """All pairs; the lowest FAR is not resolvable."""
    features, who = faces(strength, people, seed=seed)
    first, second = np.triu_indices(len(who), 1)
    same = who[first] == who[second]
    scores = score_pairs(features, first, second)
    known_folds = {}
    if accuracy:
        folds = stratified_folds(same, 5)
        mean, std, _, thresholds = kfold_accuracy(scores, same, folds)
        known_folds = dict(
            accuracy=mean, accuracy_std=std, accuracy_thresholds=thresholds, folds=folds
        )
    return VerificationResult.of_pairs(
        scores,
        same,
        [1e-6, 1e-3, 1e-2],
        'exact',
        'cosine; in words',
        identity_a=who[first] if known else None,
        identity_b=who[second] if known else None,
        counts={'images': len(who), 'pairs': len(same)},
        **known_folds,
    )


def identification(strength=1.0, seed=0, merged=False, people=20):
    """The first image of each person is enrolled, in one of two galleries."""
    features, who = faces(strength, people, seed=seed)
    enrolled = np.arange(len(who)) % 6 == 0
    galleries = [
        (features[enrolled & (who % 2 == part)], who[enrolled & (who % 2 == part)])
        for part in (0, 1)
    ]
    return identify(
        features[~enrolled],
        who[~enrolled],
        galleries,
        fpirs=(0.001, 0.1),
        merged=merged,
        names=['G1', 'G2'],
    )


def megaface(strength=1.0, seed=0):
    """300 distractors, of which three are noisy."""
    features, who = faces(strength, people=10, each=4, seed=seed)
    distractors = np.random.default_rng(5).standard_normal((300, 16))
    noisy = np.zeros(300, np.bool_)
    noisy[[5, 50, 250]] = True
    return megaface_identification(
        features,
        who,
        distractors.astype(np.float32),
        counts=(10, 100, 300),
        fars=(1e-6, 1e-3),
        noisy_distractors=noisy,
    )
