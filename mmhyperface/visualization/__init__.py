from mmhyperface.utils.figures import require_picture, save_figure

from .characteristics import (
    Characteristics,
    characteristics_of,
    draw_characteristics,
    loss_of_config,
    loss_of_text,
)
from .hypersphere import Cloud, draw_hypersphere
from .logs import Log, draw_logs, keys_of, read_log
from .similarities import (
    CentreAngles,
    Separation,
    centre_angles,
    draw_similarities,
    separation,
)

__all__ = [
    'CentreAngles',
    'Characteristics',
    'Cloud',
    'Log',
    'Separation',
    'centre_angles',
    'characteristics_of',
    'draw_characteristics',
    'draw_hypersphere',
    'draw_logs',
    'draw_similarities',
    'keys_of',
    'loss_of_config',
    'loss_of_text',
    'read_log',
    'require_picture',
    'save_figure',
    'separation',
]
