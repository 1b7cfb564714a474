"""Pictures of losses, logs, similarities and embeddings."""

from mmhyperface.extras import importing

_PLACES = {
    'CentreAngles': '.similarities',
    'Characteristics': '.characteristics',
    'Cloud': '.hypersphere',
    'Log': '.logs',
    'Separation': '.similarities',
    'centre_angles': '.similarities',
    'characteristics_of': '.characteristics',
    'draw_characteristics': '.characteristics',
    'draw_hypersphere': '.hypersphere',
    'draw_logs': '.logs',
    'draw_similarities': '.similarities',
    'keys_of': '.logs',
    'loss_of_config': '.characteristics',
    'loss_of_text': '.characteristics',
    'read_log': '.logs',
    'require_picture': '.figures',
    'save_figure': '.figures',
    'separation': '.similarities',
}

__all__ = list(_PLACES)

__getattr__ = importing(__name__, _PLACES)
