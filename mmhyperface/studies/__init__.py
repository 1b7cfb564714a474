"""Studies: the runs of a grid of configs, and the tables of what they show."""

from .grid import Run, Study, read_study
from .runs import Outcome, outcome_of, perform
from .tables import write_tables

__all__ = [
    'Outcome',
    'Run',
    'Study',
    'outcome_of',
    'perform',
    'read_study',
    'write_tables',
]
