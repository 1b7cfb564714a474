"""The page: three tabs over :mod:`answers`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import markup
from answers import OWN, Answers

from mmhyperface.utils.optional_imports import require

TITLE = 'Faces, compared'
COMPARE = 'Choose two pictures to see how similar they are.'
IDENTIFY = 'Choose a picture to see who it is.'


def build_page(
    answers: Answers, notes: Sequence[str], pairs: Sequence[Sequence[str]] = ()
) -> Any:
    """The page with its three tabs.

    Args:
        answers: Of the network.
        notes: Lines below the title.
        pairs: Paths of two pictures each, to try with.

    Returns:
        Gradio's ``Blocks``, to be launched with :func:`look.theme` and ``look.CSS``.

    Raises:
        UserError: If gradio is not installed.
    """
    gr = require('gradio', 'demo')
    # Uploads go when they are an hour old, as is looked at every ten minutes.
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.HTML(markup.head(TITLE, notes))
        with gr.Tabs():
            with gr.Tab('Compare', id='compare'):
                _compare(gr, answers, pairs)
            with gr.Tab('Identify', id='identify'):
                _identify(gr, page, answers)
            with gr.Tab('Model', id='model'):
                gr.HTML(answers.model(), elem_id='model')
    return page


def _compare(gr: Any, answers: Answers, pairs: Sequence[Sequence[str]]) -> None:
    with gr.Row():
        first = _picture(gr, 'Picture 1', 'first')
        second = _picture(gr, 'Picture 2', 'second')
    choice, own = _decision(gr, answers, 'compare')
    result = gr.HTML(markup.hint(COMPARE), elem_id='comparison')
    if pairs:
        gr.Examples(
            [list(pair) for pair in pairs],
            [first, second],
            label='Or try drawn faces: one person, another one, two people',
            api_visibility='private',
        )
    # Whatever changes, the answer on the page is the one to what is shown.
    compare = _of_sent(gr, answers.compare)
    _when_changed(gr, [first, second, choice], own, compare, [first, second], result)


def _identify(gr: Any, page: Any, answers: Answers) -> None:
    with gr.Row():
        with gr.Column(min_width=280):
            person = gr.Textbox(label='Name', placeholder='Ada', elem_id='person')
            files = gr.File(
                label='Pictures of this person',
                file_count='multiple',
                type='filepath',
                elem_id='files',
                height=180,
            )
            enrol = gr.Button('Enrol', variant='primary', elem_id='enrol')
            message = gr.HTML(elem_id='told')
            people = gr.HTML(answers.people, elem_id='people')
            with gr.Row(elem_id='forget', visible=False) as forget:
                whom = gr.Dropdown([], label='Remove', elem_id='whom', min_width=140)
                remove = gr.Button(
                    'Remove', elem_id='remove', min_width=90, scale=0, size='lg'
                )
        with gr.Column(min_width=280, scale=2):
            picture = _picture(gr, 'Who is this?', 'unknown')
            choice, own = _decision(gr, answers, 'identify')
            result = gr.HTML(markup.hint(IDENTIFY), elem_id='identification')

    def known() -> tuple[str, Any, Any]:
        names = answers.names()
        choices = gr.update(choices=names, value=None)
        return answers.people(), choices, gr.update(visible=bool(names))

    shown = [people, whom, forget]

    private = dict(api_visibility='private', show_progress='hidden')
    identify = _of_sent(gr, answers.identify)
    again = dict(inputs=[picture, choice, own], outputs=result, preprocess=False)
    page.load(known, outputs=shown, **private)

    def enrolled(name: str, paths: list[str]) -> tuple[str, Any, Any]:
        text, is_done = answers.enrol(name, paths)
        return (text, '', None) if is_done else (text, gr.skip(), gr.skip())

    for button, act, inputs, outputs in (
        (enrol, enrolled, [person, files], [message, person, files]),
        (remove, answers.remove, [whom], [message]),
    ):
        button.click(act, inputs, outputs, api_visibility='private').then(
            known, outputs=shown, **private
        ).then(identify, **again, **private)
    _when_changed(gr, [picture, choice], own, identify, [picture], result)


def _picture(gr: Any, label: str, name: str) -> Any:
    return gr.Image(
        label=label,
        sources=['upload', 'webcam', 'clipboard'],
        elem_id=name,
        height=260,
        min_width=140,
        buttons=[],
    )


def _decision(gr: Any, answers: Answers, name: str) -> tuple[Any, Any]:
    """How to decide: thresholds that are known, or one's own."""
    with gr.Row():
        choice = gr.Dropdown(
            answers.choices(),
            value=answers.first_choice(),
            label='Decide by',
            elem_id=f'{name}-choice',
            min_width=260,
            filterable=False,
        )
        own = gr.Slider(
            -1,
            1,
            value=answers.first_threshold(),
            step=0.001,
            label='Your threshold',
            visible=answers.first_choice() == OWN,
            elem_id=f'{name}-own',
            min_width=260,
        )
    choice.input(
        lambda value: gr.update(visible=value == OWN),
        choice,
        own,
        api_visibility='private',
        show_progress='hidden',
    )
    return choice, own


def _when_changed(
    gr: Any, watched: list, own: Any, answer: Any, pictures: list, result: Any
) -> None:
    choice = watched[-1]
    gr.on(
        [item.change for item in [*watched, own]],
        answer,
        [*pictures, choice, own],
        result,
        trigger_mode='always_last',
        preprocess=False,
        api_visibility='private',
        show_progress='minimal',
    )


def _of_sent(gr: Any, answer: Callable[..., str]) -> Callable[..., str]:
    """An answer to pictures as they were sent.

    Gradio's own preprocessing would decode them, turn them and write them anew.
    """

    def given(*values: Any) -> str:
        return answer(
            *(_sent(gr, x['path']) if isinstance(x, dict) else x for x in values)
        )

    return given


def _sent(gr: Any, path: str) -> str:
    """The path of a file that was sent to this server.

    Raises:
        PermissionError: If it is another file of this machine. Gradio lets some
            requests through that no page of it sends.
    """
    folder = Path(gr.utils.get_upload_folder()).resolve()
    if folder not in Path(path).resolve().parents:
        raise PermissionError(f'{path} was not sent to the page')
    return path
