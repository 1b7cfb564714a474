# SFace (arXiv 2205.12010) and baselines in its three settings: IR-50 on CASIA-WebFace
# (ArcFace by the authors' own command), ResNet-50 on VGGFace2, ResNet-100 on MS1MV2.
_base_ = '../_base_/studies/losses.py'
title = 'SFace beside ArcFace and CosFace'
bases = dict(
    faces='../sface_faces.py',
    casia='../sface_ir50_casia.py',
    vggface2='../sface_r50_vggface2.py',
    ms1m='../sface_r100_ms1m.py',
)
axes = dict(
    loss={
        'SFace': {},
        **{
            name: dict(
                faces=_base_.for_few[name],
                casia=dict(config=f'../{name.lower()}_ir50_casia.py'),
                vggface2=dict(config=f'../{name.lower()}_r50_vggface2.py'),
                ms1m=dict(config=f'../{name.lower()}_r100_ms1m_341k.py'),
            )
            for name in ('ArcFace', 'CosFace')
        },
    }
)
_own = ['lfw', 'cfp_fp', 'agedb_30', 'calfw', 'cplfw']
_figures = [f'{name}.accuracy' for name in _own] + ['ijbc.tar@far=1e-04']
table = dict(
    rows='loss',
    figures=dict(
        faces=['lfw.accuracy', 'lfw.auc'],
        casia=_figures,
        vggface2=_figures,
        ms1m=_figures,
    ),
)
_more = ['calfw', 'cplfw', 'ijbc']
test_sets = dict(faces=[], casia=_more, vggface2=_more, ms1m=_more)
