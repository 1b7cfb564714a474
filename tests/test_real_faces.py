"""Training on photographs, where a folder of them is given."""

import pytest
from mmengine.config import Config
from runs import CONFIGS, train

from mmhyperface.engine.launch import count_classes


@pytest.mark.parametrize(
    'method',
    [
        'sphereface2',
        pytest.param('spherefacer', marks=pytest.mark.slow),
        pytest.param('sface', marks=pytest.mark.slow),
    ],
)
def test_real_faces_train_and_verify(real_faces, tmp_path, method):
    cfg = Config.fromfile(CONFIGS / f'{method}_facefolder.py')
    cfg.work_dir = str(tmp_path)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.num_workers = 0
        loader.dataset.data_root = real_faces
    cfg.merge_from_dict(
        {'train_cfg.max_iters': 40, 'train_cfg.val_interval': 40, 'param_scheduler': []}
    )
    count_classes(cfg)
    cfg.optim_wrapper.optimizer.lr = 0.02
    runner = train(cfg)
    train_set = runner.train_dataloader.dataset
    val_set = runner.val_dataloader.dataset
    assert not set(train_set.metainfo['classes']) & set(val_set.metainfo['classes'])
    (result,) = runner.val_evaluator.metrics[0].results_by_set.values()
    assert result.num_same == result.num_different > 0
    assert result.auc > 0.8
    history = runner.message_hub.get_scalar('train/cos_own').data[0]
    assert history[-5:].mean() > history[:5].mean() + 0.2
