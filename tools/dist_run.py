"""torchrun, which ends quietly when a process has told its own error."""

import logging
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == '__main__':
    # Whom it sends which signal is no news to the user.
    for name in ('agent.server.api', 'multiprocessing.api'):
        logging.getLogger(f'torch.distributed.elastic.{name}').setLevel(logging.ERROR)
    try:
        main()
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        failures = error.failures.values()
        # Status 1 comes with a message; a signal, such as that of a machine out of
        # memory, does not.
        if any(failure.exitcode != 1 for failure in failures):
            print(error, file=sys.stderr)
        sys.exit(1)
