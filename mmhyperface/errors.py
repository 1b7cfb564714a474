"""The one exception for mistakes in a user's config, command or files."""


class UserError(ValueError):
    """Something the user can mend: says what is wrong, where, and what to do.

    The command line tools print the message alone, without a traceback.
    """

    @property
    def brief(self) -> str:
        """The message without the traceback a DataLoader worker wraps it in.

        (Not named ``message``: torch would rebuild the exception from that.)
        """
        return str(self).rpartition(f'{type(self).__name__}: ')[2].strip()
