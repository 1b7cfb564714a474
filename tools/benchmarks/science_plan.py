"""Which runs make up the comparison of losses."""

from collections.abc import Mapping, Sequence

from science_run import Run

NOISES = (0.0, 0.2, 0.4, 0.6)
MARGINS = (1.5, 2.5, 4.0)
# People whom no table shows, on whom settings are chosen.
CHOICE_SEED = 100

Settings = Sequence[dict]


def _four(type_: str, scale: str, published: dict, half: dict) -> Settings:
    """As published; with scales for few classes, also with half of the margin."""
    return (
        dict(type=type_, **published),
        dict(type=type_, **{**published, scale: 16.0}),
        dict(type=type_, **{**published, scale: 16.0, **half}),
        dict(type=type_, **{**published, scale: 8.0, **half}),
    )


def _sphereface2(margin_type: str, m: float, half: float) -> Settings:
    published = dict(
        margin_type=margin_type, lam=0.7, r=40.0, m=m, t=3.0, loss_weight=10.0
    )
    return _four('SphereFace2Loss', 'r', published, dict(m=half))


#: Of each loss some settings, the published one first: that of VGGFace2 and SFNet-20
#: where there is one, else that of the authors' larger runs. SphereFace-R v1 has none
#: with a constant scale: it has that of SphereFace. NormFace has no margin to halve.
LOSSES: Mapping[str, Settings] = {
    'NormFace': tuple(dict(type='NormFaceLoss', s=s) for s in (30.0, 16.0, 8.0)),
    'CosFace': _four('CosFaceLoss', 's', dict(s=30.0, m=0.35), dict(m=0.175)),
    'ArcFace': _four('ArcFaceLoss', 's', dict(s=30.0, m=0.5), dict(m=0.25)),
    'CurricularFace': _four(
        'CurricularFaceLoss', 's', dict(s=64.0, m=0.5), dict(m=0.25)
    ),
    'MagFace': _four(
        'MagFaceLoss', 's', dict(s=64.0, l_m=0.45, u_m=0.8), dict(l_m=0.225, u_m=0.4)
    ),
    'AdaFace': _four('AdaFaceLoss', 's', dict(s=64.0, m=0.4), dict(m=0.2)),
    'SphereFace': _four('SphereFaceLoss', 's', dict(s=30.0, m=1.5), dict(m=1.25)),
    'SphereFace+': _four('SphereFacePlusLoss', 's', dict(s=30.0, m=1.5), dict(m=1.25)),
    'SphereFace-R v1': _four(
        'SphereFaceRLoss', 's', dict(version='v1', s=30.0, m=1.5), dict(m=1.25)
    ),
    'SphereFace-R v2': _four(
        'SphereFaceRLoss',
        's',
        dict(version='v2', s=60.0, m=1.4, loss_weight=50 / 60),
        dict(m=1.2),
    ),
    'SphereFace2-C': _sphereface2('C', 0.4, 0.2),
    'SphereFace2-A': _sphereface2('A', 0.5, 0.25),
    'SphereFace2-M': _sphereface2('M', 1.7, 1.35),
    'SFace': tuple(
        dict(type='SFaceLoss', s=s, k=k, a=0.87, b=1.2)
        for s, k in ((64.0, 80.0), (16.0, 80.0), (16.0, 20.0), (8.0, 20.0))
    ),
}
#: Version, feature normalisation and detachment by name.
VARIANTS: Mapping[str, tuple[str, str, bool]] = {
    'v0 none, no detachment': ('v0', 'none', False),
    'v0 hard, no detachment': ('v0', 'hard', False),
    **{
        f'{version} {norm}': (version, norm, True)
        for version in ('v1', 'v2')
        for norm in ('none', 'hard', 'soft')
    },
}
UNTRAINED = 'untrained'


def choices(size: str, losses: Sequence[str]) -> dict[str, list[Run]]:
    """The runs that choose a setting for each loss."""
    return {
        loss: [
            Run('settings', f'{slug(loss)}_{i}', size, setting, seed=CHOICE_SEED)
            for i, setting in enumerate(LOSSES[loss])
        ]
        for loss in losses
    }


def low_scale(chosen: Mapping[str, dict]) -> dict[str, dict]:
    """The setting with the lowest scale, 8, of each loss that has been given another.

    Else it would not be told apart whether the loss or the scale bears wrong labels.
    """
    return {
        f'{loss}, scale 8': LOSSES[loss][-1]
        for loss in chosen
        if chosen[loss] != LOSSES[loss][-1]
    }


def noise_runs(
    size: str, chosen: Mapping[str, dict], seeds: Sequence[int]
) -> dict[tuple[str, float], list[Run]]:
    """One run for each loss, share of wrong labels and seed."""
    runs = {
        (loss, noise): [
            Run('noise', slug(loss), size, setting, noise=noise, seed=seed)
            for seed in seeds
        ]
        for loss, setting in chosen.items()
        for noise in NOISES
    }
    runs[UNTRAINED, 0.0] = [
        Run('noise', UNTRAINED, size, None, seed=seed) for seed in seeds
    ]
    return runs


def stability_runs(
    size: str, seeds: Sequence[int]
) -> dict[tuple[str, float], list[Run]]:
    """One run for each variant of SphereFace-R, margin and seed.

    Gradients are not clipped. The margin is annealed where the features are not
    normalised, or softly, as published.
    """
    return {
        (name, m): [
            Run(
                'stability',
                f'{slug(name)}_m{m:g}',
                size,
                dict(
                    type='SphereFaceRLoss',
                    version=version,
                    feature_norm=norm,
                    s=30.0,
                    m=m,
                    detach=detach,
                ),
                seed=seed,
                clip=None,
                annealed=norm != 'hard',
            )
            for seed in seeds
        ]
        for name, (version, norm, detach) in VARIANTS.items()
        for m in MARGINS
    }


def slug(name: str) -> str:
    """A name as a file has it."""
    return name.lower().replace('+', '_plus').replace(', ', '_').replace(' ', '_')
