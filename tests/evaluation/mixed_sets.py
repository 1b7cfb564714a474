"""One test of all kinds of test sets, and embeddings of its images."""

import numpy as np
import torch

from mmhyperface.datasets.template_sets import TemplateProtocols

DIM = 24
PAIRS, TEMPLATES, PROBES, DISTRACTORS = 61, 83, 18, 37
SIZE = PAIRS + TEMPLATES + PROBES + DISTRACTORS
METRICS = [
    {'type': 'mmhyperface.FaceVerification', 'fars': (1e-3, 0.02, 0.1), 'folds': 4},
    {'type': 'mmhyperface.TemplateVerification', 'fars': (1e-3, 0.02, 0.1)},
    {'type': 'mmhyperface.TemplateIdentification', 'ranks': (1, 2)},
    {'type': 'mmhyperface.MegaFaceIdentification', 'ranks': (1, 3), 'fars': (0.01,)},
]


def protocol(**parts):
    return TemplateProtocols(**parts)


def pair_set():
    generator = np.random.default_rng(0)
    person = np.arange(PAIRS) // 2
    a, b = generator.integers(0, PAIRS, (2, 143))
    b[::2] = np.minimum(a[::2] ^ 1, PAIRS - 1)
    return {
        'kind': 'pairs',
        'offset': 0,
        'num_images': PAIRS,
        'index_a': a,
        'index_b': b,
        'same': person[a] == person[b],
        'folds': None,
        'identities': person,
    }


def template_set():
    """24 templates of 6 people: one of each in a gallery, 3 of each are probes."""
    generator = np.random.default_rng(1)
    of_image = np.concatenate(
        [np.arange(24), generator.integers(0, 24, TEMPLATES - 24)]
    )
    subjects = 50 + 3 * (np.arange(24) % 6)
    rows = np.arange(24)
    a, b = np.repeat(rows[:6], 18), np.tile(rows[6:], 6)
    return {
        'kind': 'templates',
        'offset': PAIRS,
        'num_images': TEMPLATES,
        'template_ids': 7 * generator.permutation(of_image) + 5,
        'media_ids': generator.integers(0, 9, TEMPLATES),
        'detector_scores': generator.uniform(0.2, 1, TEMPLATES).astype(np.float32),
        'protocol': protocol(
            subjects=subjects,
            pairs=(
                a.astype(np.int32),
                b.astype(np.int32),
                subjects[a] == subjects[b],
            ),
            probes=(rows[6:], subjects[6:]),
            galleries={
                'G1': (rows[:6:2], subjects[:6:2]),
                'G2': (rows[1:6:2], subjects[1:6:2]),
            },
        ),
    }


def megaface_set():
    subjects = np.concatenate([np.arange(PROBES) // 3, np.full(DISTRACTORS, -1)])
    return {
        'kind': 'megaface',
        'offset': PAIRS + TEMPLATES,
        'num_images': PROBES + DISTRACTORS,
        'subjects': subjects,
        'noisy': np.isin(np.arange(len(subjects)), (4, 20, 21)),
    }


def mixed_meta():
    return {
        'test_sets': {
            'lfw': pair_set(),
            'ijb': template_set(),
            'mega': megaface_set(),
        }
    }


def embeddings(noise=9.0):
    """float32 [SIZE, DIM]; images of one person are alike, in each set."""
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(100, DIM, generator=generator)
    templates = template_set()
    of_image = np.concatenate(
        [
            np.arange(PAIRS) // 2,
            40 + (templates['template_ids'] - 5) // 7 % 6,
            50 + np.arange(PROBES) // 3,
            57 + np.arange(DISTRACTORS),
        ]
    )
    own = torch.randn(SIZE, DIM, generator=generator)
    return 7 * people[torch.from_numpy(of_image)] + noise * own


def samples(rows, numbers=range(SIZE)):
    return [{'sample_idx': i, 'embedding': rows[i]} for i in numbers]


def feed(evaluator, numbers=range(SIZE), rows=None, batch=7):
    """Lets an evaluator, or a metric, process samples in batches."""
    given = samples(embeddings() if rows is None else rows, numbers)
    for start in range(0, len(given), batch):
        part = given[start : start + batch]
        if hasattr(evaluator, 'metrics'):
            evaluator.process(part)
        else:
            evaluator.process(None, part)


def cosine(a, b):
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return a @ b / np.sqrt((a @ a) * (b @ b))


def pooled(rows, test_set, norm='keep', detector_scores=True, media='mean'):
    """Templates [T][D], in float64."""
    scores = test_set['detector_scores'].astype(float) if detector_scores else None
    ids = test_set['template_ids'], test_set['media_ids']
    return pool_by_loop(rows, *ids, scores, norm=norm, media=media)[1]


def pool_by_loop(
    features, template, media_ids, scores, mirrored=None, norm='keep', flip='sum',
    media='mean',
):  # fmt: skip
    """Ids [T] and unit templates [T, D] as the protocol has them, image by image."""
    ids, templates = sorted(set(template.tolist())), []
    for wanted in ids:
        of_medium = {}
        for i in np.flatnonzero(template == wanted):
            image = np.array(features[i], np.float64)
            if mirrored is not None and flip == 'sum':
                image = image + mirrored[i]
            elif mirrored is not None and flip == 'concat':
                image = np.concatenate([image, mirrored[i]])
            if norm == 'unit':
                image = image / np.sqrt(sum(x * x for x in image))
            if scores is not None:
                image = image * scores[i]
            key = media_ids[i] if media == 'mean' else i
            of_medium.setdefault(key, []).append(image)
        total = sum(sum(images) / len(images) for images in of_medium.values())
        templates.append(total / np.sqrt((total * total).sum()))
    return np.array(ids), np.array(templates)
