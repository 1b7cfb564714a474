"""torchrun, which says in one line which process has ended all others."""

import logging
import signal
import socket
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == '__main__':
    # Whom it sends which signal is no news to the user.
    for name in ('agent.server.api', 'multiprocessing.api'):
        logging.getLogger(f'torch.distributed.elastic.{name}').setLevel(
            logging.CRITICAL
        )
    try:
        main()
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        # Status 1 comes with a message; a signal, such as that of a machine out of
        # memory, does not.
        if first.exitcode != 1:
            ended = f'status {first.exitcode}'
            if first.exitcode < 0:
                ended = signal.Signals(-first.exitcode).name
            if ended == 'SIGKILL':
                ended += ', which comes when the memory of the machine is used up'
            print(
                f'error: process {rank} on {socket.gethostname()} has ended with '
                f'{ended}, and the others were stopped. --resume '
                'goes on from the last checkpoint',
                file=sys.stderr,
            )
        sys.exit(1)
