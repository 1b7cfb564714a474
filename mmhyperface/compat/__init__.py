"""What today's mmengine lacks on today's torch, setuptools and machines.

Each part is inert where it is not needed, and can go when mmengine catches up.

| part           | upstream symptom                                              |
|----------------|---------------------------------------------------------------|
| `packages`     | `_base_ = 'package::...'` needs pkg_resources, which setuptools |
|                | 82 dropped, and finds neither editable installs nor configs    |
|                | that lie in no folder                                         |
| `checkpoints`  | resuming dies: torch >= 2.6 loads weights only, and mmengine's |
|                | checkpoints hold HistoryBuffer and numpy scalars              |
"""
