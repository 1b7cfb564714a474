from .comparison import (
    Compared,
    compare,
    comparison_json,
    comparison_markdown,
    comparison_notes,
    comparison_table,
    comparison_text,
)
from .training import plot_verification, verification_table, write_verification_json
from .writing import Report, read_report, report_text, write_report

__all__ = [
    'Compared',
    'Report',
    'compare',
    'comparison_json',
    'comparison_markdown',
    'comparison_notes',
    'comparison_table',
    'comparison_text',
    'plot_verification',
    'read_report',
    'report_text',
    'verification_table',
    'write_report',
    'write_verification_json',
]
