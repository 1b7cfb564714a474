"""A training that is interrupted, or has no space: what is left, and what is said."""

import errno
import resource

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from runs import log_of, small_config, train
from test_training import weights

from mmhyperface.engine.hooks import checkpoint_hook
from mmhyperface.utils.errors import UserError, writing_to

LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)


@HOOKS.register_module()
class StopHook(Hook):
    """Stops the training after an iteration, or when it is to be saved.

    Args:
        at: The iteration, from 0.
        how: ``'after'`` it or ``'saving'`` it the user interrupts, or a library that
            makes another error of it (``'hidden'``); ``'full'``: files cannot be large
            any more.
    """

    def __init__(self, at, how):
        self.at, self.how = at, how

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.how == 'after' and runner.iter == self.at:
            raise KeyboardInterrupt

    def before_save_checkpoint(self, runner, checkpoint):
        if self.how == 'saving' and runner.iter == self.at:
            raise KeyboardInterrupt
        if self.how == 'hidden' and runner.iter == self.at:
            try:
                raise KeyboardInterrupt
            except:  # noqa: E722
                raise SyntaxError('Failed to format the config file')  # noqa: B904
        if self.how == 'full' and runner.iter == self.at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, LIMIT[1]))


def stopping(folder, at, how, **options):
    hooks = [dict(type='StopHook', at=at, how=how)]
    return small_config(folder, custom_hooks=hooks, **options)


@pytest.mark.parametrize('above', ['1GB', 0])
@pytest.mark.parametrize('how', ['saving', 'hidden'])
def test_an_interrupt_says_what_there_is_to_resume_from(tmp_path, above, how):
    options = {'centre_parts_above': above}
    with pytest.raises(KeyboardInterrupt, match='at iteration 1; no checkpoint was'):
        train(stopping(tmp_path, 1, 'after', **options))
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(stopping(tmp_path, 5, how, **options))
    saved = tmp_path / 'iter_3.pth'
    advice = f'the last checkpoint is {saved}: go on with --resume {saved}'
    assert str(stopped.value) == f'at iteration 5; {advice}'
    assert sorted(tmp_path.glob('*iter*')) == [saved]
    resumed = {**options, 'resume': True, 'load_from': str(saved)}
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(stopping(tmp_path, 4, 'after', **resumed))
    assert str(stopped.value) == f'at iteration 4; {advice}'
    # The last checkpoint of another training is not this one's.
    with pytest.raises(KeyboardInterrupt, match='at iteration 1; no checkpoint was'):
        train(stopping(tmp_path, 1, 'after', **options))


@pytest.mark.parametrize('above', ['1GB', 0])
def test_a_full_disk_keeps_what_was_saved(tmp_path, above):
    """As a full disk the system's limit of the size of a file."""
    options = {'centre_parts_above': above}
    try:
        with pytest.raises(UserError) as refused:
            train(stopping(tmp_path, 5, 'full', **options))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, LIMIT)
    message = str(refused.value)
    assert f'{tmp_path / "iter_6.pth"} cannot be written: File too large' in message
    assert 'KB needed' in message
    saved = tmp_path / 'iter_3.pth'
    assert sorted(tmp_path.glob('*iter*')) == [saved]
    assert weights(saved / 'model.pth' if above == 0 else saved)['meta']['iter'] == 3


def test_too_little_space_is_seen_before_training(tmp_path, monkeypatch):
    runner = train(small_config(tmp_path / 'room'))
    size = (tmp_path / 'room' / 'iter_6.pth').stat().st_size
    # A file has names and lists besides.
    assert 0.3 * size < runner.checkpoint_bytes() < size
    free = 0
    monkeypatch.setattr(checkpoint_hook, 'free_space', lambda path: free)
    with pytest.raises(UserError, match=r'0 bytes free, and 2 checkpoints of about'):
        train(small_config(tmp_path / 'none'))
    assert not list((tmp_path / 'none').glob('*.pth'))
    free = int(1.5 * runner.checkpoint_bytes())
    for name, kept in (('many', 9), ('enough', -1)):
        options = {'default_hooks.checkpoint.max_keep_ckpts': kept}
        if name == 'enough':
            options['default_hooks.checkpoint.interval'] = 6
        train(small_config(tmp_path / name, **options))
        log = log_of(tmp_path / name)
        assert ('default_hooks.checkpoint.out_dir=FOLDER' in log) == (name == 'many')


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (OSError(errno.ENOSPC, 'No space left', 'a.log'), 'a.log cannot .*free'),
        (OSError(errno.EROFS, 'Read-only'), 'work cannot be written: Read-only'),
        (OSError(errno.ENOENT, 'No such file', 'a.log'), None),
    ],
)
def test_what_could_not_be_written_is_named(error, message):
    """Without a name of its own it is the folder; other errors stay as they are."""
    kind = UserError if message else FileNotFoundError
    with pytest.raises(kind, match=message), writing_to('work'):
        raise error
